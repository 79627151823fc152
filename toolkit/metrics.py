"""Reconstruction metrics with a fixed data range, so that brightness and contrast errors count.

Videos are `(B, C, T, H, W)` or `(C, T, H, W)` float in [-1, 1]; both metrics are computed frame by
frame and averaged over frames. Nothing is normalised per clip.
"""

from __future__ import annotations

import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

DATA_RANGE = 2.0  # of values in [-1, 1]


def frames_of(video: torch.Tensor) -> torch.Tensor:
    """`(B, C, T, H, W)` or `(C, T, H, W)` to clamped frames `(B*T, C, H, W)`."""
    batched = video if video.ndim == 5 else video[None]
    return batched.float().transpose(1, 2).flatten(0, 1).clamp(-1, 1)


def psnr(prediction: torch.Tensor, target: torch.Tensor) -> float:
    """Mean over frames of the peak signal-to-noise ratio in dB."""
    value = peak_signal_noise_ratio(
        frames_of(prediction), frames_of(target), data_range=DATA_RANGE, dim=(1, 2, 3), reduction="elementwise_mean"
    )
    return float(value)


def ssim(prediction: torch.Tensor, target: torch.Tensor) -> float:
    """Mean over frames of the structural similarity (Gaussian window, sigma 1.5)."""
    value = structural_similarity_index_measure(frames_of(prediction), frames_of(target), data_range=DATA_RANGE)
    assert isinstance(value, torch.Tensor)
    return float(value)
