"""How long does an export take, and what do several targets cost beyond one? `python -m benchmarks.export_speed`

The published LTX student with random weights goes to every target by itself, then to all of them at once, through
`export.export` with parity and without the cache. The order is turned around in the second round, so that no export
is always the first; the shorter of the two times counts.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

import export
from benchmarks import results_file
from benchmarks.bars import at_most, print_bars
from benchmarks.video_models import MODELS
from export.sources import Source
from toolkit.cli.output import print_table
from toolkit.quiet import hush_libraries

STUDENT = "turbo-vaed-ltx"
TARGETS = ("onnx-fp32", "executorch-xnnpack-fp32", "coreml-fp16")
ROUNDS = 2
MOST = 1.5


@dataclass(frozen=True)
class Row:
    """The seconds of one export, and what its artifacts weigh."""

    targets: str
    seconds: float
    megabytes: float


def measure(targets: Sequence[str], source: Source) -> Row:
    """One export, from the module to the sealed bundle."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        manifest = export.export(source, targets, Path(folder) / "bundle", use_cache=False)
        seconds = time.perf_counter() - start
    return Row(" + ".join(targets), seconds, sum(artifact.bytes for artifact in manifest.artifacts) / 1e6)


def main() -> int:
    hush_libraries()
    module, (latent,) = MODELS[STUDENT]()
    source = Source(STUDENT, module, (latent,), "student", "toolkit.students.turbo_vaed")
    candidates = [[target] for target in TARGETS] + [list(TARGETS)]
    rows: dict[str, Row] = {}
    for number in range(ROUNDS):
        for targets in candidates if number % 2 == 0 else candidates[::-1]:
            row = measure(targets, source)
            rows[row.targets] = min(row, rows.get(row.targets, row), key=lambda each: each.seconds)
    *single, together = [rows[" + ".join(targets)] for targets in candidates]
    slowest = max(single, key=lambda row: row.seconds)
    ratio = together.seconds / slowest.seconds
    cells = [[row.targets, f"{row.seconds:.1f}", f"{row.megabytes:.0f}"] for row in [*single, together]]
    title = f"{STUDENT}, latent {'x'.join(map(str, latent.shape[2:]))}, {results_file.processor()}, "
    title += f"{psutil.cpu_count()} cores: the shorter of {ROUNDS} exports, parity included"
    print_table(title, ["targets", "seconds", "MB"], cells)
    written = [{**asdict(row), "ratio": row.seconds / slowest.seconds} for row in rows.values()]
    results_file.write("export_speed", written)
    return print_bars([at_most(f"all targets over {slowest.targets} alone", ratio, MOST)])


if __name__ == "__main__":
    sys.exit(main())
