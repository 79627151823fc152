"""Padding of every kind, one dimension after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch.fx import Node
from torch.nn import functional as F

from export.lowering.alignment import isolated
from export.lowering.handlers.indexing import take
from export.lowering.handlers.registry import handles
from export.lowering.packed import Packed, Unrepresentable
from export.lowering.resampling import bordered

if TYPE_CHECKING:
    from export.lowering.lower import Lowering

#: What `aten._pad_enum` calls its modes.
MODES = ("reflect", "replicate", "circular", "constant")


@handles("aten.pad.default")
def pad(
    _lowering: Lowering,
    _node: Node,
    x: Packed,
    amounts: Sequence[int],
    mode: str = "constant",
    value: float | None = None,
) -> Packed:
    """A constant, or places of `x` itself, around its last dimensions; `amounts` starts with the last."""
    sides = {len(x.dims) - 1 - place // 2: (amounts[place], amounts[place + 1]) for place in range(0, len(amounts), 2)}
    for dim, (before, after) in sides.items():  # negative amounts cut
        x = take(x, dim, max(-before, 0), x.shape[dim] - max(-after, 0))
    sides = {dim: (max(before, 0), max(after, 0)) for dim, (before, after) in sides.items() if max(before, after) > 0}
    if mode == "constant":
        return pad_constant(x, sides, value or 0.0)
    for dim, (before, after) in sides.items():
        x = _pad_with_itself(x, dim, before, after, mode)
    return x


@handles("aten._pad_enum.default")
def pad_enum(
    lowering: Lowering, node: Node, x: Packed, amounts: Sequence[int], mode: int, value: float | None = None
) -> Packed:
    return pad(lowering, node, x, amounts, MODES[mode], value)


@handles("aten.constant_pad_nd.default")
def constant_pad(lowering: Lowering, node: Node, x: Packed, amounts: Sequence[int], value: float = 0) -> Packed:
    return pad(lowering, node, x, amounts, "constant", value)


@handles("aten.reflection_pad1d.default", "aten.reflection_pad2d.default", "aten.reflection_pad3d.default")
def reflection_pad(lowering: Lowering, node: Node, x: Packed, amounts: Sequence[int]) -> Packed:
    return pad(lowering, node, x, amounts, "reflect")


@handles("aten.replication_pad1d.default", "aten.replication_pad2d.default", "aten.replication_pad3d.default")
def replication_pad(lowering: Lowering, node: Node, x: Packed, amounts: Sequence[int]) -> Packed:
    return pad(lowering, node, x, amounts, "replicate")


@handles("aten._pad_circular.default")
def circular_pad(lowering: Lowering, node: Node, x: Packed, amounts: Sequence[int]) -> Packed:
    return pad(lowering, node, x, amounts, "circular")


def pad_constant(x: Packed, sides: dict[int, tuple[int, int]], value: float) -> Packed:
    """A constant around some dimensions: (before, after) for each."""
    for some in (list(sides)[place : place + 3] for place in range(0, len(sides), 3)):
        alone = isolated(x, some)
        amounts = [0, 0] * alone.storage.ndim
        for dim in some:
            amounts[2 * alone.places[dim] : 2 * alone.places[dim] + 2] = sides[dim]
        flipped = [a for axis in reversed(range(alone.storage.ndim)) for a in amounts[2 * axis : 2 * axis + 2]]
        x = alone.result(F.pad(alone.storage, flipped, value=value))
    return x


def _pad_with_itself(x: Packed, dim: int, before: int, after: int, mode: str) -> Packed:
    """Slices side by side, which every back end takes into its delegate, unlike padding of these kinds."""
    alone = isolated(x, [dim])
    size = x.shape[dim]
    front = [_source(place, size, mode) for place in range(-before, 0)]
    back = [_source(place, size, mode) for place in range(size, size + after)]
    return alone.result(bordered(alone.storage, alone.places[dim], front, back))


def _source(place: int, size: int, mode: str) -> int:
    """Which of `size` places stands at a place outside of them."""
    if mode == "replicate":
        return min(max(place, 0), size - 1)
    if mode == "circular":
        return place % size
    if mode == "reflect":
        return -place if place < 0 else 2 * (size - 1) - place
    raise Unrepresentable(f"padding of mode '{mode}'")
