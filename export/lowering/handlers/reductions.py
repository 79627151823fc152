"""Reductions over any dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node
from torch.nn import functional as F

from export.lowering.alignment import reduced, separated
from export.lowering.handlers.registry import handles
from export.lowering.packed import Packed

if TYPE_CHECKING:
    from export.lowering.lower import Lowering


@handles("aten.mean.dim", "aten.sum.dim_IntList", "aten.amax.default", "aten.amin.default")
def reduce(lowering: Lowering, node: Node, x: Packed, dims: Any = None, keepdim: bool = False, **kwargs: Any) -> Packed:
    """Along the axes where the dimensions lie, so that nothing is transposed."""
    assert isinstance(node.target, torch._ops.OpOverload)
    marked = listed(dims, len(x.dims))
    if str(node.target) == "aten.mean.dim" and not kwargs:
        result = mean(lowering, x, marked)
    else:
        pure, axes = separated(x, marked)
        result = reduced(pure, node.target(pure.storage, axes, True, **kwargs), marked)
    return result if keepdim else squeezed(result, marked)


def mean(lowering: Lowering, x: Packed, marked: set[int]) -> Packed:
    """The mean over the `marked` dimensions, which become size 1."""
    pure, axes = separated(x, marked)
    storage = pure.storage
    if axes == [1] and storage.ndim == 4 and storage.dtype == torch.float32:
        return reduced(pure, channel_mean(lowering, storage), marked)
    return reduced(pure, storage.mean(axes, keepdim=True), marked)


def channel_mean(lowering: Lowering, frames: torch.Tensor) -> torch.Tensor:
    """The mean over the channels of `(T, C, H, W)` as a 1x1 convolution.

    XNNPACK takes no reduction over channels: left as a mean, every norm of a network would cut its delegate in two.
    """
    channels = frames.shape[1]
    weight = lowering.constant(f"channel_mean_{channels}", lambda: torch.full((1, channels, 1, 1), 1 / channels))
    return F.conv2d(frames, weight)


def listed(dims: Any, rank: int) -> set[int]:
    """Reduced dimensions as torch's operators name them: None or nothing for all, one, or several."""
    if dims is None or (not isinstance(dims, int) and len(dims) == 0):
        return set(range(rank))
    return {dim % rank for dim in ([dims] if isinstance(dims, int) else dims)}


def squeezed(x: Packed, marked: set[int]) -> Packed:
    """`x` without its `marked` dimensions, of size 1."""
    return x.described(x.axes, [dim for index, dim in enumerate(x.dims) if index not in marked])
