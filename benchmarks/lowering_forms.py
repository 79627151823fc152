"""Every form of a 3-D convolution on a grid of shapes, in ONNX Runtime and in ExecuTorch, and the form chosen."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import results_file
from benchmarks.timing import interleaved
from export import executorch, onnx
from export.lowering import forms
from export.lowering.constants import Weight
from export.lowering.forms import FORMS, Convolution
from export.lowering.lower import program_of
from export.targets import Conversion
from toolkit.cli.output import console, print_table
from toolkit.quiet import hush_libraries

ROUNDS = 12
LOSS = 1.10  # how much slower than the fastest form the chosen one may be, median over the grid
#: (in, out, frames, height, width, kernel, groups): the students' middle, upsamplers, ends and depthwise layers
GRID = [
    (512, 512, 3, 8, 8, 3, 1),
    (128, 128, 5, 16, 16, 3, 1),
    (128, 512, 5, 16, 16, 3, 1),
    (64, 64, 9, 32, 32, 3, 1),
    (32, 32, 9, 64, 64, 3, 1),
    (64, 16, 9, 64, 64, 3, 1),
    (256, 64, 5, 16, 16, 3, 1),
    (64, 8, 9, 64, 64, 3, 1),
    (64, 3, 9, 64, 64, 3, 1),
    (16, 3, 9, 128, 128, 3, 1),
    (512, 512, 3, 8, 8, 5, 512),
    (128, 128, 5, 16, 16, 5, 128),
    (64, 64, 9, 64, 64, 3, 64),
]


@dataclass(frozen=True)
class Row:
    """One shape in one back end: the least ms of each form, and how the chosen form compares with the fastest."""

    shape: str
    backend: str
    ms: dict[str, float]
    chosen: str
    loss: float


class Between(nn.Module):
    """A convolution in one form, causally padded, between two activations, as in a decoder."""

    def __init__(self, conv: Convolution, form: str) -> None:
        super().__init__()
        self.conv, self.form, self.constants = conv, form, nn.ParameterDict()

    def keep(self, name: str, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        if name not in self.constants:
            self.constants[name] = nn.Parameter(make().clone(), requires_grad=False)
        kept: torch.Tensor = self.constants[name]
        return kept

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.silu(x)
        x = torch.cat([x[:1]] * (self.conv.taps - 1) + [x])
        return F.silu(forms.apply(self.conv, x, 1, self.keep, self.form))


def measure(shape: tuple[int, ...], folder: Path) -> list[Row]:
    """All forms of one shape, interleaved, in both back ends."""
    channels, out, frames, height, width, kernel, groups = shape
    torch.manual_seed(0)
    weight = Weight.of("weight", torch.randn(out, channels // groups, kernel, kernel, kernel))
    side = kernel // 2
    conv = Convolution(weight, None, (1, 1, 1), (side, side), (1, 1, 1), groups)
    x = torch.randn(frames, channels, height, width)
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for form in forms.possible(conv):
        with torch.no_grad():
            module = Between(conv, form).eval()
            module(x)
            program = program_of(module, [x])
        for backend, exporter in (("onnx", onnx), ("executorch", executorch)):
            path = folder / f"{form}.{backend}"
            exporter.convert(Conversion(program, ["x", "y"]), path)
            calls[backend, form] = _call(exporter.load(path), x)
    times = interleaved(calls, ROUNDS)
    name = f"{channels}→{out}, {frames}x{height}x{width}, {kernel}³" + (", depthwise" if groups > 1 else "")
    chosen = forms.choose(conv)
    rows = []
    for backend in ("onnx", "executorch"):
        ms = {form: min(taken) for (where, form), taken in times.items() if where == backend}
        rows.append(Row(name, backend, ms, chosen, ms[chosen] / min(ms.values())))
    return rows


def _call(session: object, x: torch.Tensor) -> Callable[[], object]:
    return lambda: session.call([x.numpy()])  # type: ignore[attr-defined]


def main(names: list[str]) -> bool:
    """Measure the grid; whether the chosen forms are near the fastest ones."""
    if names:
        return True
    hush_libraries()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for shape in GRID:
            rows += measure(shape, Path(folder))
            console.print(f"{rows[-1].shape}: measured", markup=False)
    cells = [
        [
            r.shape,
            r.backend,
            *(f"{r.ms[form]:.1f}" if form in r.ms else "–" for form in FORMS),
            r.chosen,
            f"{r.loss:.2f}",
        ]
        for r in rows
    ]
    title = f"least ms of {ROUNDS} interleaved runs, {results_file.processor()}"
    print_table(title, ["shape", "back end", *FORMS, "chosen", "to fastest"], cells)
    results_file.write("lowering_forms", [asdict(row) for row in rows])
    median = statistics.median(row.loss for row in rows)
    console.print(f"chosen form over the fastest, median: {median:.2f} (asked: at most {LOSS})")
    return median <= LOSS
