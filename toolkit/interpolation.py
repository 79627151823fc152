"""A frame halfway between two, from the optical flow in both directions.

The motion is carried to the halfway frame, as in Baker et al., "A Database and Evaluation Methodology for Optical Flow"
(IJCV 2011, section 3.3.2), where vectors that both directions confirm outweigh others; then both frames are sampled
along it and blended. What one frame does not show comes from the other. Images are `(3, H, W)` float in [0, 1],
flows `(2, H, W)` in pixels, x then y.
"""

from __future__ import annotations

import torch

from toolkit.flow_blocks import warp

#: Forward and backward flow confirm each other within this share of their squared lengths, and so many squared pixels
#: (Sundaram, Brox and Keutzer, "Dense Point Trajectories by GPU-accelerated Large Displacement Optical Flow", 2010).
CONFIRMED_SHARE, CONFIRMED_PIXELS = 0.01, 0.5
#: Weights of an unconfirmed vector, of the mean motion where nothing was carried to, and of a plain mean.
UNCONFIRMED, NOTHING_CARRIED, PLAIN_MEAN = 1e-3, 1e-6, 1e-3


def halfway(first: torch.Tensor, second: torch.Tensor, forward: torch.Tensor, backward: torch.Tensor) -> torch.Tensor:
    """The frame `(3, H, W)` halfway between `first` and `second`.

    `forward` is the flow from `first` to `second`, `backward` the one from `second` to `first`; both finite. Motion
    is taken as straight and even, light as constant. Where two confirmed motions meet, as when a thing passes over what
    both frames show, nothing says which is nearer: their mean is taken, which is wrong for either.
    """
    shown_in_second = confirmed(forward, backward)
    shown_in_first = confirmed(backward, forward)
    motion = _halfway_motion(forward, backward, shown_in_second, shown_in_first)  # half the way, (2, H, W)
    from_first, share_first = _sampled(first, shown_in_second, -motion)
    from_second, share_second = _sampled(second, shown_in_first, motion)
    # What the first frame shows and the second does not is taken from the first, and the other way round.
    weight_first = inside(-motion) * share_second + PLAIN_MEAN
    weight_second = inside(motion) * share_first + PLAIN_MEAN
    return (from_first * weight_first + from_second * weight_second) / (weight_first + weight_second)


def confirmed(flow: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
    """How far `back`, the flow of the other direction, leads each pixel home again: `(1, H, W)` from 0 to 1.

    It is 0 where `flow` leaves the frame.
    """
    returned = warp(back[None], flow[None])[0]
    gap = (flow + returned).square().sum(0, keepdim=True)
    allowed = CONFIRMED_SHARE * (flow.square() + returned.square()).sum(0, keepdim=True) + CONFIRMED_PIXELS
    return torch.exp(-gap / allowed) * inside(flow)


def inside(flow: torch.Tensor) -> torch.Tensor:
    """1 where `flow` ends inside of the frame, else 0: `(1, H, W)`."""
    x, y = _ends(flow)
    height, width = flow.shape[1:]
    return ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)).to(flow.dtype)[None]


def splat(values: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """`values` `(C, H, W)` carried along `flow` and added up where they fall, shared among the four nearest pixels.

    What falls outside of the frame is lost.
    """
    channels, height, width = values.shape
    x, y = _ends(flow)
    left, top = x.floor(), y.floor()
    result = values.new_zeros(channels, height * width)
    for right in (0, 1):
        for down in (0, 1):
            column, row = left + right, top + down
            share = (1 - (x - column).abs()) * (1 - (y - row).abs())
            share = share * ((column >= 0) & (column < width) & (row >= 0) & (row < height))
            place = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
            result.index_add_(1, place.flatten(), (values * share).flatten(1))
    return result.reshape(channels, height, width)


def _halfway_motion(
    forward: torch.Tensor, backward: torch.Tensor, shown_in_second: torch.Tensor, shown_in_first: torch.Tensor
) -> torch.Tensor:
    """Half of the motion of what is at each pixel halfway, `(2, H, W)`; unconfirmed vectors serve where no other is."""
    mean = (forward - backward) / 4
    total, weight = mean * NOTHING_CARRIED, torch.full_like(shown_in_first, NOTHING_CARRIED)
    for flow, sign, trust in ((forward, 1, shown_in_second), (backward, -1, shown_in_first)):
        trust = trust.clamp(min=UNCONFIRMED)
        carried = splat(torch.cat([flow * (sign / 2) * trust, trust]), flow / 2)
        total, weight = total + carried[:2], weight + carried[2:]
    return total / weight


def _sampled(image: torch.Tensor, shown: torch.Tensor, flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`image` and `shown` where `flow` ends."""
    both = warp(torch.cat([image, shown])[None], flow[None])[0]
    return both[:3], both[3:]


def _ends(flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The x and y `(H, W)` at which each pixel's flow ends."""
    height, width = flow.shape[1:]
    columns = torch.arange(width, dtype=flow.dtype, device=flow.device)
    rows = torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None]
    return flow[0] + columns, flow[1] + rows
