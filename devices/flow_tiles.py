"""Optical flow of images much larger than an artifact: from the whole frame, made small, to tiles at full resolution.

The flow of the whole is refined at one scale after another, each at most twice as fine as the one before. At each,
overlapping tiles of the first image are matched with windows of the second that are displaced by what the scale before
says of the tile, so that an artifact of limited reach finds what is left of a long motion.
Images are `(3, H, W)`, float in [0, 1] or uint8; flow `(2, H, W)` in pixels of its own grid, x then y.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from toolkit.tiling import Axis, Plan, Tiling, Window, plan

Size = tuple[int, int]
"""Height and width."""

Run = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""The flow between two images of the artifact's size."""

LARGE = 2  # times the artifact's height or width: beyond it, squeezing loses what tiles keep
# On made-up pairs of four times the artifact's sides, tiles keep detail that squeezing loses; pixels that the second
# image hides get worse, for a tile sees less around them.
#: Of one scale to the next. A direct step to full resolution was as good on some pairs, worse on those that move far.
FACTOR = 2
#: A tile's vector is trusted where the scale before leaves up to the first share of the artifact's reach, and not at
#: all from the second on. Twice these shares were worse: near the end of its reach an artifact is wrong too often.
TRUSTED, UNTRUSTED = 0.25, 0.5
FLOOR = 1e-3  # weight of the scale before: it decides where no tile is trusted, and is nothing elsewhere

#: A pixel's flow depends on all of a tile, so that tiles are blended.
BLENDED = Tiling(time=Axis(factor=1, before=0, after=0), rows=Axis(factor=1), columns=Axis(factor=1))


def is_large(size: Size, tile: Size) -> bool:
    """Whether an image is more than twice as high or as wide as the artifact."""
    return any(side > LARGE * extent for side, extent in zip(size, tile, strict=True))


def tile_count(size: Size, tile: Size) -> int:
    """How many tiles `tiled_flow` computes, at all scales; what it computes of the whole frame is one of them."""
    return 1 + sum(_plan(scale, tile).runs for scale in _scales(size, tile))


def tiled_flow(
    run: Run,
    first: torch.Tensor,
    second: torch.Tensor,
    tile: Size,
    reach: float,
    tick: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """The flow from `first` to `second`, of one size, by runs on images of the size `tile`.

    `reach` is how many pixels of its images the artifact can search. `tick` is called after every run. Memory holds
    the images at two scales, and the flow with its weights.
    """
    flow = run(resized(first, tile), resized(second, tile))
    tick()
    for size in _scales((first.shape[1], first.shape[2]), tile):
        flow = _refined(run, resized(first, size), resized(second, size), scaled(flow, size), tile, reach, tick)
    return scaled(flow, (first.shape[1], first.shape[2]))


def resized(values: torch.Tensor, size: Size) -> torch.Tensor:
    """`values` `(C, H, W)` at another size, bilinear, and averaged where it is smaller; uint8 images become float."""
    if tuple(values.shape[1:]) == size:
        return values
    planes = (unit_range(plane)[None] for plane in values.split(1))  # one by one: as floats they are four times larger
    return torch.cat(
        [F.interpolate(plane, size=size, mode="bilinear", align_corners=False, antialias=True)[0] for plane in planes]
    )


def unit_range(image: torch.Tensor) -> torch.Tensor:
    """An image as float in [0, 1]."""
    return image.float().div(255) if image.dtype == torch.uint8 else image


def scaled(flow: torch.Tensor, size: Size) -> torch.Tensor:
    """`flow` on another grid, in its pixels: x grows by the ratio of widths, y by that of heights."""
    if tuple(flow.shape[1:]) == size:
        return flow
    ratios = torch.tensor([size[1] / flow.shape[2], size[0] / flow.shape[1]])
    return resized(flow, size) * ratios[:, None, None]


def _scales(size: Size, tile: Size) -> list[Size]:
    """The sizes at which tiles are computed, from coarse to fine: evenly spaced, the last at full resolution."""
    full = [max(side, extent) for side, extent in zip(size, tile, strict=True)]
    ratios = [side / extent for side, extent in zip(full, tile, strict=True)]
    count = max(1, math.ceil(math.log(max(ratios), FACTOR) - 1e-9))
    sizes = [[round(e * r ** (n / count)) for e, r in zip(tile, ratios, strict=True)] for n in range(1, count)]
    return [(height, width) for height, width in [*sizes, full]]


def _plan(size: Size, tile: Size) -> Plan:
    return plan((1, *size), (1, *tile), BLENDED)


def _refined(
    run: Run,
    first: torch.Tensor,
    second: torch.Tensor,
    coarse: torch.Tensor,
    tile: Size,
    reach: float,
    tick: Callable[[], None],
) -> torch.Tensor:
    """The flow at one scale; `coarse` is that of the scale before, on this one's grid, and is used up."""
    layout = _plan((first.shape[1], first.shape[2]), tile)
    total, weights = coarse * FLOOR, torch.full_like(coarse[:1], FLOOR)
    for row in layout.rows.windows:
        for column in layout.columns.windows:
            here = (slice(None), row.outputs, column.outputs)
            expected = coarse[here]
            start, shift = _displaced((row.start, column.start), expected, tile, (first.shape[1], first.shape[2]))
            there = second[:, start[0] : start[0] + tile[0], start[1] : start[1] + tile[1]]
            found = run(first[here], there) + shift
            weight = _weights(row, column) * _trust(expected - shift, reach)
            total[here] += found * weight
            weights[here] += weight
            tick()
    return total.div_(weights)


def _displaced(start: Size, expected: torch.Tensor, tile: Size, size: Size) -> tuple[Size, torch.Tensor]:
    """Where the second image's window starts, within the frame, and by how much that is displaced `(2, 1, 1)`."""
    right, down = (round(value) for value in expected.flatten(1).median(dim=1).values.tolist())
    row, column = (
        min(max(place + step, 0), side - extent)
        for place, step, side, extent in zip(start, (down, right), size, tile, strict=True)
    )
    shift = torch.tensor([column - start[1], row - start[0]], dtype=expected.dtype)
    return (row, column), shift[:, None, None]


def _trust(left: torch.Tensor, reach: float) -> torch.Tensor:
    """From 1 to 0, `(1, h, w)`: whether the motion `left` beside the tile's own is one that the artifact finds."""
    longest = left.abs().amax(dim=0, keepdim=True)  # a search is square
    return ((UNTRUSTED - longest / reach) / (UNTRUSTED - TRUSTED)).clamp(0, 1)


def _weights(row: Window, column: Window) -> torch.Tensor:
    sides = [
        np.ones(window.outputs.stop - window.outputs.start) if window.weights is None else window.weights
        for window in (row, column)
    ]
    return torch.from_numpy(np.outer(*sides)).float()
