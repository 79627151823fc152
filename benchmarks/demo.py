"""The demo's bars, on the demo's own output: `python -m benchmarks.demo [FOLDER]` (runs `handheld demo` if need be).

Ratios of one session on one machine; the rows land in benchmarks/results/demo.json with versions and machine.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import export
from benchmarks import results_file
from devices import store
from devices.report.sources import read_run
from devices.report.views import speedups
from toolkit.bundle import read_manifest
from toolkit.cli.output import console, print_table


@dataclass(frozen=True)
class Row:
    """One bar: what was found, what was asked for, whether it holds, and where the figure comes from."""

    bar: str
    found: float
    asked: str
    holds: bool
    obtained: str


def row(bar: str, found: float, asked: str, holds: Callable[[float], bool], obtained: str) -> Row:
    return Row(bar, found, asked, holds(found), obtained)


def measure(folder: Path) -> list[Row]:
    """Every bar of the demo, from its run, bundle and records; artifacts are verified anew."""
    run = read_run(folder / "run").evaluation
    assert run.teacher is not None
    assert run.teacher_params is not None
    records = store.read_json(folder / "profile.json").records
    manifest = read_manifest(folder / "bundle")
    parities = export.verify(folder / "bundle")
    program = manifest.artifact("executorch-xnnpack-fp32").graph
    convolutions = {name: n for name, n in program.operators.items() if name.endswith(":convolution")}
    (ratio,) = [entry["ratio"] for entry in speedups(records) if entry["runtime"].startswith("ONNX")]
    rows = [
        row("teacher PSNR, dB", run.teacher.psnr_db, ">= 27", lambda v: v >= 27, "measured, held-out"),
        row(
            "parameters, of teacher decoder",
            run.student_params / run.teacher_params,
            "<= 0.25",
            lambda v: v <= 0.25,
            "counted",
        ),
        row(
            "PSNR, of teacher",
            run.student.psnr_db / run.teacher.psnr_db,
            ">= 0.85",
            lambda v: v >= 0.85,
            "measured, held-out",
        ),
        row("speed-up in ONNX Runtime", ratio, ">= 3", lambda v: v >= 3, f"measured, {records[0].device.model}"),
        row(
            "max rank in any artifact",
            max(a.graph.max_rank for a in manifest.artifacts),
            "<= 4",
            lambda v: v <= 4,
            "read off",
        ),
        row(
            "ExecuTorch convolutions delegated",
            convolutions.get("xnnpack:convolution", 0) / sum(convolutions.values()),
            "= 1",
            lambda v: v == 1,
            "read off",
        ),
    ]
    for target, parity in parities.items():
        if parity.tolerance.max_share is not None:
            share = parity.share if parity.share is not None else float("inf")
            rows.append(row(f"{target}, max |Δ| of scale", share, "<= 1e-4", lambda v: v <= 1e-4, parity.how))
        else:
            rows.append(row(f"{target}, PSNR dB", parity.psnr_db or 0, ">= 50", lambda v: v >= 50, parity.how))
    return rows


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
    if not (folder / "profile.json").is_file():
        subprocess.run([sys.executable, "-m", "toolkit.cli.main", "demo", "--output", str(folder)], check=True)
    rows = measure(folder)
    results_file.write("demo", [asdict(r) for r in rows])
    table = [[r.bar, f"{r.found:.4g}", r.asked, "yes" if r.holds else "NO", r.obtained] for r in rows]
    print_table("the demo's bars", ["bar", "found", "asked", "holds", "obtained"], table)
    held = sum(r.holds for r in rows)
    console.print(f"{held} of {len(rows)} bars hold")
    sys.exit(0 if held == len(rows) else 1)


if __name__ == "__main__":
    main()
