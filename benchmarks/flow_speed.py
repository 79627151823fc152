"""Optical-flow students beside RAFT-small and OpenCV's methods, in time: `python -m benchmarks.flow_speed`.

384x512, batch 1, equally many threads, the calls in turn. Students run in ONNX Runtime and ExecuTorch, with random
weights: time does not depend on them. torchvision's RAFT-small makes 12 updates, is exported by torch's TorchScript
exporter and runs in ONNX Runtime alone. OpenCV's methods take a real pair, for their time depends on it, in grey: the
conversion is not counted. Then a training step, forward and backward with a loss at every level, in PyTorch.

`python -m benchmarks.flow` measures the same beside accuracy and size, without the training step.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from benchmarks import results_file
from benchmarks.bars import Bar, at_least, at_most, print_bars
from benchmarks.timing import interleaved
from devices.host_runtimes import RUNTIMES
from export import executorch, facts, onnx
from export.lowering.lower import lower, program_of
from export.targets import Conversion
from recipes.data.flow_layouts import find_pairs, read_pair
from recipes.teachers.dis import PRESETS, farneback, grey
from toolkit import students
from toolkit.cli.output import console, print_table
from toolkit.quiet import hush_libraries
from toolkit.students.compact_flow import CompactFlow

SIZE, CROP, BATCH = (384, 512), (256, 320), 4
UPDATES = 12
THREADS, ROUNDS, STEPS = 2, 15, 5
RAFT = "raft_small"
#: At most so many parameters, at least so many times as fast as RAFT-small.
BARS = {"s": (350_000, 15.0), "m": (1_200_000, 6.0)}
MOST_EXECUTORCH = 1.15  # times ONNX Runtime's time
EXPORTERS = {"onnx": onnx.convert, "executorch": executorch.convert}
SEARCHES = ("medium", "fast")  # presets of DIS

Images = tuple[torch.Tensor, torch.Tensor]
Calls = dict[tuple[str, str], Callable[[], object]]  # by model and runtime


@dataclass(frozen=True)
class Row:
    """One method: p50 in ms by runtime, and of a training step; None is what it has not, or what was not measured."""

    model: str
    params: int | None = None
    macs: int | None = None
    onnx_ms: float | None = None
    executorch_ms: float | None = None
    opencv_ms: float | None = None
    delegated_share: float | None = None
    cpu_convolutions: int | None = None
    training_step_ms: float | None = None

    @property
    def ms(self) -> float:
        """What is compared: in ONNX Runtime or, of a method that is no network, in OpenCV."""
        found = self.opencv_ms if self.onnx_ms is None else self.onnx_ms
        assert found is not None
        return found


class RaftSmall(nn.Module):
    """torchvision's network on images in [0, 1]; its last flow."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torchvision.models.optical_flow.raft_small()

    def forward(self, image1: torch.Tensor, image2: torch.Tensor) -> torch.Tensor:
        flows = self.network(image1 * 2 - 1, image2 * 2 - 1, num_flow_updates=UPDATES)
        last = flows[-1]
        assert isinstance(last, torch.Tensor)
        return last


def latencies(folder: Path, rounds: int = ROUNDS) -> list[Row]:
    """All methods in one session, from artifacts that are written into `folder`."""
    torch.manual_seed(0)
    images = real_pair()
    floats = images[0][None].float() / 255, images[1][None].float() / 255
    calls: Calls = {}
    rows = [add_raft(folder, floats, calls)]
    rows += [add_student(name, folder, floats, calls) for name in BARS]
    rows += add_opencv(images, calls)
    console.print(f"{len(calls)} calls in turn, {rounds} rounds", markup=False)
    times = {key: statistics.median(taken) for key, taken in interleaved(calls, rounds).items()}
    return [
        replace(row, **{f"{runtime}_ms": ms for (model, runtime), ms in times.items() if model == row.model})
        for row in rows
    ]


def real_pair() -> Images:
    """A corner of the motorcycle pair, each image `(3, H, W)` uint8."""
    pair = read_pair(find_pairs("motorcycle", Path())[0])
    height, width = SIZE
    return pair.image1[:, :height, :width], pair.image2[:, :height, :width]


def add_raft(folder: Path, images: Images, calls: Calls) -> Row:
    console.print(f"{RAFT}: exporting", markup=False)
    network, path = RaftSmall().eval(), folder / "raft.onnx"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, images, str(path), dynamo=False, opset_version=onnx.OPSET)
    calls[RAFT, "onnx"] = RUNTIMES["onnx"](path, [image.numpy() for image in images], THREADS)
    return Row(RAFT, facts.params(network), facts.macs(network, images))


def add_student(name: str, folder: Path, images: Images, calls: Calls) -> Row:
    console.print(f"{name}: exporting", markup=False)
    network = build(name).eval()
    with torch.no_grad():
        program = program_of(lower(network, images), images)
    for runtime, convert in EXPORTERS.items():
        path = folder / f"{name}.{runtime}"
        written = convert(Conversion(program, ["image1", "image2", "flow"]), path)
        calls[name, runtime] = RUNTIMES[runtime](path, [image.numpy() for image in images], THREADS)
    stray = sum(n for op, n in written.operators.items() if op.startswith("cpu:") and "convolution" in op)
    macs, share = facts.macs(network, images), written.delegated_share
    return Row(name, facts.params(network), macs, delegated_share=share, cpu_convolutions=stray)


def add_opencv(images: Images, calls: Calls) -> list[Row]:
    """DIS keeps its buffers from call to call, as a session of a network does."""
    cv2.setNumThreads(THREADS)
    first, second = (grey(image) for image in images)
    for preset in SEARCHES:
        search = cv2.DISOpticalFlow.create(PRESETS[preset])
        calls[f"dis-{preset}", "opencv"] = partial(search.calc, first, second, None)  # a flow would be where it starts
    calls["farneback", "opencv"] = partial(farneback, first, second)
    return [Row(model) for model, runtime in calls if runtime == "opencv"]


def with_training(rows: list[Row]) -> list[Row]:
    """The rows with the time of a training step, of those that train."""
    torch.set_num_threads(THREADS)
    console.print(f"training steps, {STEPS} rounds", markup=False)
    steps = interleaved({name: training_step(build(name).train()) for name in BARS}, STEPS)
    return [
        replace(row, training_step_ms=statistics.median(steps[row.model])) if row.model in steps else row
        for row in rows
    ]


def build(preset: str) -> CompactFlow:
    network = students.build("compact_flow", preset)
    assert isinstance(network, CompactFlow)
    return network


def training_step(network: CompactFlow) -> Callable[[], object]:
    """Forward and backward on random crops."""
    first, second = torch.rand(BATCH, 3, *CROP), torch.rand(BATCH, 3, *CROP)
    truth = torch.randn(BATCH, 2, *CROP)

    def step() -> None:
        network.zero_grad()
        flows = network.flows(first, second)
        losses = [(flow - F.adaptive_avg_pool2d(truth, flow.shape[2:])).abs().mean() for flow in flows]
        torch.stack(losses).sum().backward()

    return step


def bars(rows: list[Row]) -> list[Bar]:
    """What is asked for."""
    by_model = {row.model: row for row in rows}
    found = []
    for name, (most, least) in BARS.items():
        row = by_model[name]
        assert row.params is not None
        assert row.executorch_ms is not None
        assert row.cpu_convolutions is not None
        ratio, runtimes = by_model[RAFT].ms / row.ms, row.executorch_ms / row.ms
        found += [
            at_most(f"{name}: M parameters", row.params / 1e6, most / 1e6),
            at_least(f"{name}: times as fast as {RAFT}", ratio, least),
            at_most(f"{name}: ExecuTorch over ONNX Runtime", runtimes, MOST_EXECUTORCH),
            at_most(f"{name}: convolutions outside XNNPACK", row.cpu_convolutions, 0),
        ]
    return found


def print_rows(rows: list[Row], rounds: int = ROUNDS) -> None:
    """The table; training steps have a column where they were measured."""
    raft_ms = next(row.ms for row in rows if row.model == RAFT)
    trained = any(row.training_step_ms is not None for row in rows)
    columns = ["model", "params M", "MACs G", "ONNX ms", "ExecuTorch ms", "OpenCV ms", "times as fast", "delegated"]
    columns += [f"training step ms, {BATCH}x{CROP[0]}x{CROP[1]}"] if trained else []
    print_table(
        f"flow at {SIZE[0]}x{SIZE[1]}; p50 of {rounds}, {THREADS} threads, {results_file.processor()}",
        columns,
        [_cells(row, raft_ms)[: len(columns)] for row in rows],
    )


def main() -> int:
    hush_libraries()
    with tempfile.TemporaryDirectory() as folder:
        rows = with_training(latencies(Path(folder)))
    results_file.write("flow_speed", [asdict(row) for row in rows])
    print_rows(rows)
    return print_bars(bars(rows))


def _cells(row: Row, raft_ms: float) -> list[str]:
    return [
        row.model,
        _text(row.params, 1e-6, ".3f"),
        _text(row.macs, 1e-9, ".2f"),
        _text(row.onnx_ms, 1, ".0f"),
        _text(row.executorch_ms, 1, ".0f"),
        _text(row.opencv_ms, 1, ".1f"),
        f"{raft_ms / row.ms:.1f}x",
        "–" if row.delegated_share is None else f"{row.delegated_share:.1%}",
        _text(row.training_step_ms, 1, ".0f"),
    ]


def _text(value: float | None, scale: float, form: str) -> str:
    return "–" if value is None else format(value * scale, form)


if __name__ == "__main__":
    sys.exit(main())
