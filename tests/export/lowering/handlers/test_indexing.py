"""Places of a dimension, taken in every way that survives an export."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from export.lowering import LoweringError, lower
from tests.conftest import Apply
from tests.export.lowering.check import VIDEO, assert_lowers_exactly

Function = Callable[[torch.Tensor], torch.Tensor]


class Indexed(nn.Module):
    """A function of a video and of an index that is known."""

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], places: object) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("places", torch.as_tensor(places))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.places, torch.Tensor)
        return self.function(x, self.places)


def operators(module: nn.Module) -> list[str]:
    program = torch.export.export(lower(module, (torch.randn(VIDEO),)), (torch.randn(5, 6, 8, 12),))
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x, i: x.index_select(2, i),
        lambda x, i: x.index_select(-1, i),
        lambda x, i: x[:, i],
        lambda x, i: x[:, :, :, i + 2],
        lambda x, i: x[:, :, -i],
        lambda x, i: x[:, :, i[0]],
        lambda x, i: x[:, i.reshape(2, 2)].flatten(1, 2),
        lambda x, i: x[:, i, i],
        lambda x, i: x[:, i, :, i].mean(-1, keepdim=True)[None],
        lambda x, i: x[..., i[:, None], i],
        lambda x, i: x[..., i, i[:2, None]],
        lambda x, i: x[:, i[:, None, None], :, i[:3, None], i][:, :, :, 0],
        lambda x, i: x[:, i.reshape(2, 1, 2), i[:3, None]].flatten(2, 3)[:, :, :, 0],
        lambda x, i: x.repeat(1, 1, 2, 1, 1)[:, :, i + 5],
        lambda x, i: x.mean(2)[:, i],
        lambda x, i: torch.take_along_dim(x, i[None, None, :, None, None], 2),
        lambda x, i: torch.take_along_dim(
            x.mean(1, keepdim=True), i[None, None, :, None, None].expand(1, 6, 4, 1, 1), 2
        ),
        lambda x, i: x.gather(2, i[None, None, :, None, None].expand(1, 4, 4, 8, 5)),
    ],
)
def test_known_places_are_taken(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    assert_lowers_exactly(Indexed(function, [3, 0, 0, 4]))


def test_many_scattered_places_are_taken_by_one_operator() -> None:
    module = Indexed(lambda x, i: x[..., i], [(5 * place) % 12 for place in range(60)])
    assert_lowers_exactly(module)
    assert operators(module) == ["aten.index_select.default"]


def test_the_values_of_an_index_leave_nothing_in_the_graph() -> None:
    assert operators(Indexed(lambda x, i: x.index_select(2, i), [0, 2, 4, 1])) == [
        "aten.slice.Tensor",
        "aten.slice.Tensor",
        "aten.cat.default",
    ]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.roll((2, -3), (2, 4)),
        lambda x: x.roll((-1, 9, 5), (2, 3, 1)),
        lambda x: x.roll(7),
        lambda x: x.roll(0, 2),
        lambda x: x.flip(2),
        lambda x: x.flip(1, 2, 3, 4),
        lambda x: x.flip(0, -1),
        lambda x: x.mean(0).fliplr()[None],
        lambda x: x[0].flipud()[None],
        lambda x: x.rot90(1, (3, 4)),
        lambda x: x.rot90(2, (4, 2)),
        lambda x: x.rot90(-1, (2, 3)),
        lambda x: x.rot90(4, (1, 2)),
        lambda x: x[:, :, torch.arange(4, -1, -1)],
    ],
)
def test_places_are_put_in_another_order(function: Function) -> None:
    assert_lowers_exactly(Apply(function))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.unfold(2, 3, 1).mean(-1),
        lambda x: x.unfold(2, 2, 2).amax(-1),
        lambda x: x.unfold(2, 1, 3)[..., 0],
        lambda x: x.unfold(2, 4, 1)[..., 1],
        lambda x: x.unfold(4, 3, 5).flatten(3),
        lambda x: x.unfold(-1, 5, 7).flatten(3),
        lambda x: x.unfold(3, 4, 4).unfold(4, 3, 3).mean((5, 6)),
        lambda x: x.unfold(3, 3, 2).unfold(4, 4, 3).mean((5, 6)),
    ],
)
def test_windows_are_cut(function: Function) -> None:
    assert_lowers_exactly(Apply(function))


@settings(max_examples=12)
@given(st.integers(1, 8), st.integers(1, 9), st.sampled_from([1, 2, 3]))
def test_windows_of_any_size_and_step_are_cut(size: int, step: int, dim: int) -> None:
    module = Apply(lambda x: x.unfold(dim, size, step).movedim(-1, dim).flatten(dim, dim + 1))
    assert_lowers_exactly(module, (1, 8, 8, 8, 3))


def test_windows_that_do_not_overlap_are_only_a_description() -> None:
    assert not any("cat" in name or "slice" in name for name in operators(Apply(lambda x: x.unfold(3, 4, 4).mean(-1))))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:, :, x[0, 0, :2, 0, 0].abs().long()],
        lambda x: x.index_select(2, x[0, 0, :2, 0, 0].abs().long()),
        lambda x: x.gather(2, x.abs().long()),
        lambda x: torch.take_along_dim(x, x.argmax(2, keepdim=True), 2),
        lambda x: x.gather(2, torch.arange(12).expand(1, 6, 5, 8, 12) % 5),
    ],
)
def test_places_computed_from_the_input_or_differing_elsewhere_are_refused(function: Function) -> None:
    with pytest.raises(LoweringError, match="known ahead and alike"):
        lower(Apply(function), (torch.randn(VIDEO),))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[0, 0, 0][:, x[0, 0, 0, 0].abs().long()],
        lambda x: x[0, 0, 0].index_select(1, x[0, 0, 0, 0].abs().long()),
        lambda x: x[0, 0, 0].gather(1, x[0, 0, 0].abs().long()),
        lambda x: torch.arange(10.0)[x[0].abs().long()],
    ],
)
def test_at_rank_4_places_may_be_computed(function: Function) -> None:
    assert_lowers_exactly(Apply(function))
