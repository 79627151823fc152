"""Operators that take some places of a dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from export.lowering.alignment import isolated
from export.lowering.handlers.registry import handles
from export.lowering.packed import Packed

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


def gather(x: Packed, dim: int, places: Sequence[int]) -> Packed:
    """Known places of a dimension, as few slices as there are evenly spaced runs among them."""
    runs = _runs(places)
    alone = isolated(x, [dim])
    axis = alone.places[dim]
    parts = []
    for start, step, count in runs:
        index = [slice(None)] * alone.storage.ndim
        stop = start + step * (count - 1) + 1
        index[axis] = slice(start, stop, max(step, 1))
        part = alone.storage[tuple(index)]
        parts += [part] * (count if step == 0 else 1)
    return alone.result(parts[0] if len(parts) == 1 else torch.cat(parts, axis))


def _runs(places: Sequence[int]) -> list[tuple[int, int, int]]:
    """(start, step, count) of runs with a constant step of 0 or more."""
    runs: list[tuple[int, int, int]] = []
    for place in places:
        if runs:
            start, step, count = runs[-1]
            gap = place - (start + step * (count - 1))
            if gap >= 0 and (count == 1 or gap == step):
                runs[-1] = (start, gap, count + 1)
                continue
        runs.append((place, 0, 1))
    return runs
