"""Operators that change only the description of a tensor: no data moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from export.lowering.handlers.registry import handles
from export.lowering.packed import Packed, with_rank

if TYPE_CHECKING:
    from export.lowering.lower import Lowering

#: Operators that only check or compute nothing in evaluation mode.
IDENTITIES = (
    "aten.dropout.default",
    "aten.feature_dropout.default",
    "aten.alpha_dropout.default",
    "aten.alias.default",
    "aten.contiguous.default",
    "aten.clone.default",
    "aten.detach.default",
    "aten.lift_fresh_copy.default",
)
RESHAPES = (
    "aten.view.default",
    "aten.reshape.default",
    "aten._unsafe_view.default",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
    "aten.squeeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
    "aten.unsqueeze.default",
    "aten.view_as.default",
    "aten.reshape_as.default",
)


@handles(*IDENTITIES)
def identity(_lowering: Lowering, _node: Node, x: Packed, *_args: Any, **_kwargs: Any) -> Packed:
    return x


@handles("aten._to_copy.default", "aten.to.dtype")
def cast(_lowering: Lowering, node: Node, x: Packed, *_args: Any, **_kwargs: Any) -> Packed:
    dtype = node.meta["val"].dtype
    return x if x.storage.dtype == dtype else x.mapped(lambda storage: storage.to(dtype))


@handles(*RESHAPES)
def reshape(_lowering: Lowering, node: Node, x: Packed, *_args: Any, **_kwargs: Any) -> Packed:
    """Any change of shape in row-major order: the exported graph knows the resulting shape."""
    return x.reshape([int(size) for size in node.meta["val"].shape])


@handles("aten.permute.default")
def permute(_lowering: Lowering, _node: Node, x: Packed, order: Sequence[int]) -> Packed:
    return x.permute([index % len(x.dims) for index in order])


@handles("aten.transpose.int", "aten.swapaxes.default", "aten.swapdims.default")
def transpose(_lowering: Lowering, _node: Node, x: Packed, first: int, second: int) -> Packed:
    order = list(range(len(x.dims)))
    order[first], order[second] = order[second], order[first]
    return x.permute(order)


@handles("aten.movedim.int", "aten.movedim.intlist")
def movedim(_lowering: Lowering, _node: Node, x: Packed, source: Any, destination: Any) -> Packed:
    rank = len(x.dims)
    sources = [i % rank for i in ([source] if isinstance(source, int) else source)]
    destinations = [i % rank for i in ([destination] if isinstance(destination, int) else destination)]
    order = [index for index in range(rank) if index not in sources]
    for place, index in sorted(zip(destinations, sources, strict=True)):
        order.insert(place, index)
    return x.permute(order)


@handles("aten.expand.default", "aten.expand_as.default", "aten.broadcast_to.default")
def expand(_lowering: Lowering, node: Node, x: Packed, *_args: Any, **_kwargs: Any) -> Packed:
    return x.expand([int(size) for size in node.meta["val"].shape])


@handles("aten.repeat.default", "aten.tile.default")
def repeat(_lowering: Lowering, _node: Node, x: Packed, repeats: Sequence[int]) -> Packed:
    """Each repeated dimension is a repetition around what it was."""
    rank = max(len(repeats), len(x.dims))
    repeats = [1] * (rank - len(repeats)) + list(repeats)
    x = with_rank(x, rank)
    outer = x.reshape([size for dim in x.shape for size in (1, dim)])
    wide = outer.expand([size for times, dim in zip(repeats, x.shape, strict=True) for size in (times, dim)])
    dims = [(*wide.dims[2 * index], *wide.dims[2 * index + 1]) for index in range(rank)]
    return wide.described(wide.axes, dims)


@handles("aten.repeat_interleave.self_int")
def repeat_interleave(
    _lowering: Lowering, _node: Node, x: Packed, repeats: int, dim: int | None = None, **_kwargs: Any
) -> Packed:
    """Each repeated element is a repetition within what it was."""
    x = x.reshape([torch.Size(x.shape).numel()]) if dim is None else x
    dim = 0 if dim is None else dim % len(x.dims)
    shape = list(x.shape)
    inner = x.reshape([*shape[: dim + 1], 1, *shape[dim + 1 :]])
    wide = inner.expand([*shape[: dim + 1], repeats, *shape[dim + 1 :]])
    dims = [*wide.dims[:dim], (*wide.dims[dim], *wide.dims[dim + 1]), *wide.dims[dim + 2 :]]
    return wide.described(wide.axes, dims)


@handles("aten.pixel_shuffle.default", "aten.pixel_unshuffle.default")
def pixel_shuffle(_lowering: Lowering, node: Node, x: Packed, factor: int) -> Packed:
    """Over any number of leading dimensions, which are folded into one."""
    *lead, channels, height, width = x.shape
    folded = x.reshape([torch.Size(lead).numel(), channels, height, width])
    assert isinstance(node.target, torch._ops.OpOverload)
    result = node.target(folded.plain(), factor)
    return Packed.of(result).reshape([int(size) for size in node.meta["val"].shape])
