"""Writing into parts of a video, as models spell it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from export.lowering import lower
from tests.conftest import Apply
from tests.export.lowering.check import VIDEO, assert_lowers_exactly


def zeroed(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, :, 1] = 0
    return y


def copied(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, :, 2:4] = x[:, :, :2] * 2
    y[:, -1, :, 3] = x[:, 0, :, 0, :1].double()
    y[:, 1] = x.mean()
    return y


def shifted(x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros_like(x)
    y[:, :, 1:] = x[:, :, :-1]
    return y


def alternated(x: torch.Tensor) -> torch.Tensor:
    y = x.new_ones(1, 6, 10, 8, 12)
    y[:, :, ::2] = x
    y[:, :, 1::2] += x
    y[..., 1::4] = 7
    return y


@pytest.mark.parametrize(
    "function",
    [
        zeroed,
        copied,
        shifted,
        alternated,
        lambda x: torch.select_scatter(x, x[:, :, 0] * 2, 2, -1),
        lambda x: torch.slice_scatter(x, x[:, :, :2] * 2, 2, 1, 5, 2),
        lambda x: torch.slice_scatter(x, x[..., :4] * 2, -1, 2, None, 3),
        lambda x: torch.slice_scatter(x, x * 2, 3),
        lambda x: torch.full_like(x, 3) * x + torch.ones_like(x) - x.new_zeros(8, 12) + x.new_full((12,), 0.5),
        lambda x: torch.cat([x.new_full((1, 6, 2, 8, 12), 0.5), x, torch.zeros_like(x[:, :, :1])], 2),
    ],
)
def test_what_is_written_is_there(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert_lowers_exactly(Apply(function))


@settings(max_examples=12)
@given(dim=st.integers(1, 3), start=st.integers(-6, 5), end=st.integers(-6, 8), step=st.integers(1, 4))
def test_any_slice_is_written(dim: int, start: int, end: int, step: int) -> None:
    places = range(6)[start:end:step]
    assume(places)

    def write(x: torch.Tensor) -> torch.Tensor:
        return torch.slice_scatter(x, (x * 2).narrow(dim, 0, len(places)), dim, start, end, step)

    assert_lowers_exactly(Apply(write), (1, 6, 6, 6, 2))


def test_a_shift_into_zeros_is_padding() -> None:
    program = torch.export.export(lower(Apply(shifted), (torch.randn(VIDEO),)), (torch.randn(5, 6, 8, 12),))
    calls = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert calls == ["aten.slice.Tensor", "aten.pad.default"]
    assert not program.state_dict
