"""Where a benchmark's rows go: benchmarks/results/NAME.json, with versions and machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from toolkit.bundle import versions
from toolkit.files import write_atomic
from toolkit.machine import processor

RESULTS = Path(__file__).parent / "results"

__all__ = ["processor", "read", "update", "write"]


def update(name: str, key: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write `rows` into the result of the benchmark `name`, each in the place of the one with the same `key`."""
    found = {row[key]: row for row in [*read(name), *rows]}
    write(name, list(found.values()))


def read(name: str) -> list[dict[str, Any]]:
    """The rows of the last result of the benchmark `name`; none if there is none."""
    path = RESULTS / f"{name}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    return rows


def write(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write `rows` as the result of the benchmark `name`."""
    content = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{processor()}, {psutil.cpu_count()} cores",
        "versions": versions(),
        "rows": list(rows),
    }
    write_atomic(RESULTS / f"{name}.json", json.dumps(content, indent=1) + "\n")
