"""Losses of optical flow: errors at every level of a pyramid, masks, and smoothness where there is no truth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from toolkit.interpolation import confirmed

EPS = 0.01  # pixels


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


def lengths(flow: torch.Tensor) -> torch.Tensor:
    """The displacement of each pixel: `(B, 2, H, W)` to `(B, H, W)`."""
    return flow.square().sum(dim=1).sqrt()  # a tenth of the time that torch's vector_norm takes across channels


def agreement(forwards: torch.Tensor, backwards: torch.Tensor) -> torch.Tensor:
    """Where following a flow `(B, 2, H, W)` and then the one back returns to its start: `(B, H, W)` bool.

    Elsewhere the point was occluded, or a flow is wrong; the threshold is that of `toolkit.interpolation.confirmed`.
    """
    pairs = zip(forwards, backwards, strict=True)
    return torch.cat([confirmed(there, back) for there, back in pairs]) > math.exp(-1)


def smoothness(flow: torch.Tensor, image: torch.Tensor, edge: float) -> torch.Tensor:
    """The mean absolute second difference of a flow, less where the image `(B, 3, H, W)` in [0, 1] has an edge: `(B,)`.

    Source: Wang et al., Occlusion Aware Unsupervised Learning of Optical Flow (2018), section 3.3.
    """
    total = flow.new_zeros(flow.shape[0])
    for dim in (-1, -2):
        kink = flow.diff(n=2, dim=dim).abs().mean(dim=1)
        gradient = image.diff(dim=dim).abs().mean(dim=1)
        steepest = torch.maximum(
            gradient.narrow(dim, 0, gradient.shape[dim] - 1), gradient.narrow(dim, 1, gradient.shape[dim] - 1)
        )
        total = total + (kink * torch.exp(-edge * steepest)).flatten(1).mean(dim=1)
    return total / 2
