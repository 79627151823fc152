"""Optical-flow students beside torchvision's RAFT-small, in time: `python -m benchmarks.flow_speed`.

384x512, batch 1, in ONNX Runtime and ExecuTorch with equally many threads, the calls in turn; random weights: time
does not depend on them. RAFT-small makes 12 updates, is exported by torch's TorchScript exporter and runs in ONNX
Runtime alone. Then a training step, forward and backward with a loss at every level, in PyTorch.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from benchmarks import results_file
from benchmarks.timing import interleaved
from devices.host_runtimes import RUNTIMES
from export import executorch, facts, onnx
from export.lowering.lower import lower, program_of
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


@dataclass(frozen=True)
class Row:
    """One network: p50 in ms by runtime, and of a training step."""

    model: str
    params: int
    macs: int
    onnx_ms: float
    executorch_ms: float | None = None
    delegated_share: float | None = None
    cpu_convolutions: int | None = None
    training_step_ms: float | None = None


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


def cost(folder: Path) -> list[Row]:
    """All networks in one session."""
    torch.manual_seed(0)
    images = torch.rand(1, 3, *SIZE), torch.rand(1, 3, *SIZE)
    arrays = [image.numpy() for image in images]
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    raft = RaftSmall().eval()
    console.print(f"{RAFT}: exporting", markup=False)
    export_raft(raft, images, folder / "raft.onnx")
    calls[RAFT, "onnx"] = RUNTIMES["onnx"](folder / "raft.onnx", arrays, THREADS)
    rows = [Row(RAFT, facts.params(raft), facts.macs(raft, images), 0.0)]
    for name in BARS:
        console.print(f"{name}: exporting", markup=False)
        network = build(name).eval()
        with torch.no_grad():
            program = program_of(lower(network, images), images)
        for runtime, convert in EXPORTERS.items():
            path = folder / f"{name}.{runtime}"
            written = convert(program, path, ["image1", "image2", "flow"])
            calls[name, runtime] = RUNTIMES[runtime](path, arrays, THREADS)
        stray = sum(n for op, n in written.operators.items() if op.startswith("cpu:") and "convolution" in op)
        macs, share = facts.macs(network, images), written.delegated_share
        rows.append(Row(name, facts.params(network), macs, 0.0, delegated_share=share, cpu_convolutions=stray))
    times = {key: statistics.median(taken) for key, taken in interleaved(calls, ROUNDS).items()}
    torch.set_num_threads(THREADS)
    steps = interleaved({name: training_step(build(name).train()) for name in BARS}, STEPS)
    return [
        Row(
            **asdict(row)
            | {"onnx_ms": times[row.model, "onnx"], "executorch_ms": times.get((row.model, "executorch"))}
            | {"training_step_ms": statistics.median(steps[row.model]) if row.model in steps else None}
        )
        for row in rows
    ]


def build(preset: str) -> CompactFlow:
    network = students.build("compact_flow", preset)
    assert isinstance(network, CompactFlow)
    return network


def export_raft(network: nn.Module, images: tuple[torch.Tensor, ...], path: Path) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, images, str(path), dynamo=False, opset_version=onnx.OPSET)


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


def bars(rows: list[Row]) -> list[tuple[str, float, str, bool]]:
    """What is asked for: the figure, the bar, whether it holds."""
    by_model = {row.model: row for row in rows}
    found = []
    for name, (most, least) in BARS.items():
        row = by_model[name]
        assert row.executorch_ms is not None
        ratio, runtimes = by_model[RAFT].onnx_ms / row.onnx_ms, row.executorch_ms / row.onnx_ms
        found += [
            (f"{name}: M parameters", row.params / 1e6, f"<= {most / 1e6}", row.params <= most),
            (f"{name}: times as fast as {RAFT}", ratio, f">= {least}", ratio >= least),
            (f"{name}: ExecuTorch over ONNX Runtime", runtimes, f"<= {MOST_EXECUTORCH}", runtimes <= MOST_EXECUTORCH),
            (f"{name}: convolutions outside XNNPACK", row.cpu_convolutions or 0, "0", row.cpu_convolutions == 0),
        ]
    return found


def main() -> int:
    hush_libraries()
    with tempfile.TemporaryDirectory() as folder:
        rows = cost(Path(folder))
    results_file.write("flow_speed", [asdict(row) for row in rows])
    raft_ms = rows[0].onnx_ms
    print_table(
        f"flow at {SIZE[0]}x{SIZE[1]}; p50 of {ROUNDS}, {THREADS} threads, {results_file.processor()}",
        ["model", "params M", "MACs G", "ONNX ms", "times as fast", "ExecuTorch ms", "delegated", "training step ms"],
        [_cells(row, raft_ms) for row in rows],
    )
    found = bars(rows)
    print_table(
        "bars", ["", "found", "asked", ""], [[w, f"{v:.2f}", a, "holds" if h else "FAILS"] for w, v, a, h in found]
    )
    failed = sum(not holds for *_, holds in found)
    console.print(f"{len(found) - failed} of {len(found)} bars hold", highlight=False)
    return 1 if failed else 0


def _cells(row: Row, raft_ms: float) -> list[str]:
    return [
        row.model,
        f"{row.params / 1e6:.3f}",
        f"{row.macs / 1e9:.2f}",
        f"{row.onnx_ms:.0f}",
        f"{raft_ms / row.onnx_ms:.1f}x",
        "–" if row.executorch_ms is None else f"{row.executorch_ms:.0f}",
        "–" if row.delegated_share is None else f"{row.delegated_share:.1%}",
        "–" if row.training_step_ms is None else f"{row.training_step_ms:.0f} ({BATCH}x{CROP[0]}x{CROP[1]})",
    ]


if __name__ == "__main__":
    sys.exit(main())
