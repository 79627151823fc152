"""Reductions and running sums against torch's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from export.lowering import LoweringError, lower
from tests.conftest import Apply
from tests.export.lowering.check import VIDEO, assert_lowers_exactly

aten = torch.ops.aten


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.mean(),
        lambda x: x.sum(),
        lambda x: x.sum(1),
        lambda x: x.sum((1, 3), keepdim=True),
        lambda x: x.sum(dtype=torch.float64),
        lambda x: (x > 0).sum(1),
        lambda x: x.prod(2),
        lambda x: x.prod(1, keepdim=True),
        lambda x: (1 + x / 100).prod(),
        lambda x: x.logsumexp((1, 2)),
        lambda x: x.logsumexp(1, keepdim=True),
        lambda x: F.relu(x).count_nonzero(),
        lambda x: F.relu(x).count_nonzero(1),
        lambda x: F.relu(x).count_nonzero((1, 2)),
    ],
)
def test_sums_and_products_keep_their_numbers(function: Callable[[torch.Tensor], Any]) -> None:
    assert_lowers_exactly(Apply(function))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.amax(),
        lambda x: x.amin((1, 2)),
        lambda x: x.max(),
        lambda x: x.min(),
        lambda x: tuple(x.max(1)),
        lambda x: x.max(2).values,
        lambda x: x.min(3, keepdim=True).indices,
        lambda x: tuple(torch.aminmax(x, dim=1, keepdim=True)),
        lambda x: tuple(torch.aminmax(x)),
        lambda x: x.argmax(1),
        lambda x: x.argmin(2, keepdim=True),
        lambda x: x.argmax(),
        lambda x: x.argmin(keepdim=True),
        lambda x: x.reshape(1, 6, 5, 4, 2, 12).transpose(3, 4).flatten(3).argmax(-1),
        lambda x: (x > 3).any(),
        lambda x: (x > 1).any(1),
        lambda x: F.relu(x - 1).any((1, 2), keepdim=True),
        lambda x: (x > -9).all(),
        lambda x: (x > -1).all(2, keepdim=True),
        lambda x: (x > -2).all((3, 4)),
    ],
)
def test_extremes_and_their_places_are_the_same(function: Callable[[torch.Tensor], Any]) -> None:
    assert_lowers_exactly(Apply(function))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.var(2),
        lambda x: x.var(1, keepdim=True),
        lambda x: x.var((1, 2), unbiased=False),
        lambda x: x.var(),
        lambda x: aten.var.default(x, False),
        lambda x: x.std((3, 4), keepdim=True),
        lambda x: x.std((3, 4), correction=2),
        lambda x: tuple(torch.var_mean(x, 1)),
        lambda x: tuple(torch.std_mean(x, (1, 3), keepdim=True)),
        lambda x: tuple(torch.std_mean(x, correction=0)),
    ],
)
def test_variances_keep_their_numbers(function: Callable[[torch.Tensor], Any]) -> None:
    assert_lowers_exactly(Apply(function))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.norm(),
        lambda x: x.norm(dim=1),
        lambda x: x.norm(p=3, dim=1),
        lambda x: x.norm(p=1, dim=2),
        lambda x: x.norm(p="fro", dim=(1, 2)),
        lambda x: torch.linalg.vector_norm(x, torch.inf, 3),
        lambda x: torch.linalg.vector_norm(x, -torch.inf, 3),
        lambda x: torch.linalg.vector_norm(F.relu(x), 0, 3),
        lambda x: torch.linalg.vector_norm(x, 2, (1, 2), dtype=torch.float64),
        lambda x: torch.linalg.matrix_norm(x, dim=(3, 4), keepdim=True),
        lambda x: torch.linalg.norm(x),
        lambda x: torch.linalg.norm(x, 1, dim=1),
        lambda x: aten.norm.ScalarOpt_dim(x, None, [1]),
        lambda x: aten.norm.Scalar(x, 1),
        lambda x: F.normalize(x, dim=1),
        lambda x: F.normalize(x.movedim(1, -1), dim=-1).movedim(-1, 1),
        lambda x: F.normalize(x, p=1, dim=2),
    ],
)
def test_norms_of_vectors_keep_their_numbers(function: Callable[[torch.Tensor], Any]) -> None:
    assert_lowers_exactly(Apply(function))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.cumsum(2),
        lambda x: x.cumsum(-1),
        lambda x: x.cumsum(0),
        lambda x: (x > 0).cumsum(1),
        lambda x: x.cumprod(2),
        lambda x: x.movedim(1, -1).flatten(1, 2).cumsum(1).unflatten(1, (5, 8)).movedim(-1, 1),
    ],
)
def test_running_sums_keep_their_numbers(function: Callable[[torch.Tensor], Any]) -> None:
    assert_lowers_exactly(Apply(function))


@given(st.sets(st.integers(0, 6), min_size=1), st.permutations(range(7)), st.booleans())
@settings(max_examples=20)
def test_a_reduction_over_any_dimensions_in_any_order_keeps_its_numbers(
    dims: set[int], order: list[int], keepdim: bool
) -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        wide = x.reshape(1, 2, 3, 5, 2, 2, 3).permute(order)
        reduced = [wide.sum(sorted(dims), keepdim), wide.amax(sorted(dims), keepdim)]
        return tuple(result.flatten() for result in reduced)

    assert_lowers_exactly(Apply(function), (1, 6, 5, 4, 3))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x[:, :, :1].var(2), "a variance of 1 elements"),
        (lambda x: torch.linalg.matrix_norm(x, "nuc", dim=(3, 4)), "a matrix norm of order nuc"),
        (lambda x: torch.linalg.norm(x[0, 0, 0], 2, dim=(0, 1)), "a matrix norm of order 2"),
    ],
)
def test_what_is_no_reduction_of_elements_is_refused(function: Callable[[torch.Tensor], Any], reason: str) -> None:
    with pytest.raises(LoweringError, match=reason):
        lower(Apply(function), (torch.randn(VIDEO),))
