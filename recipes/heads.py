"""Projection heads: a student's features in the channels and on the grid of the teacher's.

Source: Turbo-VAED (arXiv 2508.09136): two 1x1x1 convolutions without an activation between them, and where the teacher
has upsampled already, as many channels more and a pixel shuffle.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from toolkit.blocks import DecoupledPixelShuffle3d


class Head(nn.Module):
    """From features `ours` `(B, C, t, h, w)` to `theirs` `(B, C', T, H, W)`, both given as shapes.

    H and W are one whole multiple s of h and w. T is t, k times t, or k(t - 1) + 1, the first k - 1 frames dropped, as
    decoders do; where both are possible, the one in which k is a power of 2. Raises `ValueError` on other grids.
    """

    def __init__(self, ours: Sequence[int], theirs: Sequence[int]) -> None:
        super().__init__()
        time, self.dropped = _factor_in_time(ours[2], theirs[2])
        space = _factor_in_space(ours[3:], theirs[3:])
        width = theirs[1] * time * space * space
        self.projection = nn.Sequential(nn.Conv3d(ours[1], width, 1), nn.Conv3d(width, width, 1))
        self.shuffle = DecoupledPixelShuffle3d(time, space)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.shuffle(self.projection(x))
        return y[:, :, self.dropped :]


def _factor_in_time(ours: int, theirs: int) -> tuple[int, int]:
    found = []
    if ours > 1 and (theirs - 1) % (ours - 1) == 0:
        factor = (theirs - 1) // (ours - 1)
        found.append((factor, factor - 1))
    if theirs % ours == 0:
        found.append((theirs // ours, 0))
    if not found or found[0][0] < 1:
        raise ValueError(f"{ours} frames do not become {theirs}")
    # 3 frames become 9 by doubling twice, not by a factor of 3
    return next((pair for pair in found if pair[0].bit_count() == 1), found[0])


def _factor_in_space(ours: Sequence[int], theirs: Sequence[int]) -> int:
    factors = {large / small for small, large in zip(ours, theirs, strict=True)}
    factor = factors.pop()
    if factors or factor != int(factor) or factor < 1:
        raise ValueError(f"{ours[0]}x{ours[1]} does not become {theirs[0]}x{theirs[1]} by one whole factor")
    return int(factor)
