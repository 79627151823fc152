"""Every target of students of four kinds: `python -m benchmarks.targets [--model NAME ...] [--target NAME ...]`

The demo's student as it ships, a mobile student and the published LTX layout with random weights, and the flow student
that ships. Of every artifact: its size, its parity and how that was shown, the share inside delegates (planned), the
seconds that writing and proving it takes from the lowered graph on, and p50 where a runtime of this host executes it:
all artifacts of a model in turn, with equally many threads. Results of what was not named stay.

A precision that loses too much is exported again with a budget at its tolerance; the table says how many layers that
keeps. Bars: every target of every model holds its tolerance; int8 is faster than fp32 in ONNX Runtime and in
ExecuTorch. Where it is not, the operators that take the time are printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

import export
from benchmarks import results_file
from benchmarks.bars import Bar, at_least, print_bars
from benchmarks.timing import interleaved
from devices.host_runtimes import RUNTIMES, Runtime
from export.handover import Material
from export.pipeline import lowered, write_artifact
from export.targets import all_targets, find_target
from toolkit import students
from toolkit.bundle import Artifact
from toolkit.cli.output import console, print_table
from toolkit.cli.runs import find_run
from toolkit.errors import CheckFailed, HandheldError
from toolkit.quiet import hush_libraries

THREADS, ROUNDS = 2, 15
#: Latents (frames, height, width) and images (height, width) at which each model is exported.
MODELS: dict[str, tuple[int, ...]] = {
    "turbo-vaed-tiny": (3, 18, 32),
    "turbo_vaed:mobile-s": (3, 8, 8),
    "turbo_vaed:ltx": (3, 8, 8),
    "compact-flow-tiny": (192, 256),
}
FASTER = {"onnx-int8": "onnx-fp32", "executorch-xnnpack-int8": "executorch-xnnpack-fp32"}
SLOWEST = 5


@dataclass(frozen=True)
class Row:
    """One artifact; `why` says why there is none. `kept` are layers at higher precision, without which it fails."""

    model: str
    target: str
    bytes: int | None = None
    passed: bool = False
    how: str | None = None
    share: float | None = None
    psnr_db: float | None = None
    delegated_share: float | None = None
    kept: str | None = None
    export_s: float | None = None
    p50_ms: float | None = None
    why: str = ""


def source(name: str) -> export.Source:
    """A student that ships, or a preset with random weights, which decodes a random latent."""
    if ":" not in name:
        return export.from_run(find_run(Path(f"asset:{name}"))[0])
    kind, preset = name.split(":")
    torch.manual_seed(0)
    student = students.build(kind, preset).eval()
    channels = students.decoder_config(student).latent_channels
    return export.Source(
        name=name.replace(":", "-"),
        module=student,
        inputs=(torch.randn(1, channels, *MODELS[name]),),
        held_out=tuple((torch.randn(1, channels, *MODELS[name]),) for _ in range(3)),
        role="student",
        class_name=f"toolkit.students.{kind}",
    )


def measure(name: str, targets: Sequence[str], folder: Path) -> list[Row]:
    """A row a target; those that this host executes are timed at the end, in turn."""
    rows: dict[str, Row] = {}
    calls: dict[str, Runtime] = {}
    with torch.no_grad():
        material = lowered(source(name), "clip", [MODELS[name]], tiling=False)
        for target in targets:
            start = time.perf_counter()
            try:
                artifact = made(target, folder, material)
            except HandheldError as error:
                rows[target] = keep(Row(name, target, why=str(error)))
                console.print(f"{name}: {target}: {error}", markup=False, soft_wrap=True, highlight=False)
                continue
            rows[target] = keep(row(name, artifact, time.perf_counter() - start))
            console.print(f"{name}: {target}: {artifact.parity}", markup=False, soft_wrap=True, highlight=False)
            if artifact.parity.how == "executed":
                inputs = [material.call.sample[info.name] for info in artifact.inputs]
                calls[target] = RUNTIMES[target.split("-")[0]](folder / artifact.path, inputs, THREADS)
    times = interleaved(calls, ROUNDS)
    rows |= {target: keep(replace(rows[target], p50_ms=statistics.median(taken))) for target, taken in times.items()}
    explain_int8(name, rows, calls)
    return list(rows.values())


def keep(r: Row) -> Row:
    """The row, which is in the results from now on: a model's rows take up to an hour."""
    results_file.update("targets", "name", [{"name": f"{r.model} {r.target}", **asdict(r)}])
    return r


def made(name: str, folder: Path, material: Material) -> Artifact:
    """The artifact; where its precision loses too much, with the fewest layers kept that bring it to its tolerance."""
    target = find_target(name)
    try:
        return write_artifact(target, folder, material)
    except CheckFailed as error:
        if not target.is_mixable:
            raise
        console.print(f"{name}: {error}", markup=False, soft_wrap=True, highlight=False)
        budget = target.tolerance.min_psnr_db
        return write_artifact(target, folder, replace(material, budget_db=budget))


def row(name: str, artifact: Artifact, seconds: float) -> Row:
    parity, mixed = artifact.parity, artifact.mixed_precision
    return Row(
        model=name,
        target=artifact.target,
        bytes=artifact.bytes,
        passed=parity.passed,
        how=parity.how,
        share=parity.share,
        psnr_db=parity.psnr_db,
        delegated_share=artifact.graph.delegated_share,
        kept=None if mixed is None else f"{len(mixed.wide)} of {len(mixed.layers)}",
        export_s=seconds,
    )


def explain_int8(name: str, rows: dict[str, Row], calls: dict[str, Runtime]) -> None:
    """Where int8 is not faster than fp32: what each spends its time on."""
    for quantized, wide in FASTER.items():
        if quantized not in calls or wide not in calls or faster(rows[quantized], rows[wide]):
            continue
        console.print(f"{name}: {quantized} is not faster than {wide}; where the time goes:", markup=False)
        for target in (quantized, wide):
            kinds: dict[str, float] = {}
            for operator in calls[target].operators():
                kinds[operator.kind] = kinds.get(operator.kind, 0) + operator.ms
            slowest = sorted(kinds.items(), key=lambda pair: -pair[1])[:SLOWEST]
            text = ", ".join(f"{kind} {ms:.1f} ms" for kind, ms in slowest)
            console.print(f"  {target}: {text}", markup=False, highlight=False)


def faster(quantized: Row, wide: Row) -> bool:
    return (quantized.p50_ms or float("nan")) < (wide.p50_ms or float("nan"))


def print_rows(rows: Sequence[Row]) -> None:
    columns = [
        "model",
        "target",
        "MB",
        "parity",
        "max |Δ| of scale",
        "PSNR dB",
        "how",
        "layers kept",
        "delegated",
        "export s",
        "p50 ms",
    ]
    lines = []
    for r in rows:
        verdict = "pass" if r.passed else "FAIL"
        figures = [(r.share, ".1e"), (r.psnr_db, ".1f"), (r.delegated_share, ".1%"), (r.export_s, ".1f")]
        share, psnr, delegated, seconds = ("–" if value is None else format(value, form) for value, form in figures)
        size = "–" if r.bytes is None else f"{r.bytes / 1e6:.2f}"
        p50 = "–" if r.p50_ms is None else f"{r.p50_ms:.1f}"
        lines.append(
            [r.model, r.target, size, verdict, share, psnr, r.how or "–", r.kept or "–", delegated, seconds, p50]
        )
    print_table(f"every target, timed on {results_file.processor()} with {THREADS} threads", columns, lines, words=2)
    for r in rows:
        if r.why:
            console.print(f"{r.model}, {r.target}: {r.why}", soft_wrap=True, highlight=False, markup=False)


def bars(rows: Sequence[Row]) -> list[Bar]:
    found = [at_least("artifacts that hold their tolerance", sum(r.passed for r in rows) / len(rows), 1)]
    by_name = {(r.model, r.target): r for r in rows}
    for (model, target), quantized in by_name.items():
        wide = by_name.get((model, FASTER.get(target, "")))
        if wide is not None and quantized.p50_ms and wide.p50_ms:
            found.append(at_least(f"{model}: {target}, times as fast as fp32", wide.p50_ms / quantized.p50_ms, 1))
    return found


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=[*MODELS], help="default: all")
    parser.add_argument("--target", action="append", help="default: all of clips")
    chosen = parser.parse_args(arguments)
    hush_libraries()
    targets = chosen.target or [name for name, target in all_targets().items() if not target.keeps_states]
    rows: list[Row] = []
    for name in chosen.model or MODELS:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(name, targets, Path(folder))
    print_rows(rows)
    return print_bars(bars(rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
