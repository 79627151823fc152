"""How each operator of a video graph is said at rank 4: one small function an operator.

A handler takes the `Lowering`, the node and the node's arguments, in which every tensor is a `Packed`, and
returns a `Packed`. To add one: write the function, name its operators in `@handles`, and test it against the
operator itself. Pointwise operators (by their tag in torch) and operators whose tensors all have rank 4 at most
need no handler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node
from torch.nn import functional as F

from export.lowering.packed import Packed, Unrepresentable, unspread

if TYPE_CHECKING:
    from export.lowering.lower import Lowering, Weight

Handler = Callable[..., Packed]
HANDLERS: dict[str, Handler] = {}

#: Operators whose handlers take their weights as they are, to split them ahead of the graph.
TAKES_WEIGHTS = {"aten.conv3d.default", "aten.conv3d.padding"}
#: Operators that only check or compute nothing in evaluation mode.
IDENTITIES = {"aten.dropout.default", "aten.alias.default", "aten.contiguous.default", "aten.clone.default"}
RESHAPES = {
    "aten.view.default",
    "aten.reshape.default",
    "aten._unsafe_view.default",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
    "aten.squeeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
    "aten.unsqueeze.default",
}


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler for operators by their names in an exported graph."""

    def add(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return add


@handles(*IDENTITIES)
def identity(_lowering: Lowering, _node: Node, x: Packed, *_args: Any, **_kwargs: Any) -> Packed:
    return x


@handles("aten._to_copy.default")
def cast(_lowering: Lowering, _node: Node, x: Packed, dtype: torch.dtype | None = None, **_kwargs: Any) -> Packed:
    return Packed(x.storage.to(dtype), x.axes, x.dims)


@handles(*RESHAPES)
def reshape(_lowering: Lowering, node: Node, x: Packed, *_args: Any, **_kwargs: Any) -> Packed:
    """Any change of shape in row-major order: the exported graph knows the resulting shape."""
    return x.reshape([int(size) for size in node.meta["val"].shape])


@handles("aten.permute.default")
def permute(_lowering: Lowering, _node: Node, x: Packed, order: Sequence[int]) -> Packed:
    return x.permute([index % len(x.dims) for index in order])


@handles("aten.transpose.int")
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


@handles("aten.conv3d.default", "aten.conv3d.padding")
def conv3d(
    lowering: Lowering,
    node: Node,
    x: Packed,
    weight: Weight,
    bias: Weight | None = None,
    stride: Sequence[int] = (1, 1, 1),
    padding: Sequence[int] | str = (0, 0, 0),
    dilation: Sequence[int] = (1, 1, 1),
    groups: int = 1,
) -> Packed:
    """One Conv2d for each temporal tap, over shifted frames, summed; the taps' weights are split ahead of the graph."""
    if isinstance(weight, Packed) or isinstance(bias, Packed):
        raise Unrepresentable("a weight or bias that is computed from the input,")
    kernel = weight.tensor.shape[2:]
    stride, dilation = _triple(stride), _triple(dilation)
    pad = _padding(padding, kernel, dilation)
    frames = x.frames()
    if any(pad[0]):
        frames = F.pad(frames, (0, 0, 0, 0, 0, 0, *pad[0]))
    steps = (frames.shape[0] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    height_pad, width_pad = pad[1], pad[2]
    if height_pad[0] != height_pad[1] or width_pad[0] != width_pad[1]:
        frames = F.pad(frames, (*width_pad, *height_pad))
        height_pad = width_pad = (0, 0)
    total: torch.Tensor | None = None
    for tap in range(kernel[0]):
        begin = tap * dilation[0]
        shifted = frames[begin : begin + (steps - 1) * stride[0] + 1 : stride[0]]
        kernel_2d = lowering.constant(f"{weight.name}_tap{tap}", _tap(weight, tap))
        tap_bias = lowering.constant(bias.name, _whole(bias)) if bias is not None and tap == 0 else None
        part = F.conv2d(shifted, kernel_2d, tap_bias, stride[1:], (height_pad[0], width_pad[0]), dilation[1:], groups)
        total = part if total is None else total + part
    assert total is not None
    return Packed.from_frames(total)


@handles("aten.cat.default", "aten.concatenate.default", "aten.concat.default")
def cat(_lowering: Lowering, node: Node, parts: Sequence[Packed], dim: int = 0) -> Packed:
    parts = [part for part in parts if part.storage.numel()]
    if len(parts) == 1:
        return parts[0]
    rank = len(parts[0].dims)
    dim %= rank
    order = _shared_order(parts, keep=dim)
    return unspread(torch.cat([part.spread(order) for part in parts], order.index(dim)), order, rank)


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
    begin, stop, step = slice(start, end, step).indices(x.shape[dim])
    if (begin, stop, step) == (0, x.shape[dim], 1):
        return x
    order = _shared_order([x], keep=dim)
    index = [slice(None)] * len(order)
    index[order.index(dim)] = slice(begin, stop, step)
    return unspread(x.spread(order)[tuple(index)], order, len(x.dims))


@handles("aten.repeat.default")
def repeat(_lowering: Lowering, _node: Node, x: Packed, repeats: Sequence[int]) -> Packed:
    x = x.reshape((*[1] * (len(repeats) - len(x.dims)), *x.shape))
    order = _shared_order([x], keep=[index for index, times in enumerate(repeats) if times != 1])
    storage = x.spread(order)
    for axis, index in enumerate(order):
        if repeats[index] != 1:
            parts = [storage] * repeats[index]
            storage = torch.cat(parts, axis) if parts else storage.narrow(axis, 0, 0)
    return unspread(storage, order, len(x.dims))


@handles("aten.mean.dim", "aten.sum.dim_IntList", "aten.amax.default", "aten.amin.default")
def reduce(lowering: Lowering, node: Node, x: Packed, dims: Any = None, keepdim: bool = False, **kwargs: Any) -> Packed:
    rank = len(x.dims)
    listed = range(rank) if not dims and dims != 0 else ([dims] if isinstance(dims, int) else dims)
    reduced = {index % rank for index in listed}
    order = _shared_order([x], keep=reduced)
    axes = [axis for axis, index in enumerate(order) if index in reduced]
    assert isinstance(node.target, torch._ops.OpOverload)
    storage = x.spread(order)
    if str(node.target) == "aten.mean.dim" and _means_channels(storage, axes) and not kwargs:
        result = channel_mean(lowering, storage)
    else:
        result = node.target(storage, axes, True, **kwargs)
    kept = unspread(result, order, rank)
    return kept if keepdim else kept.reshape([size for index, size in enumerate(kept.shape) if index not in reduced])


def _means_channels(storage: torch.Tensor, axes: list[int]) -> bool:
    return axes == [1] and storage.ndim == 4 and storage.dtype == torch.float32


def channel_mean(lowering: Lowering, frames: torch.Tensor) -> torch.Tensor:
    """The mean over the channels of `(T, C, H, W)` as a 1x1 convolution.

    XNNPACK takes no reduction over channels: left as a mean, every norm of a network would cut its delegate in two.
    """
    channels = frames.shape[1]
    weight = lowering.constant(f"channel_mean_{channels}", lambda: torch.full((1, channels, 1, 1), 1 / channels))
    return F.conv2d(frames, weight)


@handles("aten.layer_norm.default")
def layer_norm(
    lowering: Lowering,
    node: Node,
    x: Packed,
    normalized_shape: Sequence[int],
    weight: Packed | None = None,
    bias: Packed | None = None,
    eps: float = 1e-5,
    _cudnn: bool = True,
) -> Packed:
    """Mean, variance, scale and shift along the axes where the dimensions lie, so that nothing is transposed."""
    rank = len(x.dims)
    normalized = list(range(rank - len(normalized_shape), rank))
    order = _shared_order([x], keep=normalized)
    axes = [axis for axis, index in enumerate(order) if index in normalized]
    storage = x.spread(order)
    mean = partial(channel_mean, lowering) if _means_channels(storage, axes) else _mean_over(axes)
    centred = storage - mean(storage)
    result = centred * torch.rsqrt(mean(centred * centred) + eps)
    for parameter, combine in ((weight, torch.mul), (bias, torch.add)):
        if parameter is not None:
            aligned = parameter.reshape((*[1] * (rank - len(normalized_shape)), *normalized_shape))
            result = combine(result, aligned.spread(order))
    return unspread(result, order, rank)


@handles("aten.pixel_shuffle.default", "aten.pixel_unshuffle.default")
def pixel_shuffle(_lowering: Lowering, node: Node, x: Packed, factor: int) -> Packed:
    """Over any number of leading dimensions, which are folded into one."""
    *_lead, channels, height, width = x.shape
    assert isinstance(node.target, torch._ops.OpOverload)
    result = node.target(x.reshape((-1 if not _lead else _product(_lead), channels, height, width)).plain(), factor)
    return Packed.of(result).reshape([int(size) for size in node.meta["val"].shape])


def pointwise(node: Node, args: Sequence[Any], kwargs: dict[str, Any]) -> Packed:
    """Any operator that torch tags as pointwise, with broadcasting, in whatever order the data already lies."""
    tensors = [arg for arg in args if isinstance(arg, Packed)]
    rank = max(len(tensor.dims) for tensor in tensors)
    padded = [t.reshape((*[1] * (rank - len(t.dims)), *t.shape)) if len(t.dims) < rank else t for t in tensors]
    order = _shared_order(padded)
    spread = iter([tensor.spread(order) for tensor in padded])
    values = [next(spread) if isinstance(arg, Packed) else arg for arg in args]
    assert isinstance(node.target, torch._ops.OpOverload)
    return unspread(node.target(*values, **kwargs), order, rank)


def _shared_order(tensors: Sequence[Packed], keep: int | Sequence[int] | set[int] = ()) -> list[int]:
    """An order of dimensions in which all `tensors` can be spread: that of the largest, the missing ones in place.

    Dimensions of size 1 in every tensor are left out unless they are in `keep`, down to a rank that fits.
    """
    rank = len(tensors[0].dims)
    needed = {keep} if isinstance(keep, int) else set(keep)
    needed |= {index for tensor in tensors for index, dim in enumerate(tensor.dims) if dim}
    spare = [index for index in range(rank) if index not in needed]
    while len(needed) < min(4, rank) and spare:
        needed.add(spare.pop())
    if len(needed) > 4:
        raise Unrepresentable(f"{len(needed)} dimensions of more than one element")
    largest = max(tensors, key=lambda tensor: tensor.storage.numel())
    order = [index for index in largest.storage_order() if index in needed]
    for index in sorted(needed - set(order)):
        place = next((p for p, other in enumerate(order) if other > index), len(order))
        order.insert(place, index)
    return order


def _mean_over(axes: list[int]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: x.mean(axes, keepdim=True)


def _tap(weight: Weight, tap: int) -> Callable[[], torch.Tensor]:
    return lambda: weight.tensor[:, :, tap]


def _whole(weight: Weight) -> Callable[[], torch.Tensor]:
    return lambda: weight.tensor


def _triple(value: int | Sequence[int]) -> tuple[int, int, int]:
    values = (value,) * 3 if isinstance(value, int) else tuple(value)
    return (values * 3)[:3] if len(values) == 1 else (values[0], values[1], values[2])


def _padding(padding: Sequence[int] | str, kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """(before, after) for time, height and width."""
    if padding == "valid":
        return [(0, 0)] * 3
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    assert not isinstance(padding, str)
    return [(side, side) for side in _triple(padding)]


def _product(sizes: Sequence[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result
