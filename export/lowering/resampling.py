"""One axis of frames made of another: known places of it, the largest of several, or weighted sums.

What an output place is made of is known ahead of the graph, so all of this is slices, concatenations and products
with constants. Where something is one operator on two axes (pooling, resizing), the handlers use that instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.fx import Node
from torch.nn import functional as F

from export.lowering.constants import Keep
from export.lowering.packed import Packed

#: The weights of the input places that each output place is a sum of.
Rows = list[dict[int, float]]
#: Up to so many slices are said as slices, which XNNPACK takes; more become one operator with a list of places.
MAX_SLICES = 16
#: Up to so many output phases, each evenly spaced in the input, are computed apart and interleaved.
MAX_PHASES = 4
#: Up to so many places in reverse order are single slices; more are one slice turned round.
MAX_REVERSED = 4


def channelwise_frames(x: Packed) -> torch.Tensor:
    """A tensor `(*, T, H, W)` as frames `(T, C, H, W)`: everything before time is channels."""
    *lead, time, height, width = x.shape
    return x.reshape([1, math.prod(lead), time, height, width]).frames()


def shape_of(node: Node) -> list[int]:
    """The shape of an operator's result, of its first if it has several."""
    value = node.meta["val"]
    return [int(size) for size in (value[0] if isinstance(value, tuple | list) else value).shape]


def placed(keep: Keep, name: str, x: torch.Tensor, axis: int, places: Sequence[int]) -> torch.Tensor:
    """Known places of an axis; here as below, constants are named after `name`."""
    if list(places) == list(range(x.shape[axis])):
        return x
    runs = _runs(places)
    if len(runs) > MAX_SLICES:
        return torch.index_select(x, axis, keep(f"{name}_places", lambda: torch.tensor(places)))
    return side_by_side([part for run in runs for part in _slices(x, axis, *run)], axis)


def bordered(x: torch.Tensor, axis: int, before: Sequence[int], after: Sequence[int]) -> torch.Tensor:
    """`x` between known places of itself."""
    sides = [[part for run in _runs(side) for part in _slices(x, axis, *run)] for side in (before, after)]
    return side_by_side([*sides[0], x, *sides[1]], axis)


def largest(keep: Keep, name: str, x: torch.Tensor, axis: int, windows: Sequence[Sequence[int]]) -> torch.Tensor:
    """The largest value in each window of places, all of one length; a place may stand in a window more than once."""
    result: torch.Tensor | None = None
    for tap, places in enumerate(zip(*windows, strict=True)):
        part = placed(keep, f"{name}_tap{tap}", x, axis, places)
        result = part if result is None else torch.maximum(result, part)
    assert result is not None
    return result


def blended(keep: Keep, name: str, frames: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Weighted sums of frames `(T, C, H, W)`, one for each of `rows`."""
    if rows == [{place: 1.0} for place in range(frames.shape[0])]:
        return frames
    phases = len(rows) // math.gcd(len(rows), frames.shape[0])
    if phases == 1 or phases > MAX_PHASES:
        return _weighted(keep, name, frames, rows)
    parts = [_weighted(keep, f"{name}_{phase}", frames, rows[phase::phases]) for phase in range(phases)]
    return side_by_side(parts, 1).reshape(len(rows), *frames.shape[1:])  # (T'/p, p*C, H, W) -> (T', C, H, W)


def projected(keep: Keep, name: str, x: torch.Tensor, axis: int, rows: Rows) -> torch.Tensor:
    """Weighted sums along one axis as a product with a constant matrix."""
    size = x.shape[axis]
    if rows == [{place: 1.0} for place in range(size)]:
        return x

    def matrix() -> torch.Tensor:
        return torch.tensor([[row.get(place, 0.0) for place in range(size)] for row in rows], dtype=x.dtype)

    weight = keep(f"{name}_matrix", matrix)
    return F.linear(x.transpose(axis, -1), weight).transpose(axis, -1)


def _weighted(keep: Keep, name: str, frames: torch.Tensor, rows: Rows) -> torch.Tensor:
    """One product with a constant for each tap, or one for the sum where all weights are the same."""
    taps = max(map(len, rows))
    weights = [[*row.values(), *([0.0] * (taps - len(row)))] for row in rows]
    same = len({weight for row in weights for weight in row}) == 1
    result: torch.Tensor | None = None
    for tap in range(taps):
        tap_name = f"{name}_tap{tap}"
        part = placed(keep, tap_name, frames, 0, [list(row)[min(tap, len(row) - 1)] for row in rows])
        part = part if same else _scaled(keep, tap_name, part, [row[tap] for row in weights])
        result = part if result is None else result + part
    assert result is not None
    return _scaled(keep, name, result, [row[0] for row in weights]) if same else result


def _scaled(keep: Keep, name: str, frames: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Frames, each times its weight."""
    if len(set(weights)) == 1:
        return frames if weights[0] == 1 else frames * weights[0]
    return frames * keep(f"{name}_weights", lambda: torch.tensor(weights, dtype=frames.dtype).reshape(-1, 1, 1, 1))


def side_by_side(parts: Sequence[torch.Tensor], axis: int) -> torch.Tensor:
    """A concatenation, where there is more than one part."""
    if len(parts) == 1:
        return parts[0]
    if all(part is parts[0] for part in parts):  # a view each: XNNPACK takes no concatenation of a single tensor
        parts = [part.reshape(part.shape) for part in parts]
    return torch.cat(list(parts), axis)


def _slices(x: torch.Tensor, axis: int, start: int, step: int, count: int) -> list[torch.Tensor]:
    """The places `start, start + step, ...` as slices to be put side by side."""
    if step == 0:
        return _slices(x, axis, start, 1, 1) * count
    if step == 1 and count == x.shape[axis]:
        return [x]
    if step > 0:
        return [x[(slice(None),) * axis + (slice(start, start + step * (count - 1) + 1, step),)]]
    if count <= MAX_REVERSED:
        return [part for place in range(start, start - count, -1) for part in _slices(x, axis, place, 1, 1)]
    return [torch.flip(part, [axis]) for part in _slices(x, axis, start - count + 1, 1, count)]


def _runs(places: Sequence[int]) -> list[tuple[int, int, int]]:
    """(start, step, count) of runs with a constant step of -1 or more."""
    runs: list[tuple[int, int, int]] = []
    for place in places:
        if runs:
            start, step, count = runs[-1]
            gap = place - (start + step * (count - 1))
            if gap >= -1 and (count == 1 or gap == step):
                runs[-1] = (start, gap, count + 1)
                continue
        runs.append((place, 1, 1))
    return runs
