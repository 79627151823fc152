"""Losses of optical flow: errors at every level of a pyramid, masks, and smoothness where there is no truth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

EPS = 0.01  # pixels

# Where a flow and the way back differ by more, the point was occluded or the flow is wrong:
# Sundaram, Brox and Keutzer, Dense Point Trajectories by GPU-accelerated Large Displacement Optical Flow (2010), eq. 5.
RELATIVE, ABSOLUTE = 0.01, 0.5


def pyramid_loss(
    flows: Sequence[torch.Tensor],
    steps: Sequence[int],
    truth: torch.Tensor,
    weight: torch.Tensor,
    gamma: float,
    exponent: float,
) -> torch.Tensor:
    """Errors of `flows`, coarse to fine, all in pixels of the image, against `truth` `(B, 2, H, W)`.

    A pixel of a flow stands for `steps` pixels of the image a side. The last flow counts once, the one before it
    `gamma` times, and so on. `weight` `(B, H, W)` says how much each pixel of the image counts; without any the loss
    is 0.
    """
    total = flows[-1].new_zeros(())
    scale = 1.0
    for flow, step in zip(reversed(flows), reversed(steps), strict=True):
        target, counts = reduced(truth, weight, step, (flow.shape[-2], flow.shape[-1]))
        squared = (flow.float() - target).square().sum(dim=1) + EPS**2
        total = total + scale * (squared.pow(exponent / 2) * counts).sum() / counts.sum().clamp_min(1e-6)
        scale *= gamma
    return total


def reduced(
    truth: torch.Tensor, weight: torch.Tensor, step: int, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted means of a truth over cells of `step` pixels a side, and the mean weight in each.

    The grid of cells, of this `size`, may reach beyond the truth to the right and below, where nothing weighs.
    """
    if step == 1:
        return truth, weight
    height, width = truth.shape[-2:]
    margin = [0, size[1] * step - width, 0, size[0] * step - height]
    sums = F.avg_pool2d(F.pad(truth * weight[:, None], margin), step)
    means = F.avg_pool2d(F.pad(weight[:, None], margin), step)
    return sums / means.clamp_min(1e-6), means[:, 0]


def agreement(forwards: torch.Tensor, backwards: torch.Tensor) -> torch.Tensor:
    """Where following a flow `(B, 2, H, W)` and then the one back returns to its start: `(B, H, W)` bool."""
    height, width = forwards.shape[-2:]
    rows, columns = torch.meshgrid(
        torch.arange(height, device=forwards.device), torch.arange(width, device=forwards.device), indexing="ij"
    )
    x, y = forwards[:, 0] + columns, forwards[:, 1] + rows
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)
    back = F.grid_sample(backwards, grid, padding_mode="border", align_corners=True)
    apart = (forwards + back).square().sum(dim=1)
    lengths = forwards.square().sum(dim=1) + back.square().sum(dim=1)
    return inside & (apart < RELATIVE * lengths + ABSOLUTE)


def smoothness(flow: torch.Tensor, image: torch.Tensor, edge: float) -> torch.Tensor:
    """The mean absolute second difference of a flow, less where the image `(B, 3, H, W)` in [0, 1] has an edge.

    Source: Wang et al., Occlusion Aware Unsupervised Learning of Optical Flow (2018), section 3.3.
    """
    total = flow.new_zeros(())
    for dim in (-1, -2):
        kink = flow.diff(n=2, dim=dim).abs().mean(dim=1)
        gradient = image.diff(dim=dim).abs().mean(dim=1)
        steepest = torch.maximum(
            gradient.narrow(dim, 0, gradient.shape[dim] - 1), gradient.narrow(dim, 1, gradient.shape[dim] - 1)
        )
        total = total + (kink * torch.exp(-edge * steepest)).mean()
    return total / 2
