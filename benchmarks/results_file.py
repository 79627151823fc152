"""Where a benchmark's rows go: benchmarks/results/NAME.json, with versions and machine."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from toolkit.bundle import versions
from toolkit.files import write_atomic

RESULTS = Path(__file__).parent / "results"


def write(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write `rows` as the result of the benchmark `name`."""
    content = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{processor()}, {psutil.cpu_count()} cores",
        "versions": versions(),
        "rows": list(rows),
    }
    write_atomic(RESULTS / f"{name}.json", json.dumps(content, indent=1) + "\n")


def processor() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
