"""The building blocks of optical-flow students: warping, local correlation and convex upsampling, at rank 4 at most.

Warping and correlation come in two forms that give the same numbers, for back ends differ in what they do well.
Flow is `(B, 2, H, W)` in pixels of its own grid, x then y, from the first frame to the second.
Sources: warping and cost volume after PWC-Net (arXiv 1709.02371), convex upsampling after RAFT (arXiv 2003.12039).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce, wraps
from typing import Literal, ParamSpec

import torch
from torch import nn
from torch.nn import functional as F

P = ParamSpec("P")
Warp = Literal["grid_sample", "gather"]
Correlation = Literal["matmul", "slices"]

EPSILON = 1e-4  # representable in fp16
#: Rows are cut into blocks of at most so many pixels before they are multiplied: a band of a small square wastes less.
LARGEST_BLOCK, SMALLEST_BLOCK = 32, 16


def exact(function: Callable[P, torch.Tensor]) -> Callable[P, torch.Tensor]:
    """The same in fp32 where autocast would take less: bf16 has 8 bits, too few for places in a frame."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> torch.Tensor:
        device = next(value.device.type for value in args if isinstance(value, torch.Tensor))
        if not torch.is_autocast_enabled(device):
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            full = (value.float() if isinstance(value, torch.Tensor) else value for value in args)
            return function(*full, **kwargs)  # type: ignore[arg-type]

    return call


@exact
def warp(features: torch.Tensor, flow: torch.Tensor, form: Warp = "grid_sample") -> torch.Tensor:
    """What stands in `features` `(B, C, H, W)` where `flow` points to, bilinear; outside, the nearest border's.

    The forms agree in values, and in gradients but for pixels that point exactly at the border.
    """
    return WARPS[form](features, flow)


def _grid_sample(features: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    height, width = features.shape[2:]
    x, y = _targets(flow, height, width)
    grid = torch.cat([x * (2 / max(width - 1, 1)) - 1, y * (2 / max(height - 1, 1)) - 1], dim=1)  # (B, 2, H, W)
    return F.grid_sample(features, grid.permute(0, 2, 3, 1), padding_mode="border", align_corners=True)


def _gather(features: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Four look-ups of whole pixels, a row of channels each.

    Their places are computed as integers: converters turn products of floats into fp16, which counts to 2048 only.
    """
    batch, channels, height, width = features.shape
    x, y = _targets(flow, height, width)
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    left, top = x.detach().floor(), y.detach().floor()
    columns = [left.int(), (left + 1).clamp(max=width - 1).int()]
    first = torch.arange(batch, dtype=torch.int32, device=flow.device).reshape(batch, 1, 1, 1) * (height * width)
    rows = [top.int() * width + first, (top + 1).clamp(max=height - 1).int() * width + first]
    pixels = features.permute(0, 2, 3, 1).reshape(batch * height * width, channels)
    right, down = ((x - left).reshape(-1, 1), (y - top).reshape(-1, 1))  # (B*H*W, 1)

    def row(number: int) -> torch.Tensor:
        found = [pixels.index_select(0, (rows[number] + column).reshape(-1)) for column in columns]
        return found[0] + (found[1] - found[0]) * right

    upper = row(0)
    warped = upper + (row(1) - upper) * down
    return warped.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def _targets(flow: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The x and y `(B, 1, H, W)` at which each pixel's flow ends."""
    columns = torch.arange(width, dtype=flow.dtype, device=flow.device).reshape(1, 1, 1, width)
    rows = torch.arange(height, dtype=flow.dtype, device=flow.device).reshape(1, 1, height, 1)
    return flow[:, :1] + columns, flow[:, 1:] + rows


@exact
def correlation(first: torch.Tensor, second: torch.Tensor, radius: int, form: Correlation = "matmul") -> torch.Tensor:
    """Products of `first` and of `second` `(B, C, H, W)` displaced by up to `radius` pixels, averaged over channels.

    Gives `(B, (2 * radius + 1) ** 2, H, W)`, displacements row by row; outside of the frame `second` is zero.
    """
    return CORRELATIONS[form](first, second, radius)


def _by_slices(first: torch.Tensor, second: torch.Tensor, radius: int) -> torch.Tensor:
    height, width = first.shape[2:]
    padded = F.pad(second, [radius] * 4)
    side = range(2 * radius + 1)
    products = (first * padded[:, :, y : y + height, x : x + width] for y in side for x in side)
    return torch.cat([product.mean(1, keepdim=True) for product in products], dim=1)


def _by_matmul(first: torch.Tensor, second: torch.Tensor, radius: int) -> torch.Tensor:
    """Every row of pixels times a row of displaced ones: the correlation is a band of that square.

    The square is computed whole, in matrix products that runtimes have fast kernels for; the rest of it is dropped.
    """
    batch, channels, height, width = first.shape
    block = _block(width)
    count, wide, span = width // block, block + 2 * radius, 2 * radius + 1
    left = first.permute(0, 2, 3, 1).reshape(batch * height * count, block, channels) * (1 / channels)
    padded = F.pad(second, [radius] * 4).permute(0, 2, 1, 3)  # (B, H + 2r, C, W + 2r)
    pieces = [padded[:, :, :, number * block : number * block + wide] for number in range(count)]
    padded = torch.cat(pieces, dim=2) if count > 1 else padded  # (B, H + 2r, count*C, wide)
    bands = []
    for row in range(span):
        right = padded[:, row : row + height].reshape(batch * height * count, channels, wide)
        square = torch.bmm(left, right).reshape(batch * height * count, block * wide)
        # Rows one longer shift each row by one against the one above: the band's diagonals become columns.
        skewed = F.pad(square, [0, block]).reshape(batch * height * count, block, wide + 1)
        bands.append(skewed[:, :, :span])
    return torch.cat(bands, dim=2).reshape(batch, height, width, span * span).permute(0, 3, 1, 2)


def _block(width: int) -> int:
    block = math.gcd(width, LARGEST_BLOCK)
    return block if block >= SMALLEST_BLOCK else width


@exact
def normalised(features: torch.Tensor) -> torch.Tensor:
    """`features` `(B, C, H, W)` with a mean square of 1 at every pixel, so that their correlation is a cosine.

    The mean is said as a convolution, which XNNPACK takes; a mean over channels it leaves outside.
    """
    channels = features.shape[1]
    squares = F.conv2d(features * features, features.new_full((1, channels, 1, 1), 1 / channels))
    return features * torch.rsqrt(squares + EPSILON)


class SoftArgmax(nn.Module):
    """The expected displacement under a softmax of correlations: `(B, (2r + 1)^2, H, W)` to `(B, 2, H, W)`, x then y.

    Correlations are cosines, so that no maximum need be taken away for fp16: no exponent is above 0. How sharp the
    softmax is is learned.
    """

    def __init__(self, radius: int, sharpness: float = 4.0) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(sharpness))
        steps = torch.arange(-radius, radius + 1, dtype=torch.float32)
        x, y = steps.repeat(2 * radius + 1), steps.repeat_interleave(2 * radius + 1)
        moments = torch.stack([torch.ones_like(x), x, y])[:, :, None, None]
        self.register_buffer("moments", moments, persistent=False)
        self.moments: torch.Tensor

    @exact
    def forward(self, costs: torch.Tensor) -> torch.Tensor:
        likely = torch.exp((costs - 1) * self.sharpness)
        total, x, y = F.conv2d(likely, self.moments).split(1, dim=1)
        return torch.cat([x, y], dim=1) / (total + EPSILON)


WARPS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "grid_sample": _grid_sample,
    "gather": _gather,
}
CORRELATIONS: dict[str, Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]] = {
    "matmul": _by_matmul,
    "slices": _by_slices,
}


class ConvexUpsampler(nn.Module):
    """Flow `(B, 2, H, W)` and features `(B, C, H, W)` to flow `(B, 2, H*f, W*f)`, in pixels of the finer grid.

    Every fine pixel is a convex combination of its nine coarse neighbours, by a softmax over weights that one
    pointwise convolution predicts. Untrained, it is bilinear interpolation but for a share of `SPREAD` a neighbour.
    """

    SPREAD = 0.01

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.weights = nn.Conv2d(channels, 9 * factor**2, 1)
        with torch.no_grad():
            self.weights.weight.zero_()
            assert self.weights.bias is not None
            self.weights.bias.copy_(self._bilinear(factor).clamp(min=self.SPREAD).log())

    @staticmethod
    def _bilinear(factor: int) -> torch.Tensor:
        """The weight of each neighbour for each fine pixel of a coarse one, neighbours first, flat."""
        offsets = (torch.arange(factor) + 0.5) / factor - 0.5  # of a fine pixel from the coarse one's centre
        along = torch.stack([(1 - (offsets - place).abs()).clamp(min=0) for place in (-1, 0, 1)])  # (3, f)
        return torch.einsum("yi,xj->yxij", along, along).flatten()

    @exact
    def forward(self, flow: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        height, width = flow.shape[2:]
        planes = self.weights(features).split(self.factor**2, dim=1)  # nine of (B, f*f, H, W)
        highest = reduce(torch.maximum, planes)
        shares = [torch.exp(plane - highest) for plane in planes]
        padded = F.pad(flow * self.factor, [1] * 4, mode="replicate")
        places = [divmod(number, 3) for number in range(9)]
        neighbours = [padded[:, :, row : row + height, column : column + width] for row, column in places]
        total = reduce(torch.add, shares)
        x = reduce(torch.add, [share * near[:, :1] for share, near in zip(shares, neighbours, strict=True)])
        y = reduce(torch.add, [share * near[:, 1:] for share, near in zip(shares, neighbours, strict=True)])
        return F.pixel_shuffle(torch.cat([x / total, y / total], dim=1), self.factor)
