"""Every form of a 3-D convolution gives the numbers of the convolution itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from export.lowering.constants import Weight
from export.lowering.forms import FORMS, Convolution, apply, choose, possible


def convolution(out: int = 3, kernel: int = 3, stride: int = 1, dilation: int = 1, groups: int = 1) -> Convolution:
    torch.manual_seed(0)
    return Convolution(
        weight=Weight.of("weight", torch.randn(out * groups, 12 // groups, kernel, 3, 3)),
        bias=Weight.of("bias", torch.randn(out * groups)),
        stride=(stride, 1, 2),
        padding=(1, 0),
        dilation=(dilation, 1, 1),
        groups=groups,
    )


def keep(_name: str, make: Callable[[], torch.Tensor]) -> torch.Tensor:
    return make()


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    "conv",
    [
        convolution(),
        convolution(kernel=1),
        convolution(kernel=1, stride=2),
        convolution(stride=2),
        convolution(kernel=2, dilation=3),
        convolution(groups=3),
    ],
    ids=["plain", "one tap", "one tap, strided", "strided", "dilated", "grouped"],
)
@pytest.mark.parametrize("form", [None, *FORMS])
def test_a_form_gives_the_convolutions_numbers(form: str | None, conv: Convolution, batch: int) -> None:
    if form is not None and form not in possible(conv):
        return
    video = torch.randn(batch, 12, 7, 6, 5)
    assert conv.bias is not None
    padding = (0, *conv.padding)
    expected = F.conv3d(video, conv.weight.tensor, conv.bias.tensor, conv.stride, padding, conv.dilation, conv.groups)
    frames = video.movedim(2, 0).flatten(0, 1)  # (T * N, C, H, W), time outermost
    result = apply(conv, frames, batch, keep, form).unflatten(0, (-1, batch)).movedim(0, 2)
    assert result.shape == expected.shape
    assert (result - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_few_results_of_many_channels_come_of_one_convolution() -> None:
    assert choose(convolution(out=3)) == "join outputs"
    assert choose(convolution(out=5)) == "shift inputs"
    assert choose(convolution(out=1, groups=3)) == "shift inputs"
