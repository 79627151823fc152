"""Norms, along the axes where their dimensions lie, so that nothing is transposed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from export.lowering.alignment import aligned, separated
from export.lowering.constants import Weight
from export.lowering.handlers.reductions import mean
from export.lowering.handlers.registry import handles
from export.lowering.packed import Packed, Unrepresentable, new_dim, with_rank

if TYPE_CHECKING:
    from export.lowering.lower import Lowering


@handles("aten.layer_norm.default")
def layer_norm(
    lowering: Lowering,
    _node: Node,
    x: Packed,
    normalized_shape: Sequence[int],
    weight: Packed | None = None,
    bias: Packed | None = None,
    eps: float = 1e-5,
    _cudnn: bool = True,
) -> Packed:
    """Mean, variance, scale and shift."""
    rank = len(x.dims)
    normalized = set(range(rank - len(normalized_shape), rank))
    centred = combined(torch.sub, x, mean(lowering, x, normalized))
    variance = mean(lowering, centred.mapped(torch.square), normalized)
    result = combined(torch.mul, centred, variance.mapped(lambda v: torch.rsqrt(v + eps)))
    return affine(result, weight, bias)


@handles("aten.rms_norm.default")
def rms_norm(
    lowering: Lowering,
    _node: Node,
    x: Packed,
    normalized_shape: Sequence[int],
    weight: Packed | None = None,
    eps: float | None = None,
) -> Packed:
    """Division by the root of the mean square, and scale."""
    rank = len(x.dims)
    floor = torch.finfo(x.storage.dtype).eps if eps is None else eps
    power = mean(lowering, x.mapped(torch.square), set(range(rank - len(normalized_shape), rank)))
    result = combined(torch.mul, x, power.mapped(lambda p: torch.rsqrt(p + floor)))
    return affine(result, weight, None)


@handles("aten.group_norm.default", weights=True)
def group_norm(
    lowering: Lowering,
    _node: Node,
    x: Packed,
    groups: int,
    weight: Weight | Packed | None = None,
    bias: Weight | Packed | None = None,
    eps: float = 1e-5,
    _cudnn: bool = True,
) -> Packed:
    """Statistics of each frame and channel first, then of these few numbers over time and the channels of a group."""
    batch, channels, rank, dtype = *x.shape[:2], len(x.dims), x.storage.dtype
    split, per_channel = (1, groups, channels // groups, 1), (batch, channels, 1, 1)
    # A product with ones repeats a group's number for each of its channels; back ends delegate it, unlike `expand`.
    ones = lowering.constant(f"ones_{groups}_of_{channels}_{dtype}", lambda: torch.ones(split, dtype=dtype))
    average = (group_means(x, groups) * ones).reshape(per_channel)
    centred = combined(torch.sub, x, by_channel(average, rank))
    variance = group_means(centred.mapped(torch.square), groups)
    scale = torch.rsqrt(variance + eps) * (ones if weight is None else parameter(lowering, weight, split))
    result = combined(torch.mul, centred, by_channel(scale.reshape(per_channel), rank))
    if bias is None:
        return result
    return combined(torch.add, result, by_channel(parameter(lowering, bias, (1, channels, 1, 1)), rank))


@handles("aten.instance_norm.default", weights=True)
def instance_norm(
    lowering: Lowering,
    node: Node,
    x: Packed,
    weight: Weight | Packed | None,
    bias: Weight | Packed | None,
    running_mean: Weight | Packed | None,
    running_variance: Weight | Packed | None,
    use_input_statistics: bool,
    _momentum: float,
    eps: float,
    _cudnn: bool,
) -> Packed:
    """A group norm of one channel a group, or with running statistics a batch norm."""
    if use_input_statistics:
        return group_norm(lowering, node, x, x.shape[1], weight, bias, eps)
    return batch_norm(lowering, node, x, weight, bias, running_mean, running_variance, 0.0, eps)[0]


@handles("aten._native_batch_norm_legit_no_training.default", weights=True)
def batch_norm(
    lowering: Lowering,
    node: Node,
    x: Packed,
    weight: Weight | Packed | None,
    bias: Weight | Packed | None,
    running_mean: Weight | Packed | None,
    running_variance: Weight | Packed | None,
    _momentum: float,
    eps: float,
) -> list[Packed]:
    """One scale and one shift a channel, computed ahead of the graph."""
    given = [weight, bias, running_mean, running_variance]
    if any(isinstance(tensor, Packed) for tensor in given):
        raise Unrepresentable("weights or statistics that are computed from the input,")
    gain, offset, average, variance = (tensor.tensor if isinstance(tensor, Weight) else None for tensor in given)
    assert average is not None
    assert variance is not None

    def scale() -> torch.Tensor:
        factor = torch.rsqrt(variance.double() + eps)
        return factor if gain is None else factor * gain.double()

    def shift() -> torch.Tensor:
        return (0 if offset is None else offset.double()) - average.double() * scale()

    rank = len(x.dims)
    folded = [
        by_channel(lowering.constant(f"{node.name}_{make.__name__}", _as_channels(make, average.dtype)), rank)
        for make in (scale, shift)
    ]
    return [combined(torch.add, combined(torch.mul, x, folded[0]), folded[1])]


@handles("aten._native_batch_norm_legit.no_stats", weights=True)
def batch_norm_of_this_batch(
    lowering: Lowering,
    node: Node,
    x: Packed,
    weight: Weight | Packed | None,
    bias: Weight | Packed | None,
    _training: bool,
    _momentum: float,
    eps: float,
) -> list[Packed]:
    """Without running statistics: a group norm of one channel a group, in which the batch counts as space."""
    batch, channels, *rest = x.shape
    together = x.reshape([1, batch, channels, *rest]).permute([0, 2, 1, *range(3, len(rest) + 3)])
    result = group_norm(lowering, node, together, channels, weight, bias, eps)
    return [result.permute([0, 2, 1, *range(3, len(rest) + 3)]).reshape([batch, channels, *rest])]


def affine(x: Packed, weight: Packed | None, bias: Packed | None) -> Packed:
    """Scale and shift, broadcast from the last dimensions."""
    if weight is not None:
        x = combined(torch.mul, x, weight)
    return x if bias is None else combined(torch.add, x, bias)


def combined(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], x: Packed, y: Packed) -> Packed:
    """An elementwise function of two tensors that broadcast."""
    rank = max(len(x.dims), len(y.dims))
    together = aligned([with_rank(x, rank), with_rank(y, rank)])
    return together.result(function(*together.storages))


def group_means(x: Packed, groups: int) -> torch.Tensor:
    """The mean of each group of channels of `(N, C, ...)`, as `(N, groups, 1, 1)`: large axes first, the rest small."""
    pure, axes = separated(x, set(range(2, len(x.dims))))
    innermost = [axis for axis in axes if set(range(axis, pure.storage.ndim)) <= set(axes)]
    if innermost:
        gone = {atom for axis in innermost for atom in pure.axes[axis]}
        kept = [axis if place not in innermost else () for place, axis in enumerate(pure.axes)]
        dims = [tuple(atom for atom in dim if atom not in gone) for dim in pure.dims]
        pure = Packed(pure.storage.mean(innermost, keepdim=True), kept, dims)
    batch, channels, *rest = pure.shape
    small = pure.reshape([batch, groups, channels // groups, torch.Size(rest).numel()])
    return small.plain().mean([2, 3], keepdim=True)


def by_channel(storage: torch.Tensor, rank: int) -> Packed:
    """A tensor `(N, C, 1, 1)` as one of `rank` dimensions `(N, C, 1, ...)`."""
    batch, channels = (new_dim(size) for size in storage.shape[:2])
    return Packed(storage, [batch, channels, (), ()], [batch, channels, *[()] * (rank - 2)])


def parameter(lowering: Lowering, tensor: Weight | Packed, shape: Sequence[int]) -> torch.Tensor:
    """A weight in a shape made ahead of the graph, or a tensor of the graph in that shape."""
    if isinstance(tensor, Packed):
        return tensor.reshape(shape).plain()
    return lowering.constant(
        f"{tensor.name}_as_{'_'.join(map(str, shape))}", lambda: tensor.tensor.reshape(tuple(shape))
    )


def _as_channels(make: Callable[[], torch.Tensor], dtype: Any) -> Callable[[], torch.Tensor]:
    return lambda: make().to(dtype).reshape(1, -1, 1, 1)
