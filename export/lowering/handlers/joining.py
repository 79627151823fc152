"""Operators that put tensors side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.fx import Node
from torch.nn import functional as F

from export.lowering.alignment import isolated, joined
from export.lowering.constants import Constant
from export.lowering.handlers.registry import handles
from export.lowering.packed import Packed

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
    return pattern.result(torch.cat(storages, pattern.places[dim]))


@handles("aten.stack.default")
def stack(lowering: Lowering, node: Node, parts: Sequence[Packed], dim: int = 0) -> Packed:
    dim %= len(node.meta["val"].shape)
    wide = [part.described(part.axes, [*part.dims[:dim], (), *part.dims[dim:]]) for part in parts]
    return cat(lowering, node, wide, dim)


def pad_constant(x: Packed, sides: dict[int, tuple[int, int]], value: float) -> Packed:
    """A constant around some dimensions: (before, after) for each; negative numbers cut."""
    for some in (list(sides)[place : place + 3] for place in range(0, len(sides), 3)):
        alone = isolated(x, some)
        amounts = [0, 0] * alone.storage.ndim
        for dim in some:
            amounts[2 * alone.places[dim] : 2 * alone.places[dim] + 2] = sides[dim]
        flipped = [a for axis in reversed(range(alone.storage.ndim)) for a in amounts[2 * axis : 2 * axis + 2]]
        x = alone.result(F.pad(alone.storage, flipped, value=value))
    return x


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
