"""Softmax and attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from export.lowering.alignment import isolated, solid
from export.lowering.constants import Constant, Weight
from export.lowering.handlers.matrix import summed
from export.lowering.handlers.norms import combined
from export.lowering.handlers.reductions import along, as_result, total
from export.lowering.handlers.registry import handles
from export.lowering.packed import Packed, Unrepresentable, new_dim

if TYPE_CHECKING:
    from export.lowering.lower import Lowering

#: What hides a key: no infinity, of which half precision makes NaN, and far enough below any score to be 0 after.
HIDDEN = -3e4


@handles("aten.softmax.int", "aten._softmax.default", "aten.special_softmax.default")
def softmax(_lowering: Lowering, node: Node, x: Packed, dim: int, *_args: Any) -> Packed:
    """Along the axis where the dimension lies."""
    return softened(as_result(node, x), dim)


@handles("aten.log_softmax.int", "aten._log_softmax.default", "aten.special_log_softmax.default")
def log_softmax(lowering: Lowering, node: Node, x: Packed, dim: int, *_args: Any) -> Packed:
    """By its definition: Core ML's converter takes the logarithm of a softmax, which half precision rounds to 0."""
    dim, x = dim % len(x.dims), as_result(node, x)
    shifted = combined(torch.sub, x, along(x, {dim}, lambda storage, axes: storage.amax(axes, True)))
    sums = total(lowering, shifted.mapped(torch.exp), {dim})
    return combined(torch.sub, shifted, sums.mapped(torch.log))


@handles("aten.scaled_dot_product_attention.default", weights=True)
def attention(
    lowering: Lowering,
    _node: Node,
    query: Packed | Weight,
    key: Packed | Weight,
    value: Packed | Weight,
    mask: Packed | Weight | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Packed:
    """Two products and a softmax: ExecuTorch spells the operator itself out in a dozen others, most not delegated."""
    if dropout:
        raise Unrepresentable(f"dropout of {dropout}, which has no place in an artifact,")
    query, key, value = (lowering.packed(x) if isinstance(x, Weight) else x for x in (query, key, value))
    if enable_gqa:
        key, value = (_shared_heads(x, query.shape[-3]) for x in (key, value))
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = summed(lowering, "...le,...se->...ls", [query.mapped(lambda q: q * factor), key], rows_first=True)
    if is_causal:
        scores = combined(torch.add, scores, _causal(lowering, *scores.shape[-2:]))
    return summed(lowering, "...ls,...sv->...lv", [_masked_softmax(lowering, scores, mask), value])


def softened(x: Packed, dim: int) -> Packed:
    """The softmax along a dimension where it lies or, if data has to move anyway, along the last axis.

    XNNPACK takes a softmax along the last axis only.
    """
    dim %= len(x.dims)
    x = solid(x, [dim])
    atoms, flat = x.dims[dim], [atom for axis in x.axes for atom in axis]
    alone = isolated(x, [dim])
    if [atom for axis in alone.axes for atom in axis] == flat:
        return alone.result(torch.softmax(alone.storage, alone.places[dim]))
    return x.arranged([tuple(atom for atom in flat if atom not in atoms), atoms]).mapped(lambda s: s.softmax(-1))


def _masked_softmax(lowering: Lowering, scores: Packed, mask: Packed | Weight | None) -> Packed:
    """Over the keys that a mask shows; a query that sees none gets zeros, as in PyTorch."""
    if mask is None or (isinstance(mask, Weight) and mask.value == float(mask.tensor.dtype == torch.bool)):
        return softened(scores, -1)
    visible: Packed | None
    if isinstance(mask, Weight):
        offsets = _ahead(lowering, mask, "offsets", _offsets)
        visible = _ahead(lowering, mask, "visible", _visible) if _blinds_a_query(mask) else None
    else:
        offsets, visible = mask.mapped(_offsets), mask.mapped(_visible)
    weights = softened(combined(torch.add, scores, offsets), -1)
    return weights if visible is None else combined(torch.mul, weights, visible)


def _offsets(mask: torch.Tensor) -> torch.Tensor:
    """What a mask adds to scores."""
    return (mask.to(torch.float32) - 1) * -HIDDEN if mask.dtype == torch.bool else mask.clamp(min=HIDDEN)


def _visible(mask: torch.Tensor) -> torch.Tensor:
    """1 where a mask shows a key, else 0."""
    return mask.to(torch.float32) if mask.dtype == torch.bool else (mask > -math.inf).to(mask.dtype)


def _ahead(lowering: Lowering, mask: Weight, what: str, of: Callable[[torch.Tensor], torch.Tensor]) -> Packed:
    """A function of each element of a known mask, computed ahead of the graph in whatever layout is asked for."""

    def keep(name: str, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        return lowering.constant(f"{name}_{what}", lambda: of(make()))

    return Constant.whole(keep, mask)


def _blinds_a_query(mask: Weight) -> bool:
    """Whether a known mask hides all keys of a query."""
    shown = mask.array
    if shown.dtype != bool:
        most = shown.max(-1)
        if ((most <= HIDDEN) & (most > -math.inf)).any():
            raise Unrepresentable("a mask that hides all keys of a query by finite numbers")
        shown = shown > -math.inf
    return not shown.any(-1).all()


def _causal(lowering: Lowering, queries: int, keys: int) -> Packed:
    """Offsets that show each query the keys up to its own place."""

    def offsets() -> torch.Tensor:
        return torch.triu(torch.full((queries, keys), HIDDEN), diagonal=1)

    return Packed.of(lowering.constant(f"causal_{queries}x{keys}", offsets))


def _shared_heads(x: Packed, heads: int) -> Packed:
    """Keys or values whose heads serve several heads of queries each."""
    groups = new_dim(heads // x.shape[-3])
    return x.described(x.axes, [*x.dims[:-3], (*x.dims[-3], *groups), *x.dims[-2:]])
