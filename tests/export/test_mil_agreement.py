"""The Core ML evaluator beside ONNX Runtime and PyTorch on the same lowered graphs, in fp32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import coremltools
import numpy as np
import pytest
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.nn import functional as F

from export import mil_reference
from export.lowering import lower
from export.lowering.lower import program_of, to_frames
from export.targets import Conversion, find_target
from tests.conftest import Apply

VIDEO = (1, 6, 3, 4, 8)
TOGETHER = 8
Function = Callable[[torch.Tensor], torch.Tensor]


def convert(program: ExportedProgram, path: Path) -> Path:
    """The same conversion as the targets', in fp32."""
    options = {"compute_precision": coremltools.precision.FLOAT32, "skip_model_load": True}
    target = coremltools.target.iOS18
    model = coremltools.convert(program.run_decompositions({}), minimum_deployment_target=target, **options)
    model.save(str(path))
    return path


class Several(nn.Module):
    """Modules side by side on the same input: one conversion for all of them."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.several = nn.ModuleList(modules)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [module(x) for module in self.several]


def assert_agreement(modules: dict[str, nn.Module], folder: Path, video: torch.Tensor) -> None:
    with torch.no_grad():
        lowered = lower(Several(list(modules.values())).eval(), (video,))
        frames = to_frames(video) if video.ndim == 5 else video
        program = program_of(lowered, (frames,))
        expected = [output.numpy() for output in lowered(frames)]
        target, names = find_target("onnx-fp32"), [f"output_{number}" for number in range(len(modules))]
        target.convert(Conversion(program, ["frames", *names]), folder / "model.onnx")
    executed = target.open(folder / "model.onnx").call([frames.numpy()])
    mil = mil_reference.load(convert(program, folder / "model.mlpackage"))
    evaluated = mil_reference.evaluate(mil, [frames.numpy()])
    for name, mine, theirs, right in zip(modules, evaluated, executed, expected, strict=True):
        for known in (theirs, right):
            assert mine.shape == known.shape, name
            error = np.abs(mine.astype(np.float64) - known.astype(np.float64)).max()
            assert error <= 2e-5 * max(np.abs(known.astype(np.float64)).max(), 1e-3), name


def pairs(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[:, :3], x[:, 3:]


CASES: dict[str, nn.Module] = {
    "conv3d": nn.Conv3d(6, 4, 3, padding=1),
    "depthwise": nn.Conv3d(6, 6, (3, 1, 3), padding=(1, 0, 1), groups=6),
    "strided": nn.Conv3d(6, 4, 3, stride=(1, 2, 2), padding=1),
    "transposed": nn.ConvTranspose3d(6, 4, (1, 2, 2), stride=(1, 2, 2)),
    "batch norm": nn.BatchNorm3d(6),
    "group norm": nn.GroupNorm(2, 6),
    "instance norm": nn.InstanceNorm3d(6, affine=True),
    "max pool": nn.MaxPool3d((1, 2, 2)),
    "average pool": nn.AvgPool3d(2, 1),
    "adaptive pool": nn.AdaptiveAvgPool3d(1),
    "nearest": nn.Upsample(scale_factor=(1, 2, 2)),
    "trilinear": nn.Upsample(scale_factor=(1, 2, 2), mode="trilinear"),
    "reflection": nn.ReflectionPad3d(1),
    "replication": nn.ReplicationPad3d(1),
    "elu": nn.ELU(0.7),
    "leaky relu": nn.LeakyReLU(0.1),
    "hardtanh": nn.Hardtanh(-0.5, 0.5),
    "hardsigmoid": nn.Hardsigmoid(),
    "softplus": nn.Softplus(2.0),
    "softsign": nn.Softsign(),
    "mish": nn.Mish(),
    "gelu": nn.GELU(),
    "threshold": nn.Threshold(0.2, 0.2),
    "sin": Apply(torch.sin),
    "cos": Apply(torch.cos),
    "tan": Apply(lambda x: torch.tan(x / 4)),
    "asin": Apply(lambda x: torch.asin(x / 9)),
    "acos": Apply(lambda x: torch.acos(x / 9)),
    "atan": Apply(torch.atan),
    "sinh": Apply(torch.sinh),
    "cosh": Apply(torch.cosh),
    "atanh": Apply(lambda x: torch.atanh(x / 9)),
    "erf": Apply(torch.erf),
    "ceil": Apply(torch.ceil),
    "floor": Apply(torch.floor),
    "exp2": Apply(torch.exp2),
    "log": Apply(lambda x: torch.log(x.abs() + 0.1)),
    "power": Apply(lambda x: x.abs().pow(1.7)),
    "remainder": Apply(lambda x: torch.remainder(x * 3, 2.0)),
    "exclusive or": Apply(lambda x: torch.logical_xor(x > 0, x > 1).float()),
    "where": Apply(lambda x: torch.where(x > 0, x, -2 * x)),
    "masked fill": Apply(lambda x: x.masked_fill(x > 1, 7.0)),
    "sum": Apply(lambda x: x.sum((1, 3), keepdim=True)),
    "product": Apply(lambda x: x.prod(1, keepdim=True)),
    "log of sum of exp": Apply(lambda x: x.logsumexp(1, keepdim=True)),
    "variance": Apply(lambda x: x.var((1, 3), keepdim=True)),
    "length": Apply(lambda x: torch.linalg.vector_norm(x, dim=1, keepdim=True)),
    "sum of absolutes": Apply(lambda x: torch.linalg.vector_norm(x, 1, dim=1, keepdim=True)),
    "normalised": Apply(lambda x: F.normalize(x, dim=1)),
    "largest": Apply(lambda x: x.amax(1, keepdim=True) - x.amin(2, keepdim=True)),
    "place of the largest": Apply(lambda x: x.argmax(1, keepdim=True).float()),
    "cumulative sum": Apply(lambda x: x.cumsum(3)),
    "softmax": Apply(lambda x: x.softmax(1)),
    "product of matrices": Apply(lambda x: x @ x.transpose(-1, -2)),
    "attention": Apply(lambda x: F.scaled_dot_product_attention(x.flatten(0, 2), x.flatten(0, 2), x.flatten(0, 2))),
    "known places": Apply(lambda x: x[:, torch.tensor([3, 0, 0, 5])]),
    "places of two dimensions": Apply(lambda x: x[..., torch.tensor([[3, 0], [0, 5]])].flatten(3)),
    "set slice": Apply(lambda x: torch.slice_scatter(x, x[:, :2] * 5, 1, 1, 3)),
    "turned": Apply(lambda x: x.flip(2, 4)),
    "rolled": Apply(lambda x: x.roll((1, 2), (2, 4))),
    "windows": Apply(lambda x: x.unfold(4, 3, 2).mean(-1)),
    "unshuffled": Apply(lambda x: F.pixel_unshuffle(x[0], 2)[None]),
    "shuffled": Apply(lambda x: F.pixel_shuffle(x[0].movedim(0, 1)[:, :4], 2)[None]),
    "stack and split": Apply(lambda x: torch.stack(x.chunk(3, 1), 2).flatten(1, 2)),
    "interleaved": Apply(lambda x: torch.stack(pairs(x), 2).flatten(1, 2)),
    "sampled": Apply(lambda x: F.grid_sample(x[0], x[0, :, :2].permute(0, 2, 3, 1) / 3, align_corners=True)[None]),
}


#: What the lowering leaves as it is, and does not say of videos.
PICTURE_CASES: dict[str, nn.Module] = {
    "prelu": nn.PReLU(6),
    "hardswish": nn.Hardswish(),
    "glu": nn.GLU(1),
    "floor division": Apply(lambda x: torch.floor_divide(x * 3, 2.0)),
    "logic": Apply(
        lambda x: torch.logical_and(x > 0, torch.logical_not(x > 1)).float() + torch.logical_or(x > 2, x < 0).float()
    ),
    "places that are computed": Apply(lambda x: x.gather(2, x.argmax(2, keepdim=True))),
    "sorted": Apply(lambda x: x.topk(4, 1).values),
    "ascending": Apply(lambda x: x.sort(1).values),
    "scattered": Apply(lambda x: torch.zeros_like(x).scatter(2, x.argmax(2, keepdim=True), x[:, :, :1])),
    "lower triangle": Apply(lambda x: x.tril(1)),
    "upper triangle": Apply(lambda x: x.triu()),
    "one of many": Apply(lambda x: F.one_hot(x[:, :, 0].argmax(1), 6).float()),
}


def together(cases: dict[str, nn.Module]) -> list[Any]:
    """The cases, by so many that one conversion stays small."""
    names = iter(cases)
    groups = iter(lambda: list(islice(names, TOGETHER)), [])
    return [pytest.param({name: cases[name] for name in group}, id=", ".join(group)) for group in groups]


@pytest.mark.slow
@pytest.mark.parametrize("modules", together(CASES))
def test_the_evaluator_gives_what_onnx_runtime_executes(modules: dict[str, nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert_agreement(modules, tmp_path, torch.randn(VIDEO))


@pytest.mark.slow
@pytest.mark.parametrize("modules", together(PICTURE_CASES))
def test_the_evaluator_gives_what_onnx_runtime_executes_of_pictures(
    modules: dict[str, nn.Module], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    assert_agreement(modules, tmp_path, torch.randn(1, 6, 4, 8))
