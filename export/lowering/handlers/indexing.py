"""Operators that take some places of a dimension, or put them in another order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.fx import Node

from export.lowering.alignment import isolated, joined
from export.lowering.constants import Weight
from export.lowering.handlers.registry import handles
from export.lowering.nested import map_nested, tensors_in
from export.lowering.packed import MAX_RANK, Packed, Unrepresentable
from export.lowering.resampling import placed, side_by_side

if TYPE_CHECKING:
    from export.lowering.lower import Lowering


def take(x: Packed, dim: int, start: int, stop: int, step: int = 1) -> Packed:
    """The places `start:stop:step` of a dimension."""
    if (start, stop, step) == (0, x.shape[dim], 1):
        return x
    if x.dims[dim] and not set(x.dims[dim]) & x.stored:  # a repetition: so many of the same
        return without(x, dim).expand([*x.shape[:dim], len(range(start, stop, step)), *x.shape[dim + 1 :]])
    alone = isolated(x, [dim])
    index = [slice(None)] * alone.storage.ndim
    index[alone.places[dim]] = slice(start, stop, step)
    return alone.result(alone.storage[tuple(index)])


def without(x: Packed, dim: int) -> Packed:
    """One place of a repeated dimension."""
    return x.described(x.axes, [() if index == dim else atoms for index, atoms in enumerate(x.dims)])


def dropped(x: Packed, dim: int) -> Packed:
    """`x` without its dimension `dim`, of size 1."""
    return x.described(x.axes, [atoms for index, atoms in enumerate(x.dims) if index != dim])


@handles("aten.slice.Tensor")
def slice_(
    _lowering: Lowering,
    _node: Node,
    x: Packed,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Packed:
    dim %= len(x.dims)
    return take(x, dim, *slice(start, end, step).indices(x.shape[dim]))


@handles("aten.narrow.default")
def narrow(_lowering: Lowering, _node: Node, x: Packed, dim: int, start: int, length: int) -> Packed:
    dim %= len(x.dims)
    start %= x.shape[dim]
    return take(x, dim, start, start + length)


@handles("aten.select.int")
def select(_lowering: Lowering, _node: Node, x: Packed, dim: int, index: int) -> Packed:
    dim %= len(x.dims)
    index %= x.shape[dim]
    return dropped(take(x, dim, index, index + 1), dim)


@handles("aten.unbind.int")
def unbind(_lowering: Lowering, _node: Node, x: Packed, dim: int = 0) -> list[Packed]:
    dim %= len(x.dims)
    return [dropped(take(x, dim, index, index + 1), dim) for index in range(x.shape[dim])]


@handles(
    "aten.split.Tensor",
    "aten.split.sizes",
    "aten.split_with_sizes.default",
    "aten.chunk.default",
    "aten.tensor_split.sections",
    "aten.tensor_split.indices",
)
def split(_lowering: Lowering, node: Node, x: Packed, _how: Any, dim: int = 0) -> list[Packed]:
    """Every way to cut a dimension: the exported graph knows the sizes of the parts."""
    dim %= len(x.dims)
    parts, start = [], 0
    for example in node.meta["val"]:
        stop = start + int(example.shape[dim])
        parts.append(take(x, dim, start, stop))
        start = stop
    return parts


@handles("aten.index_select.default", weights=True)
def index_select(lowering: Lowering, node: Node, x: Packed | Weight, dim: int, index: Weight | Packed) -> Packed:
    """Places that are known ahead."""
    if isinstance(x, Weight) or isinstance(index, Packed):
        return _as_it_is(lowering, node, x, dim, index)
    return picked(lowering, node, x, dim % len(x.dims), index.array.ravel().tolist())


@handles("aten.index.Tensor", "aten._unsafe_index.Tensor", weights=True)
def index(lowering: Lowering, node: Node, x: Packed | Weight, indices: Sequence[Weight | Packed | None]) -> Packed:
    """Places that are known ahead: dimension by dimension where they form a grid, else of the dimensions flattened."""
    known = {dim: item.array for dim, item in enumerate(indices) if isinstance(item, Weight)}
    if isinstance(x, Weight) or any(isinstance(item, Packed) for item in indices):
        return _as_it_is(lowering, node, x, indices)
    shape = [int(size) for size in node.meta["val"].shape]
    dims = _grid(known)
    for dim in dims or ():
        x = picked(lowering, node, x, dim, known[dim].ravel().tolist())
    at = min(known) if max(known) - min(known) == len(known) - 1 else 0
    others = [dim for dim in range(len(x.dims)) if dim not in known]
    together = x.permute([*others[:at], *(dims or sorted(known)), *others[at:]])
    if dims:
        return together.reshape(shape)
    sizes = [x.shape[dim] for dim in sorted(known)]
    flat = together.reshape([*together.shape[:at], math.prod(sizes), *together.shape[at + len(known) :]])
    places = np.ravel_multi_index([known[dim] % x.shape[dim] for dim in sorted(known)], sizes)
    return picked(lowering, node, flat, at, places.ravel().tolist()).reshape(shape)


@handles("aten.gather.default", weights=True)
def gather(lowering: Lowering, node: Node, x: Packed | Weight, dim: int, index: Weight | Packed, **_: Any) -> Packed:
    """Places that are known ahead and alike along the other dimensions."""
    places = _alike(index, dim)
    if isinstance(x, Weight) or isinstance(index, Packed) or places is None:
        return _as_it_is(lowering, node, x, dim, index)
    dim %= len(x.dims)
    for other, size in enumerate(index.array.shape):
        if other != dim:
            x = take(x, other, 0, size)
    return picked(lowering, node, x, dim, places)


@handles("aten.take_along_dim.default", weights=True)
def take_along_dim(
    lowering: Lowering, node: Node, x: Packed | Weight, index: Weight | Packed, dim: int | None = None
) -> Packed:
    """As `gather`, with broadcasting."""
    places = None if dim is None else _alike(index, dim)
    if isinstance(x, Weight) or dim is None or places is None:
        return _as_it_is(lowering, node, x, index, dim)
    dim %= len(x.dims)
    shape = [int(size) for size in node.meta["val"].shape]
    return picked(lowering, node, x.expand([*shape[:dim], x.shape[dim], *shape[dim + 1 :]]), dim, places)


@handles("aten.roll.default")
def roll(lowering: Lowering, node: Node, x: Packed, shifts: Sequence[int], dims: Sequence[int] = ()) -> Packed:
    """The last places of a dimension before the others; without dimensions, of the flattened tensor."""
    if not dims:
        return roll(lowering, node, x.reshape([math.prod(x.shape)]), shifts, [0]).reshape(x.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        size = x.shape[dim]
        x = picked(lowering, node, x, dim % len(x.dims), [(place - shift) % size for place in range(size)])
    return x


@handles("aten.flip.default")
def flip(_lowering: Lowering, _node: Node, x: Packed, dims: Sequence[int]) -> Packed:
    """Three dimensions at a time."""
    turned = [dim % len(x.dims) for dim in dims if x.shape[dim] > 1]
    for some in (turned[place : place + 3] for place in range(0, len(turned), 3)):
        alone = isolated(x, some)
        x = alone.result(alone.storage.flip([alone.places[dim] for dim in some]))
    return x


@handles("aten.fliplr.default")
def fliplr(lowering: Lowering, node: Node, x: Packed) -> Packed:
    return flip(lowering, node, x, [1])


@handles("aten.flipud.default")
def flipud(lowering: Lowering, node: Node, x: Packed) -> Packed:
    return flip(lowering, node, x, [0])


@handles("aten.rot90.default")
def rot90(lowering: Lowering, node: Node, x: Packed, times: int = 1, dims: Sequence[int] = (0, 1)) -> Packed:
    """Flips, and for a quarter turn the two dimensions swapped."""
    first, second = (dim % len(x.dims) for dim in dims)
    turned = flip(lowering, node, x, [[], [second], [first, second], [first]][times % 4])
    order = list(range(len(x.dims)))
    if times % 2:
        order[first], order[second] = second, first
    return turned.permute(order)


@handles("aten.unfold.default")
def unfold(_lowering: Lowering, _node: Node, x: Packed, dim: int, size: int, step: int) -> Packed:
    """Windows along `dim`, their places along a new last dimension: a reshape if they do not overlap, else slices."""
    dim %= len(x.dims)
    count = (x.shape[dim] - size) // step + 1
    before, after = x.shape[:dim], x.shape[dim + 1 :]
    if x.shape[dim] >= count * step >= count * size:
        cells = take(x, dim, 0, count * step).reshape([*before, count, step, *after])
        return _moved_last(take(cells, dim + 1, 0, size), dim + 1)
    if count < size:
        rows = [take(x, dim, step * row, step * row + size).reshape([*before, 1, size, *after]) for row in range(count)]
        return _moved_last(beside(rows, dim), dim + 1)
    columns = [take(x, dim, place, place + step * (count - 1) + 1, step) for place in range(size)]
    return beside([column.reshape([*column.shape, 1]) for column in columns], len(x.dims))


def picked(lowering: Lowering, node: Node, x: Packed, dim: int, places: Sequence[int]) -> Packed:
    """Known places of a dimension: slices where few will do, else one operator that gets the places as a constant."""
    size = x.shape[dim]
    places = [place % size for place in places]
    if not places:
        raise Unrepresentable("an empty tensor,")
    if places == list(range(size)):
        return x
    alone = isolated(x, [dim])
    axis = alone.places[dim]
    return alone.result(placed(lowering.constant, f"{node.name}_{dim}", alone.storage, axis, places))


def beside(parts: Sequence[Packed], dim: int) -> Packed:
    """Tensors one behind the other along `dim`."""
    storages, pattern = joined(parts, dim)
    return pattern.result(side_by_side(storages, pattern.places[dim]))


def _grid(known: dict[int, np.ndarray]) -> list[int] | None:
    """The indexed dimensions in the order of the result, where each varies along axes of its own; else None."""
    rank = max(array.ndim for array in known.values())
    axes = {
        dim: [rank - array.ndim + axis for axis, size in enumerate(array.shape) if size > 1]
        for dim, array in known.items()
    }
    dims = sorted(known, key=lambda dim: axes[dim])
    order = [axis for dim in dims for axis in axes[dim]]
    return dims if all(here < there for here, there in pairwise(order)) else None


def _alike(index: Weight | Packed, dim: int) -> list[int] | None:
    """The places along `dim` of an index that is the same all along the other dimensions; else None."""
    if isinstance(index, Packed):
        return None
    lines = np.moveaxis(index.array, dim, 0).reshape(index.array.shape[dim], -1)
    return lines[:, 0].tolist() if (lines == lines[:, :1]).all() else None


def _moved_last(x: Packed, dim: int) -> Packed:
    return x.permute([*(place for place in range(len(x.dims)) if place != dim), dim])


def _as_it_is(lowering: Lowering, node: Node, *args: Any) -> Packed:
    """An operator whose places are not known ahead, on tensors of rank 4 at most."""
    used = [tensor for item in (*node.all_input_nodes, node) for tensor in tensors_in(item.meta.get("val"))]
    if any(tensor.ndim > MAX_RANK for tensor in used):
        raise Unrepresentable("places that are known ahead and alike along the other dimensions,")

    def plain(item: Any) -> Any:
        packed = lowering.packed(item) if isinstance(item, Weight) else item
        return packed.plain() if isinstance(packed, Packed) else packed

    assert callable(node.target)
    return Packed.of(node.target(*map_nested(args, plain)))
