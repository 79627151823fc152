"""Reach: found by running the model, expected from the arithmetic of its layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from export.lowering import LoweringError
from export.lowering.reach import reach
from tests.conftest import Apply
from toolkit import students
from toolkit.tiling import Axis

LATENT = torch.randn(1, 2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
SMALL = {"latent_channels": 4, "widths": [16, 16, 16]}
Layer = tuple[int, int, int]
"""Positions looked at before and after along every axis, and the factor of the nearest upsampling in front."""


class Stack(nn.Module):
    """Nearest upsampling and a convolution, layer by layer; edges are repeated."""

    def __init__(self, layers: Sequence[Layer], channels: int = 2) -> None:
        super().__init__()
        self.layers = layers
        kernels = [before + after + 1 for before, after, _ in layers]
        self.convolutions = nn.ModuleList(nn.Conv3d(channels, channels, kernel) for kernel in kernels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for (before, after, factor), convolution in zip(self.layers, self.convolutions, strict=True):
            x = x.repeat_interleave(factor, 2).repeat_interleave(factor, 3).repeat_interleave(factor, 4)
            x = F.relu(convolution(F.pad(x, (before, after) * 3, mode="replicate")))
        return x


def expected(layers: Sequence[Layer]) -> Axis:
    """From the output back: which latent positions does each of the outputs of one latent position look at?"""
    factor = 1
    for _, _, stage in layers:
        factor *= stage
    lowest, highest = 0, 0
    for output in range(factor):
        low, high = output, output
        for before, after, stage in reversed(layers):
            low, high = (low - before) // stage, (high + after) // stage
        lowest, highest = min(lowest, low), max(highest, high)
    return Axis(factor=factor, before=-lowest, after=highest)


layers = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(1, 2)), min_size=1, max_size=4)


@settings(max_examples=15, deadline=None)
@given(layers)
def test_reach_of_any_stack_of_convolutions_is_what_its_kernels_say(layers: list[Layer]) -> None:
    found = reach(Stack(layers), LATENT)
    assert found.time == found.rows == found.columns == expected(layers)


def test_reach_is_measured_for_each_axis_on_its_own() -> None:
    found = reach(nn.Conv3d(2, 3, (3, 5, 1), padding=(1, 2, 0)), LATENT)
    assert found.time == Axis(factor=1, before=1, after=1)
    assert found.rows == Axis(factor=1, before=2, after=2)
    assert found.columns == Axis(factor=1, before=0, after=0)


def test_weights_of_zero_count_as_looked_at() -> None:
    convolution = nn.Conv3d(2, 3, 5, padding=2)
    nn.init.zeros_(convolution.weight)
    assert reach(convolution, LATENT).rows == Axis(factor=1, before=2, after=2)


def test_what_ignores_the_latent_reaches_nowhere() -> None:
    assert reach(Apply(torch.ones_like), LATENT).rows == Axis(factor=1, before=0, after=0)


def test_a_transposed_convolution_may_give_more_than_factor_times_as_many() -> None:
    found = reach(nn.ConvTranspose3d(2, 3, 4, stride=2), LATENT).time
    assert found == Axis(factor=2, dropped=-2, before=0, after=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "time", "space"),
    [
        ({}, (10, 9), 10),  # 10, not 9: the first frame of a tile is dropped
        ({"keep_first_frames": True}, (9, 9), 10),
        ({"keep_first_frames": True, "temporal_padding": "causal"}, (18, 0), 10),
        ({"widths": [32, 32, 16]}, (12, 11), 12),  # a change of width is a residual block more, as in the preset
    ],
)
def test_reach_of_the_demo_student(overrides: dict[str, object], time: tuple[int, int], space: int) -> None:
    student = students.build("turbo_vaed", "demo", SMALL | overrides)
    found = reach(student, torch.randn(1, 4, 3, 6, 6))
    dropped = 0 if "keep_first_frames" in overrides else 1
    assert found.time == Axis(factor=2, dropped=dropped, before=time[0], after=time[1])
    assert found.rows == found.columns == Axis(factor=8, before=space, after=space)


def rectified(swallow: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    return nn.Sequential(*(nn.Conv3d(2, 2, 3, padding=1), Apply(swallow)) * 3)


@pytest.mark.parametrize(
    "swallow",
    [
        lambda x: torch.where(x > 0, x, 0.0),
        lambda x: torch.nan_to_num(x).relu(),
        lambda x: torch.fmax(x, torch.zeros(())),
        lambda x: x.clone().masked_fill_(x < 0, 0.0),
        lambda x: x + torch.stack([x.argmax(1), x.argmin(1)], 1),
        lambda x: torch.where(x.isnan(), 0.0, x),
    ],
)
def test_operators_that_swallow_nan_hide_nothing(swallow: Callable[[torch.Tensor], torch.Tensor]) -> None:
    torch.manual_seed(0)
    assert reach(rectified(swallow), LATENT).rows == Axis(factor=1, before=3, after=3)


def test_decisions_through_whole_numbers_are_found_by_their_values() -> None:
    torch.manual_seed(0)
    decided = nn.Sequential(
        nn.Conv3d(2, 8, 3, padding=1), Apply(lambda x: F.one_hot(x.argmax(1), 8).movedim(-1, 1).float())
    )
    assert reach(decided, LATENT).time == Axis(factor=1, before=1, after=1)


@pytest.mark.parametrize(
    "everything",
    [
        nn.GroupNorm(1, 2),
        Apply(lambda x: x.cumsum(2).cumsum(3).cumsum(4)),
        Apply(lambda x: F.scaled_dot_product_attention(*[x.flatten(2).transpose(1, 2)] * 3).mT.reshape(x.shape)),
    ],
)
def test_what_sees_the_whole_axis_has_no_reach(everything: nn.Module) -> None:
    found = reach(nn.Sequential(nn.Conv3d(2, 2, 3, padding=1), everything), LATENT)
    assert found.time == found.rows == found.columns == Axis(factor=1)


def test_a_norm_over_each_picture_leaves_time_alone() -> None:
    pictures = Apply(lambda x: (x - x.mean((3, 4), keepdim=True)) / x.std((3, 4), keepdim=True))
    found = reach(nn.Sequential(nn.Conv3d(2, 2, 3, padding=1), pictures), LATENT)
    assert found.time == Axis(factor=1, before=1, after=1)
    assert found.rows == found.columns == Axis(factor=1)


@pytest.mark.parametrize(
    "uneven",
    [
        lambda x: x * torch.arange(x.shape[2]).view(-1, 1, 1),  # a position's number
        lambda x: torch.cat([part - part.mean(2, keepdim=True) for part in x.split(4, 2)], 2),  # chunks of four
    ],
)
def test_positions_that_are_treated_unlike_each_other_cannot_be_tiled(
    uneven: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    assert reach(Apply(uneven), LATENT).time == Axis(factor=1)


def test_rounding_that_a_model_amplifies_is_no_difference() -> None:
    torch.manual_seed(0)
    steep = nn.Sequential(nn.Conv3d(2, 64, 3, padding=1), Apply(lambda x: (1e6 * x.sum(1, keepdim=True)).sin()))
    assert reach(steep, LATENT).rows == Axis(factor=1, before=1, after=1)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Apply(lambda x: x.mean((2, 3, 4))), "gives no single video"),
        (nn.AvgPool3d(2), "not as many more for each"),
        (nn.Linear(7, 7), "takes no latent"),
    ],
)
def test_what_is_no_decoder_is_refused_with_the_reason(module: nn.Module, said: str) -> None:
    with pytest.raises(LoweringError, match=said):
        reach(module, LATENT)


def test_models_that_take_no_tiny_latent_are_run_at_their_own_size() -> None:
    reflected = Apply(lambda x: F.avg_pool3d(F.pad(x, (2,) * 6, mode="reflect"), 5, stride=1))
    assert reach(reflected, LATENT).rows == Axis(factor=1, before=2, after=2)
