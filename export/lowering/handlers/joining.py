"""Operators that put tensors side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch.fx import Node

from export.lowering.alignment import joined
from export.lowering.constants import Constant
from export.lowering.handlers.padding import pad_constant
from export.lowering.handlers.registry import handles
from export.lowering.packed import Packed
from export.lowering.resampling import side_by_side

if TYPE_CHECKING:
    from export.lowering.lower import Lowering


@handles("aten.cat.default", "aten.concatenate.default", "aten.concat.default")
def cat(_lowering: Lowering, node: Node, parts: Sequence[Packed], dim: int = 0) -> Packed:
    """One concatenation; a constant value before or behind a single tensor is padding."""
    rank = len(node.meta["val"].shape)
    parts = [part for part in parts if 0 not in part.shape]
    dim %= rank
    if len(parts) == 1:
        return parts[0]
    padded = _as_padding(parts, dim)
    if padded is not None:
        return padded
    storages, pattern = joined(parts, dim)
    return pattern.result(side_by_side(storages, pattern.places[dim]))


@handles("aten.stack.default")
def stack(lowering: Lowering, node: Node, parts: Sequence[Packed], dim: int = 0) -> Packed:
    dim %= len(node.meta["val"].shape)
    wide = [part.described(part.axes, [*part.dims[:dim], (), *part.dims[dim:]]) for part in parts]
    return cat(lowering, node, wide, dim)


def _as_padding(parts: Sequence[Packed], dim: int) -> Packed | None:
    values = [part.value if isinstance(part, Constant) else None for part in parts]
    computed = [place for place, value in enumerate(values) if value is None]
    if len(computed) != 1 or len({value for value in values if value is not None}) != 1:
        return None
    (place,) = computed
    before = sum(part.shape[dim] for part in parts[:place])
    after = sum(part.shape[dim] for part in parts[place + 1 :])
    value = next(value for value in values if value is not None)
    return pad_constant(parts[place], {dim: (before, after)}, value)
