"""Operators that write into a part of a tensor, and tensors of one value, into which models write."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from export.lowering.constants import Weight
from export.lowering.handlers.indexing import beside, picked, take
from export.lowering.handlers.joining import cat
from export.lowering.handlers.registry import handles
from export.lowering.packed import Packed

if TYPE_CHECKING:
    from export.lowering.lower import Lowering


@handles("aten.select_scatter.default")
def select_scatter(lowering: Lowering, node: Node, x: Packed, part: Packed, dim: int, index: int) -> Packed:
    """A part of size 1 between what lies before and behind it."""
    dim %= len(x.dims)
    wide = part.reshape([*x.shape[:dim], 1, *x.shape[dim + 1 :]])
    start = index % x.shape[dim]
    return slice_scatter(lowering, node, x, wide, dim, start, start + 1)


@handles("aten.slice_scatter.default")
def slice_scatter(
    lowering: Lowering,
    node: Node,
    x: Packed,
    part: Packed,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Packed:
    """A part between what lies before and behind it; with a step, in one column of the dimension cut into rows."""
    dim %= len(x.dims)
    shape, size = list(x.shape), x.shape[dim]
    places = range(*slice(start, end, step).indices(size))
    if not places:
        return x
    if step == 1 or len(places) == 1:
        pieces = [take(x, dim, 0, places[0]), part, take(x, dim, places[-1] + 1, size)]
        return cat(lowering, node, pieces, dim)
    if len(places) * step == size:
        before, after = shape[:dim], shape[dim + 1 :]
        rows = x.reshape([*before, size // step, step, *after])
        column = part.reshape([*before, size // step, 1, *after])
        sides = [(0, places[0]), (places[0] + 1, step)]
        left, right = ([take(rows, dim + 1, *side)] if side[0] < side[1] else [] for side in sides)
        return beside([*left, column, *right], dim + 1).reshape(shape)
    written = {place: size + number for number, place in enumerate(places)}
    return picked(lowering, node, beside([x, part], dim), dim, [written.get(place, place) for place in range(size)])


@handles("aten.copy.default")
def copy(_lowering: Lowering, node: Node, _x: Packed, source: Packed, *_args: Any) -> Packed:
    """What was written, in the shape and type of what it was written into."""
    example = node.meta["val"]
    wide = source.expand([int(size) for size in example.shape])
    return wide if wide.storage.dtype == example.dtype else wide.mapped(lambda storage: storage.to(example.dtype))


@handles("aten.fill.Tensor", "aten.fill.Scalar", "aten.full_like.default", weights=True)
def fill(lowering: Lowering, node: Node, x: Packed, value: Weight | Packed | float, **_: Any) -> Packed:
    """One value everywhere."""
    if isinstance(value, Packed):
        return copy(lowering, node, x, value)
    number = value.value if isinstance(value, Weight) else value
    assert number is not None
    return _everywhere(lowering, node, number)


@handles("aten.new_full.default")
def new_full(lowering: Lowering, node: Node, _x: Packed, _size: Sequence[int], value: float, **_: Any) -> Packed:
    return _everywhere(lowering, node, value)


@handles("aten.zeros_like.default", "aten.new_zeros.default")
def zeros(lowering: Lowering, node: Node, *_args: Any, **_: Any) -> Packed:
    return _everywhere(lowering, node, 0)


@handles("aten.ones_like.default", "aten.new_ones.default")
def ones(lowering: Lowering, node: Node, *_args: Any, **_: Any) -> Packed:
    return _everywhere(lowering, node, 1)


def _everywhere(lowering: Lowering, node: Node, value: float) -> Packed:
    """A tensor of the shape and type of the node's result."""
    example = node.meta["val"]
    return lowering.packed(_single(value, example.dtype)).expand([int(size) for size in example.shape])


@cache
def _single(value: float, dtype: torch.dtype) -> Weight:
    """One number, made outside of any graph: the first walk is not recorded."""
    return Weight(f"all_{value}_{dtype}", torch.full((), value, dtype=dtype), value)
