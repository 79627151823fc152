"""Losses that see more than single pixels: LPIPS and SSIM, over the frames of videos in [-1, 1]."""

from __future__ import annotations

import torch
from torch import nn
from torchmetrics.functional.image import structural_similarity_index_measure

from toolkit.errors import UserError
from toolkit.lpips import SMALLEST_SIDE, lpips_network, network_missing


def perceptual_network(net: str) -> nn.Module:
    """The frozen LPIPS network; raises `UserError` with the remedy where its weights are not on this machine."""
    missing = network_missing(net)
    if missing is not None:
        raise UserError(f"objective.perceptual: {missing}, or leave it out with --set objective.perceptual=null")
    return lpips_network(net).requires_grad_(False).eval()


def check_size(height: int, width: int) -> None:
    """Raise `UserError` on frames too small for LPIPS."""
    if min(height, width) < SMALLEST_SIDE:
        raise UserError(
            f"objective.perceptual: frames of {height}x{width} are too small for LPIPS; raise data.train.size to "
            f"{SMALLEST_SIDE} at least"
        )


def perceptual_distance(network: nn.Module, decoded: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
    """Mean LPIPS of the frames of two videos `(B, 3, T, H, W)`; decoded values are used as they are, not clamped."""
    distance: torch.Tensor = network(_frames(decoded), _frames(video)).mean()
    return distance


def structural_similarity(decoded: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
    """Mean SSIM of the frames of two videos `(B, 3, T, H, W)`, taken to [0, 1]; the data range is 1."""
    ours, theirs = ((_frames(clip) + 1) / 2 for clip in (decoded, video))
    with torch.autocast(video.device.type, enabled=False):  # variances are differences that bf16 cancels
        similarity = structural_similarity_index_measure(ours, theirs, data_range=1.0)
    assert isinstance(similarity, torch.Tensor)
    return similarity


def _frames(video: torch.Tensor) -> torch.Tensor:
    """`(B, 3, T, H, W)` to `(B*T, 3, H, W)`, not clamped: what is out of range must keep its gradient."""
    return video.float().transpose(1, 2).flatten(0, 1)
