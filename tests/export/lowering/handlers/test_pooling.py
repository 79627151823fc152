"""Pooling of videos against PyTorch's own, with every way to round sizes and to count."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from export.lowering import LoweringError, lower
from tests.conftest import Apply
from tests.export.lowering.check import VIDEO, assert_lowers_exactly


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool3d(2),
        nn.MaxPool3d(3, 2, 1),
        nn.MaxPool3d(3, 2, 1, ceil_mode=True),
        nn.MaxPool3d((2, 1, 1)),
        nn.MaxPool3d((1, 2, 3), ceil_mode=True),
        nn.MaxPool3d((2, 3, 2), (2, 1, 3), 1, dilation=(3, 1, 2)),
        nn.MaxPool3d((4, 3, 5), 1, (2, 1, 2)),
        nn.MaxPool3d(1, 2),
        Apply(lambda x: F.max_pool3d(x[0], 2)),
        Apply(lambda x: F.max_pool3d(x - 100, 3, padding=1)),
        Apply(lambda x: F.max_pool3d(x, 2, return_indices=True)[0]),
        Apply(lambda x: F.max_pool3d(x.reshape(2, 3, 5, 8, 12), 2).flatten(0, 1)),
    ],
    ids=repr,
)
def test_the_maximum_of_each_window(pool: nn.Module) -> None:
    assert_lowers_exactly(pool)


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("ceil", [True, False])
@pytest.mark.parametrize("sizes", [(2, 2, 0), (3, 2, 1), ((2, 1, 3), (3, 2, 2), (1, 0, 1)), (1, 2, 0)], ids=str)
def test_the_mean_of_each_window(sizes: tuple[int, int, int], ceil: bool, include: bool) -> None:
    assert_lowers_exactly(nn.AvgPool3d(*sizes, ceil_mode=ceil, count_include_pad=include))


def test_the_mean_by_a_divisor_of_ones_own() -> None:
    assert_lowers_exactly(nn.AvgPool3d(3, 2, 1, ceil_mode=True, divisor_override=5))


def test_a_power_mean_of_each_window() -> None:
    assert_lowers_exactly(nn.LPPool3d(2, 2))


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d])
@pytest.mark.parametrize("size", [1, (5, 4, 6), (2, 3, None), (1, 4, 5), (3, 1, 1), (10, 8, 24), (None, 7, 5)], ids=str)
def test_windows_of_an_even_share(pool: type[nn.Module], size: int | tuple[int | None, ...]) -> None:
    assert_lowers_exactly(pool(size))


def test_the_places_of_maxima_are_refused_by_name() -> None:
    module = Apply(lambda x: F.max_unpool3d(*F.max_pool3d(x, 2, return_indices=True), 2))
    with pytest.raises(LoweringError, match=r"max_pool3d_with_indices.*needs the indices of its maxima"):
        lower(module, (torch.randn(VIDEO),))


def test_a_window_of_padding_alone_is_refused() -> None:
    with pytest.raises(LoweringError, match="nothing but padding"):
        lower(nn.MaxPool3d((2, 1, 1), 1, (1, 0, 0), dilation=(2, 1, 1)), (torch.randn(1, 2, 1, 4, 4),))
