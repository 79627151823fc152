"""Reductions and running sums over any dimensions, along the axes where these lie, so that nothing is transposed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node
from torch.nn import functional as F

from export.lowering.alignment import isolated, reduced, separated
from export.lowering.handlers.registry import handles
from export.lowering.packed import Packed, Unrepresentable

if TYPE_CHECKING:
    from export.lowering.lower import Lowering

#: A reduction of storage along some of its axes, which it keeps with size 1.
Reduction = Callable[[torch.Tensor, list[int]], torch.Tensor]


@handles("aten.mean.dim", "aten.mean.default")
def average(lowering: Lowering, node: Node, x: Packed, dims: Any = None, keepdim: bool = False, **_: Any) -> Packed:
    """The mean, in the precision of the result."""
    marked = listed(dims, len(x.dims))
    return kept(mean(lowering, as_result(node, x), marked), marked, keepdim)


@handles("aten.sum.dim_IntList", "aten.sum.default")
def sum_(lowering: Lowering, node: Node, x: Packed, dims: Any = None, keepdim: bool = False, **_: Any) -> Packed:
    """The sum, in the precision of the result."""
    marked = listed(dims, len(x.dims))
    return kept(total(lowering, as_result(node, x), marked), marked, keepdim)


@handles("aten.amax.default", "aten.amin.default", "aten.max.default", "aten.min.default")
def extreme(_lowering: Lowering, node: Node, x: Packed, dims: Any = None, keepdim: bool = False) -> Packed:
    """The largest or smallest element."""
    return _extreme(x, dims, keepdim, "max" in str(node.target))


@handles("aten.max.dim", "aten.min.dim")
def extreme_and_place(
    _lowering: Lowering, node: Node, x: Packed, dim: int, keepdim: bool = False
) -> tuple[Packed, Packed]:
    """The largest or smallest element along a dimension, and its first place."""
    largest = "max" in str(node.target)
    return _extreme(x, dim, keepdim, largest), _place(x, dim, keepdim, largest)


@handles("aten.argmax.default", "aten.argmin.default")
def place_of_extreme(
    _lowering: Lowering, node: Node, x: Packed, dim: int | None = None, keepdim: bool = False
) -> Packed:
    """The first place of the largest or smallest element along a dimension, or among all."""
    return _place(x, dim, keepdim, "argmax" in str(node.target))


@handles("aten.aminmax.default")
def extremes(
    _lowering: Lowering, _node: Node, x: Packed, dim: int | None = None, keepdim: bool = False
) -> tuple[Packed, Packed]:
    """The smallest and the largest element."""
    return _extreme(x, dim, keepdim, False), _extreme(x, dim, keepdim, True)


@handles("aten.prod.dim_int", "aten.prod.default")
def product(_lowering: Lowering, node: Node, x: Packed, dim: Any = None, keepdim: bool = False, **_: Any) -> Packed:
    """Halves multiplied until one place is left, since Core ML has no product along an axis."""
    marked = listed(dim, len(x.dims))
    return kept(along(as_result(node, x), marked, _halved), marked, keepdim)


@handles("aten.any.default", "aten.any.dim", "aten.any.dims", "aten.all.default", "aten.all.dim", "aten.all.dims")
def any_or_all(_lowering: Lowering, node: Node, x: Packed, dims: Any = None, keepdim: bool = False) -> Packed:
    """The largest or smallest of zeros and ones, which every back end can reduce."""
    marked = listed(dims, len(x.dims))
    function = torch.amax if ".any." in str(node.target) else torch.amin
    ones = x.mapped(lambda storage: _truth(storage).to(torch.float32))
    return kept(along(ones, marked, lambda storage, axes: function(storage, axes, True) > 0), marked, keepdim)


@handles("aten.count_nonzero.default", "aten.count_nonzero.dim_IntList")
def count_nonzero(lowering: Lowering, _node: Node, x: Packed, dims: Any = None) -> Packed:
    """The sum of zeros and ones, in whole numbers."""
    marked = listed(dims, len(x.dims))
    return squeezed(total(lowering, x.mapped(lambda storage: _truth(storage).to(torch.int64)), marked), marked)


@handles("aten.var.default", "aten.var.dim", "aten.var.correction")
def var(lowering: Lowering, _node: Node, x: Packed, *args: Any, **kwargs: Any) -> Packed:
    """The mean of squared distances from the mean, corrected."""
    return _spread(lowering, x, *args, **kwargs)[0]


@handles("aten.std.default", "aten.std.dim", "aten.std.correction")
def std(lowering: Lowering, _node: Node, x: Packed, *args: Any, **kwargs: Any) -> Packed:
    """The root of the variance."""
    return _spread(lowering, x, *args, **kwargs)[0].mapped(torch.sqrt)


@handles("aten.var_mean.default", "aten.var_mean.dim", "aten.var_mean.correction")
def var_mean(lowering: Lowering, _node: Node, x: Packed, *args: Any, **kwargs: Any) -> tuple[Packed, Packed]:
    """The variance, and the mean that it needs anyway."""
    return _spread(lowering, x, *args, **kwargs)


@handles("aten.std_mean.default", "aten.std_mean.dim", "aten.std_mean.correction")
def std_mean(lowering: Lowering, _node: Node, x: Packed, *args: Any, **kwargs: Any) -> tuple[Packed, Packed]:
    """The root of the variance, and the mean."""
    variance, middle = _spread(lowering, x, *args, **kwargs)
    return variance.mapped(torch.sqrt), middle


@handles("aten.logsumexp.default")
def logsumexp(_lowering: Lowering, _node: Node, x: Packed, dims: Any, keepdim: bool = False) -> Packed:
    """One operator, which every back end has in a form that does not overflow."""
    marked = listed(dims, len(x.dims))
    return kept(along(x, marked, lambda storage, axes: torch.logsumexp(storage, axes, True)), marked, keepdim)


@handles("aten.linalg_vector_norm.default", "aten.norm.Scalar", "aten.norm.ScalarOpt_dim")
def vector_norm(
    lowering: Lowering,
    node: Node,
    x: Packed,
    order: float | None = 2,
    dims: Any = None,
    keepdim: bool = False,
    **_: Any,
) -> Packed:
    """The norm of all marked elements as one vector."""
    marked = listed(dims, len(x.dims))
    x = as_result(node, x)
    return kept(_norm(lowering, x, 2 if order is None else float(order), marked), marked, keepdim)


@handles("aten.linalg_matrix_norm.str_ord", "aten.linalg_norm.default", "aten.linalg_norm.ord_str")
def matrix_norm(
    lowering: Lowering, node: Node, x: Packed, order: Any = None, dims: Any = None, keepdim: bool = False, **_: Any
) -> Packed:
    """Where it is a vector's norm, as the Frobenius norm is."""
    if str(node.target) == "aten.linalg_matrix_norm.str_ord":
        order, dims = order or "fro", (-2, -1) if dims is None else dims
    of_vectors = isinstance(dims, int) or (dims is not None and len(dims) == 1) or (dims is None and len(x.dims) == 1)
    if order not in (None, "fro") and not of_vectors:
        raise Unrepresentable(f"a matrix norm of order {order}, which is no sum over elements,")
    return vector_norm(lowering, node, x, 2 if order in (None, "fro") else order, dims, keepdim)


@handles("aten.cumsum.default", "aten.cumprod.default")
def running(_lowering: Lowering, node: Node, x: Packed, dim: int, **_: Any) -> Packed:
    """Each place with the one before it, then with the two before these, then four: as few steps as bits in the size.

    Back ends run sums along an axis outside of their delegates, and most know no running product at all.
    """
    function, neutral = (torch.add, 0) if "cumsum" in str(node.target) else (torch.mul, 1)
    alone = isolated(as_result(node, x), [dim])
    storage, axis, step = alone.storage, alone.places[dim % len(x.dims)], 1
    size = storage.shape[axis]
    while step < size:
        amounts = [0, 0] * (storage.ndim - 1 - axis) + [step, 0]
        earlier = F.pad(storage[(slice(None),) * axis + (slice(size - step),)], amounts, value=neutral)
        storage, step = function(storage, earlier), 2 * step
    return alone.result(storage)


def mean(lowering: Lowering, x: Packed, marked: set[int]) -> Packed:
    """The mean over the `marked` dimensions, which become size 1."""
    return along(x, marked, lambda storage, axes: _mean(lowering, storage, axes))


def total(lowering: Lowering, x: Packed, marked: set[int]) -> Packed:
    """The sum over the `marked` dimensions, which become size 1."""

    def summed(storage: torch.Tensor, axes: list[int]) -> torch.Tensor:
        if _over_channels(storage, axes):
            return channel_sum(lowering, storage, 1, "sum")
        return storage.sum(axes, keepdim=True)

    return along(x, marked, summed)


def along(x: Packed, marked: set[int], function: Reduction) -> Packed:
    """`x` reduced over the `marked` dimensions, which become size 1."""
    pure, axes = separated(x, marked)
    return reduced(pure, function(pure.storage, axes), marked)


def channel_sum(lowering: Lowering, frames: torch.Tensor, value: float, name: str) -> torch.Tensor:
    """The sum over the channels of `(T, C, H, W)`, times `value`, as a 1x1 convolution.

    XNNPACK takes no reduction over channels: left as a mean, every norm of a network would cut its delegate in two.
    """
    channels = frames.shape[1]
    weight = lowering.constant(f"channel_{name}_{channels}", lambda: torch.full((1, channels, 1, 1), float(value)))
    return F.conv2d(frames, weight)


def listed(dims: Any, rank: int) -> set[int]:
    """Reduced dimensions as torch's operators name them: None or nothing for all, one, or several."""
    if dims is None or (not isinstance(dims, int) and len(dims) == 0):
        return set(range(rank))
    return {dim % rank for dim in ([dims] if isinstance(dims, int) else dims)}


def kept(x: Packed, marked: set[int], keepdim: bool) -> Packed:
    """`x` with its `marked` dimensions, of size 1, or without them."""
    return x if keepdim else squeezed(x, marked)


def squeezed(x: Packed, marked: set[int]) -> Packed:
    """`x` without its `marked` dimensions, of size 1."""
    return x.described(x.axes, [dim for index, dim in enumerate(x.dims) if index not in marked])


def as_result(node: Node, x: Packed) -> Packed:
    """`x` in the precision of the operator's result."""
    dtype = node.meta["val"].dtype
    return x if x.storage.dtype == dtype else x.mapped(lambda storage: storage.to(dtype))


def _truth(storage: torch.Tensor) -> torch.Tensor:
    return storage if storage.dtype == torch.bool else storage != 0


def _over_channels(storage: torch.Tensor, axes: list[int]) -> bool:
    return axes == [1] and storage.ndim == 4 and storage.dtype == torch.float32


def _mean(lowering: Lowering, storage: torch.Tensor, axes: list[int]) -> torch.Tensor:
    if _over_channels(storage, axes):
        return channel_sum(lowering, storage, 1 / storage.shape[1], "mean")
    if axes == [storage.ndim - 1] and storage.ndim > 1 and storage.dtype == torch.float32:
        return _row_mean(lowering, storage)
    return storage.mean(axes, keepdim=True)


def _row_mean(lowering: Lowering, rows: torch.Tensor) -> torch.Tensor:
    """The mean over the last axis as a product: tokens' norms stay in an XNNPACK delegate then, as frames' do."""
    count = rows.shape[-1]
    weight = lowering.constant(f"row_mean_{count}", lambda: torch.full((1, count), 1 / count))
    return F.linear(rows, weight)


def _spread(
    lowering: Lowering,
    x: Packed,
    dims: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    correction: float | None = None,
) -> tuple[Packed, Packed]:
    """Variance and mean."""
    if isinstance(dims, bool):  # `var(x, unbiased)`
        dims, unbiased = None, dims
    marked = listed(dims, len(x.dims))
    count = math.prod(x.shape[dim] for dim in marked)
    correction = int(unbiased) if correction is None else correction
    if correction >= count:
        raise Unrepresentable(f"a variance of {count} elements with a correction of {correction}")
    pure, axes = separated(x, marked)
    middle = _mean(lowering, pure.storage, axes)
    variance = _mean(lowering, torch.square(pure.storage - middle), axes)
    if correction:
        variance = variance * (count / (count - correction))
    return (
        kept(reduced(pure, variance, marked), marked, keepdim),
        kept(reduced(pure, middle, marked), marked, keepdim),
    )


def _norm(lowering: Lowering, x: Packed, order: float, marked: set[int]) -> Packed:
    """A norm that keeps its dimensions; that of order 2 by a mean, whose squares do not overflow in half precision."""
    if order == 2:
        root = math.sqrt(math.prod(x.shape[dim] for dim in marked))
        return mean(lowering, x.mapped(torch.square), marked).mapped(lambda storage: torch.sqrt(storage) * root)
    if order == 0:
        return total(lowering, x.mapped(lambda storage: (storage != 0).to(storage.dtype)), marked)
    sizes = x.mapped(torch.abs)
    if math.isinf(order):
        function = torch.amax if order > 0 else torch.amin
        return along(sizes, marked, lambda storage, axes: function(storage, axes, True))
    if order == 1:
        return total(lowering, sizes, marked)
    powers = total(lowering, sizes.mapped(lambda storage: storage**order), marked)
    return powers.mapped(lambda storage: storage ** (1 / order))


def _extreme(x: Packed, dims: Any, keepdim: bool, largest: bool) -> Packed:
    marked = listed(dims, len(x.dims))
    function = torch.amax if largest else torch.amin
    return kept(along(x, marked, lambda storage, axes: function(storage, axes, True)), marked, keepdim)


def _place(x: Packed, dim: int | None, keepdim: bool, largest: bool) -> Packed:
    function = torch.argmax if largest else torch.argmin
    marked = listed(dim, len(x.dims))
    flat, place = (x.reshape([math.prod(x.shape)]), 0) if dim is None else (x, dim % len(x.dims))
    alone = isolated(flat, [place])
    found = alone.result(function(alone.storage, alone.places[place], True))
    return kept(found if dim is not None else found.reshape([1] * len(x.dims)), marked, keepdim)


def _halved(storage: torch.Tensor, axes: list[int]) -> torch.Tensor:
    """The product along each of `axes`."""
    for axis in axes:
        before = (slice(None),) * axis
        while storage.shape[axis] > 1:
            half, odd = divmod(storage.shape[axis], 2)
            halves = storage[(*before, slice(half))] * storage[(*before, slice(half, 2 * half))]
            storage = torch.cat([halves, storage[(*before, slice(2 * half, None))]], axis) if odd else halves
    return storage
