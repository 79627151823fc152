"""The published students in ONNX Runtime: lowered, against the same model exported with native Conv3d."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks import results_file
from benchmarks.timing import interleaved
from benchmarks.video_models import MODELS
from devices.host_runtimes import OnnxRuntime
from export import onnx
from export.lowering.lower import lower, program_of, to_frames
from export.targets import Conversion
from toolkit.cli.output import console, print_table
from toolkit.quiet import hush_libraries

STUDENTS = ("turbo-vaed-ltx", "turbo-vaed-hunyuan", "turbo-vaed-cog", "turbo-vaed-dc")
ROUNDS = 15
THREADS = 2
BAR = 1.05  # the median of lowered over native


@dataclass(frozen=True)
class Row:
    """One student: medians of one session, the two timed in turn."""

    model: str
    lowered_ms: float
    native_ms: float
    ratio: float


def measure(name: str, folder: Path) -> Row:
    """Time both forms, interleaved."""
    with torch.no_grad():
        module, (latent,) = MODELS[name]()
        frames = to_frames(latent)
        programs = {
            "lowered": program_of(lower(module, (latent,)), [frames]),
            "native": torch.export.export(module, (latent,)),
        }
        for form, program in programs.items():
            onnx.convert(Conversion(program, ["latent", "frames"]), folder / f"{form}.onnx")
    calls = {
        "lowered": OnnxRuntime(folder / "lowered.onnx", [frames.numpy()], THREADS),
        "native": OnnxRuntime(folder / "native.onnx", [latent.numpy()], THREADS),
    }
    times = {name: statistics.median(taken) for name, taken in interleaved(calls, ROUNDS).items()}
    return Row(name, times["lowered"], times["native"], times["lowered"] / times["native"])


def main(names: list[str]) -> bool:
    """Measure the students called `names`, by default all; whether the median ratio is within the bar."""
    hush_libraries()
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(name, Path(folder)) for name in STUDENTS if not names or name in names]
    if not rows:
        return True
    cells = [[row.model, f"{row.lowered_ms:.0f}", f"{row.native_ms:.0f}", f"{row.ratio:.2f}"] for row in rows]
    title = f"ONNX Runtime, {THREADS} threads, {results_file.processor()}: medians of {ROUNDS} interleaved runs"
    print_table(title, ["model", "lowered ms", "native Conv3d ms", "ratio"], cells)
    if not names:
        results_file.write("lowering_speed", [asdict(row) for row in rows])
    median = statistics.median(row.ratio for row in rows)
    console.print(f"lowered over native, median of {len(rows)}: {median:.2f} (asked: at most {BAR})")
    return median <= BAR
