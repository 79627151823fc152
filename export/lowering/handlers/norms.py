"""Norms, along the axes where their dimensions lie, so that nothing is transposed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch.fx import Node

from export.lowering.alignment import aligned
from export.lowering.handlers.reductions import mean
from export.lowering.handlers.registry import handles
from export.lowering.packed import Packed, with_rank

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
