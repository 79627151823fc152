"""Transposed 3-D convolutions against torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from export.lowering import LoweringError, lower
from tests.conftest import Apply
from tests.export.lowering.check import VIDEO, assert_lowers_exactly


@pytest.mark.parametrize(
    "convolution",
    [
        nn.ConvTranspose3d(6, 4, 3),
        nn.ConvTranspose3d(6, 4, 2, stride=2),
        nn.ConvTranspose3d(6, 4, 4, stride=2, padding=1),
        nn.ConvTranspose3d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
        nn.ConvTranspose3d(6, 6, (1, 4, 4), stride=(1, 2, 2), padding=(0, 1, 1), groups=6, bias=False),
        nn.ConvTranspose3d(6, 4, (3, 2, 1), stride=(3, 1, 2), dilation=(1, 2, 1), output_padding=(2, 0, 1)),
        nn.ConvTranspose3d(6, 4, 2, stride=2, dilation=2),
        nn.ConvTranspose3d(6, 4, 3, stride=3, padding=(1, 1, 0), output_padding=(2, 1, 2)),
        nn.ConvTranspose3d(6, 4, 1, dilation=(2, 4, 3), output_padding=(1, 3, 2)),
        nn.ConvTranspose3d(6, 4, 1, stride=3, bias=False),
        nn.ConvTranspose3d(6, 4, (5, 1, 1), padding=(2, 0, 0)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("frames", [2, 5])
def test_a_transposed_convolution_becomes_two_dimensional_ones(convolution: nn.Module, frames: int) -> None:
    assert_lowers_exactly(convolution, (1, 6, frames, 5, 7))


@settings(max_examples=20)
@given(
    frames=st.integers(1, 4),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    padding=st.integers(0, 4),
    output_padding=st.integers(0, 3),
    dilation=st.integers(1, 3),
    bias=st.booleans(),
)
def test_any_way_through_time_keeps_its_numbers(
    frames: int, kernel: int, stride: int, padding: int, output_padding: int, dilation: int, bias: bool
) -> None:
    assume(output_padding < max(stride, dilation))
    assume((frames - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1 > 0)
    convolution = nn.ConvTranspose3d(
        2,
        3,
        (kernel, 1, 1),
        stride=(stride, 1, 1),
        padding=(padding, 0, 0),
        output_padding=(output_padding, 0, 0),
        dilation=(dilation, 1, 1),
        bias=bias,
    )
    nn.init.constant_(convolution.weight, 0.5)
    assert_lowers_exactly(convolution, (1, 2, frames, 2, 2))


def test_several_videos_and_none_in_particular_are_convolved_too() -> None:
    halves = nn.ConvTranspose3d(3, 4, 3, stride=2)
    assert_lowers_exactly(Apply(lambda x: halves(x.unflatten(1, (2, 3))[0]).flatten(0, 1)[None]))
    assert_lowers_exactly(Apply(lambda x: halves(x[0, :3])[None]))


def test_twice_as_many_frames_are_put_in_order_without_a_transpose() -> None:
    lowered = lower(nn.ConvTranspose3d(6, 4, 4, stride=2, padding=1), (torch.randn(VIDEO),))
    program = torch.export.export(lowered, (torch.randn(5, 6, 8, 12),))
    calls = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert calls.count("aten.conv_transpose2d.input") == 4
    assert not any("permute" in name or "transpose." in name for name in calls)


def test_a_weight_computed_from_the_input_is_refused() -> None:
    module = Apply(lambda x: F.conv_transpose3d(x, x[:, :, :2, :1, :1].transpose(0, 1)))
    with pytest.raises(LoweringError, match="computed from the input"):
        lower(module, (torch.randn(VIDEO),))
