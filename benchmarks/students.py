"""Students for LTX's latents, side by side: `python -m benchmarks.students [--train [STEPS]]`.

Cost, in one session: 128x3x8x8 latents to 17 frames of 256x256, in ONNX Runtime and ExecuTorch with equally many
threads, the calls in turn; random weights, for time does not depend on them. `LTX teacher` is the decoder of
diffusers' `AutoencoderKLLTXVideo`.

Quality, with --train: every layout, scaled to the embedded tiny teacher, learns from it on the demo's data for equally
many steps; PSNR on held-out clips. Without --train the last results are shown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from torch import nn

import recipes
from benchmarks import results_file
from benchmarks.bars import Bar, at_least, at_most, print_bars
from benchmarks.timing import interleaved
from devices import memory
from devices.host_runtimes import RUNTIMES
from export import executorch, facts, onnx
from export.lowering.lower import lower, program_of, to_frames
from export.targets import Conversion
from toolkit import students
from toolkit.cli.output import console, print_table
from toolkit.quiet import hush_libraries
from toolkit.students.turbo_vaed_config import PRESETS

LATENT = (1, 128, 3, 8, 8)
THREADS, ROUNDS = 2, 15
TEACHER, PUBLISHED = "LTX teacher", "ltx"
STUDENTS = (PUBLISHED, "mobile-m", "mobile-s")
EXPORTERS = {"onnx": onnx.convert, "executorch": executorch.convert}
#: At least this much faster than the published student in ONNX Runtime, and at most this many dB below it.
FASTER = {"mobile-m": 5.0, "mobile-s": 10.0}
BELOW_DB = {"mobile-m": 0.3, "mobile-s": 0.8}
MOST_EXECUTORCH = 1.1  # times ONNX Runtime's time
STEPS = 500


@dataclass(frozen=True)
class Row:
    """What one decoder costs: p50 in ms by runtime, and the peak that loading and running it adds."""

    model: str
    params: int
    macs: int
    onnx_ms: float
    executorch_ms: float | None
    onnx_peak_bytes: int


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == TEACHER:
        decoder = diffusers.AutoencoderKLLTXVideo().decoder
        assert isinstance(decoder, nn.Module)
        return decoder.eval()
    return students.build("turbo_vaed", name).eval()


def cost(folder: Path) -> list[Row]:
    """All decoders in one session. The teacher is too large for a program of ExecuTorch to be worth its minutes."""
    latent = torch.randn(LATENT)
    frames = to_frames(latent)
    sample = folder / "sample.npz"
    np.savez(sample, latent=frames.numpy())
    counted: dict[str, tuple[int, int]] = {}
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for name in (TEACHER, *STUDENTS):
        console.print(f"{name}: exporting", markup=False)
        with torch.no_grad():
            module = build(name)
            lowered = lower(module, (latent,))
            counted[name] = facts.params(module), facts.macs(lowered, [frames])
            program = program_of(lowered, [frames])
            for runtime in ["onnx"] if name == TEACHER else EXPORTERS:
                path = folder / f"{name}.{runtime}"
                EXPORTERS[runtime](Conversion(program, ["latent", "frames"]), path)
                calls[name, runtime] = RUNTIMES[runtime](path, [frames.numpy()], THREADS)
    times = {key: statistics.median(taken) for key, taken in interleaved(calls, ROUNDS).items()}
    return [
        Row(
            model=name,
            params=params,
            macs=macs,
            onnx_ms=times[name, "onnx"],
            executorch_ms=times.get((name, "executorch")),
            onnx_peak_bytes=memory.measure("onnx", folder / f"{name}.onnx", sample, ["latent"], THREADS).added_bytes,
        )
        for name, (params, macs) in counted.items()
    ]


def scaled(name: str) -> dict[str, Any]:
    """A layout for the tiny teacher's latents: its first two stages at a quarter of their width, and its last."""
    config = PRESETS[name]

    def three(values: tuple[Any, ...] | None) -> list[Any] | None:
        return None if values is None else [values[0], values[1], values[-1]]

    return {
        "latent_channels": 16,
        "widths": [config.widths[0] // 4, config.widths[1] // 4, config.widths[-1]],
        "strides": [[1, 1], [2, 2]],
        **{key: three(getattr(config, key)) for key in ("layers", "separable", "temporal_kernels", "normed")},
    }


def train(steps: int, folder: Path) -> list[dict[str, Any]]:
    """Equally many steps for every layout; held-out PSNR of each, and of the teacher."""
    rows = []
    for name in STUDENTS:
        overrides = [f"student.{key}={json.dumps(value)}" for key, value in scaled(name).items()]
        settings = [f"name={name}", f"student.preset={name}", *overrides, f"phases.0.steps={steps}"]
        recipe = recipes.load_recipe("demo-turbo-vaed", [*settings, "objective.features=[]"])
        found = recipes.distill(recipe, folder / name)
        assert found.teacher is not None
        row = {"model": name, "steps": steps, "params": found.student_params, "psnr_db": found.student.psnr_db}
        rows.append({**row, "teacher_psnr_db": found.teacher.psnr_db})
    return rows


def bars(rows: list[Row], quality: list[dict[str, Any]]) -> list[Bar]:
    """What is asked for."""
    ms = {row.model: row.onnx_ms for row in rows}
    psnr = {row["model"]: row["psnr_db"] for row in quality}
    found = []
    for name, least in FASTER.items():
        found.append(at_least(f"{name}: times as fast as {PUBLISHED}", ms[PUBLISHED] / ms[name], least))
        if name in psnr:
            found.append(at_most(f"{name}: dB below {PUBLISHED}", psnr[PUBLISHED] - psnr[name], BELOW_DB[name]))
    for row in rows:
        if row.executorch_ms is not None and row.model in FASTER:
            ratio = row.executorch_ms / row.onnx_ms
            found.append(at_most(f"{row.model}: ExecuTorch over ONNX Runtime", ratio, MOST_EXECUTORCH))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="?", type=int, const=STEPS, metavar="STEPS")
    arguments = parser.parse_args()
    hush_libraries()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.train:
            results_file.write("students_quality", train(arguments.train, Path(folder)))
        rows = cost(Path(folder))
    results_file.write("students_cost", [asdict(row) for row in rows])
    quality = results_file.read("students_quality")
    by_model = {row["model"]: row for row in quality}
    print_table(
        f"128x3x8x8 latents to 17 frames of 256x256; p50 of {ROUNDS}, {THREADS} threads, {results_file.processor()}",
        ["model", "params M", "MACs G", "ONNX Runtime ms", "ExecuTorch ms", "peak MB", "of the teacher's PSNR"],
        [_cells(row, by_model.get(row.model)) for row in rows],
    )
    return print_bars(bars(rows, quality))


def _cells(row: Row, quality: dict[str, Any] | None) -> list[str]:
    retained = "–"
    if quality is not None:
        share = quality["psnr_db"] / quality["teacher_psnr_db"]
        retained = f"{quality['psnr_db']:.2f} dB = {share:.1%}, {quality['steps']} steps, tiny"
    return [
        row.model,
        f"{row.params / 1e6:.2f}",
        f"{row.macs / 1e9:.2f}",
        f"{row.onnx_ms:.0f}",
        "–" if row.executorch_ms is None else f"{row.executorch_ms:.0f}",
        f"{row.onnx_peak_bytes / 1e6:.0f}",
        retained,
    ]


if __name__ == "__main__":
    sys.exit(main())
