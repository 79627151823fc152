"""The Core ML evaluator: each operator it knows against PyTorch, fp16 rounding, and refusal of the rest."""

from __future__ import annotations

from pathlib import Path

import coremltools
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from torch import nn
from torch.nn import functional as F

from export import mil_reference
from tests.conftest import Apply
from toolkit.errors import CheckFailed

X = (2, 8, 6, 10)


def convert(module: nn.Module, folder: Path, precision: coremltools.precision) -> Path:
    program = torch.export.export(module.eval(), (torch.randn(X),)).run_decompositions({})
    model = coremltools.convert(
        program,
        minimum_deployment_target=coremltools.target.iOS17,
        compute_precision=precision,
        skip_model_load=True,
    )
    path = folder / "model.mlpackage"
    model.save(str(path))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(8, 4, 3, padding=1),
        nn.Conv2d(8, 8, (3, 5), stride=(2, 1), padding=(0, 2), groups=8),
        nn.Conv2d(8, 6, 3, dilation=2, padding="same"),
        nn.ConvTranspose2d(8, 6, 3, dilation=2, bias=False),
        nn.ConvTranspose2d(8, 6, (4, 3), stride=2, padding=(1, 2), output_padding=(0, 1), groups=2),
        nn.Linear(10, 3),
        nn.BatchNorm2d(8),
        nn.LayerNorm(10),
        nn.Softmax(dim=1),
        nn.GELU(),
        nn.Hardswish(),
        nn.ReLU6(),
        nn.PixelShuffle(2),
        nn.ReflectionPad2d((1, 2, 3, 0)),
        nn.ReplicationPad2d((1, 2, 0, 1)),
        nn.ZeroPad2d((1, 0, 2, 0)),
        nn.Hardtanh(-0.5, 0.25),
        Apply(lambda x: x[:, 2:7:2, 1:, :-3]),
        Apply(lambda x: torch.cat([x, x.abs().sqrt()], 1)),
        Apply(lambda x: x.permute(0, 2, 3, 1).reshape(4, -1)),
        Apply(lambda x: x @ x.transpose(-1, -2)),
        Apply(lambda x: x.mean((2, 3), keepdim=True) + x.sum(1, keepdim=True)),
        Apply(lambda x: torch.rsqrt(x.square() + 1) - torch.sigmoid(x) / (2 + torch.tanh(x))),
        Apply(lambda x: torch.maximum(x, -x) * F.silu(x).exp().clamp(max=3)),
        Apply(lambda x: torch.stack(x.split([3, 5], 1)[0].chunk(3, 1)).squeeze(2).repeat(1, 2, 1, 1)),
        Apply(lambda x: F.softplus(x).unsqueeze(0).relu()[0]),
        Apply(lambda x: x.amax((1, 3), keepdim=True) - x.amin((0, 2), keepdim=True) + x.logsumexp(2, keepdim=True)),
        Apply(lambda x: x.argmax(1, keepdim=True).float() - x.argmin(1, keepdim=True).float()),
        Apply(lambda x: (x > 1).float() + 2 * (x >= 0).float() + 4 * (x < -1).float() + 8 * (x <= -2).float()),
        Apply(lambda x: (F.relu(x) == 0).float() - (x.sign() != 1).float()),
        Apply(lambda x: torch.where(x > 0, torch.log(x.abs() + 1), x * 3)),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d((2, 3), (2, 1), (1, 0)),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        nn.Upsample(scale_factor=(2, 3)),
        nn.Upsample(scale_factor=(2, 3), mode="bilinear"),
        nn.Upsample(size=(11, 15), mode="bilinear", align_corners=True),
        Apply(lambda x: torch.sign(x).flip(1, 3)),
        Apply(lambda x: x.index_select(2, torch.tensor([0, 0, 5, 2]))),
        Apply(lambda x: x.flatten(0, 2).index_select(0, (x[0, 0, 0].abs() * 9).floor().int())),
        Apply(lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), padding_mode="border", align_corners=True)),
        Apply(lambda x: F.grid_sample(x, x[:, 2:4].permute(0, 2, 3, 1), "nearest", align_corners=False)),
        Apply(lambda x: F.grid_sample(x, x[:, 4:6].permute(0, 2, 3, 1), padding_mode="reflection", align_corners=True)),
    ],
    ids=lambda m: type(m).__name__,
)
def test_operators_give_what_pytorch_gives(module: nn.Module, tmp_path: Path) -> None:
    torch.manual_seed(1)
    x = torch.randn(X)
    package = convert(module, tmp_path, coremltools.precision.FLOAT32)
    (actual,) = mil_reference.evaluate(mil_reference.load(package), [x.numpy()])
    with torch.no_grad():
        expected = module(x).numpy()
    np.testing.assert_allclose(actual, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.slow
def test_half_precision_rounds_after_every_operator(tmp_path: Path) -> None:
    package = convert(Apply(lambda x: (x + 1000.0) - 1000.0), tmp_path, coremltools.precision.FLOAT16)
    x = np.full(X, 0.3, dtype=np.float32)
    (actual,) = mil_reference.evaluate(mil_reference.load(package), [x])
    expected = (np.float16(0.3) + np.float16(1000)) - np.float16(1000)
    assert actual.flat[0] == expected == 0.5


def test_a_gelu_is_approximated_where_the_program_says_so() -> None:
    """Built by hand: coremltools 9.0 converts an exported tanh GELU to the exact one without a word."""

    @Builder.program(input_specs=[Builder.TensorSpec(shape=(2, 3))])
    def program(x):  # type: ignore[no-untyped-def]
        return Builder.gelu(x=x, mode="TANH_APPROXIMATION")

    x = torch.tensor([[-2.0, -1.0, -0.3], [0.4, 1.1, 2.0]])
    (actual,) = mil_reference.evaluate(program, [x.numpy()])
    np.testing.assert_allclose(actual, F.gelu(x, approximate="tanh").numpy(), atol=1e-6)


@pytest.mark.slow
def test_a_reciprocal_has_the_epsilon_that_coremltools_gives_it(tmp_path: Path) -> None:
    """coremltools 9.0 writes `torch.reciprocal` as 1 / (x + 1e-4), which fp16 hides and fp32 shows."""
    x = torch.rand(X) + 1
    package = convert(Apply(torch.reciprocal), tmp_path, coremltools.precision.FLOAT32)
    (actual,) = mil_reference.evaluate(mil_reference.load(package), [x.numpy()])
    np.testing.assert_allclose(actual, (1 / (x + 1e-4)).numpy(), rtol=1e-6)


def test_an_unknown_operator_is_refused_by_name() -> None:
    @Builder.program(input_specs=[Builder.TensorSpec(shape=(2, 3))])
    def program(x):  # type: ignore[no-untyped-def]
        return Builder.non_zero(x=x)

    with pytest.raises(CheckFailed, match="'non_zero' is not known"):
        mil_reference.evaluate(program, [np.zeros((2, 3), dtype=np.float32)])
