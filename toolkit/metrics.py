"""Reconstruction metrics with a fixed data range, so that brightness and contrast errors count.

Videos are `(B, C, T, H, W)` or `(C, T, H, W)` float in [-1, 1], and values beyond it count as its ends. Metrics are
computed frame by frame, on frames in [0, 1], and averaged over frames. Nothing is normalised per clip.
"""

from __future__ import annotations

import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

DATA_RANGE = 1.0  # of frames in [0, 1]; SSIM's luminance term needs black at 0, so [-1, 1] would not do


def frames_of(video: torch.Tensor) -> torch.Tensor:
    """`(B, C, T, H, W)` or `(C, T, H, W)` to clamped frames `(B*T, C, H, W)` in [0, 1]."""
    batched = video if video.ndim == 5 else video[None]
    return batched.float().transpose(1, 2).flatten(0, 1).clamp(-1, 1).add(1).div(2)


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


def tpsnr(prediction: torch.Tensor, target: torch.Tensor) -> float | None:
    """Temporal consistency: mean over pairs of frames of the PSNR in dB between changes from frame to frame.

    Of frames in [0, 1], `x[t+1] - x[t]` is compared with `y[t+1] - y[t]`. These differences lie in [-1, 1], so the
    data range is 2; a range of 1 would give 6.02 dB less. None where a video has one frame only.
    """
    ours, theirs = _changes(prediction), _changes(target)
    if not len(ours):
        return None
    value = peak_signal_noise_ratio(
        ours, theirs, data_range=2 * DATA_RANGE, dim=(1, 2, 3), reduction="elementwise_mean"
    )
    return float(value)


def _changes(video: torch.Tensor) -> torch.Tensor:
    """Differences `(B*(T-1), C, H, W)` in [-1, 1] of successive frames, none across videos."""
    videos = video if video.ndim == 5 else video[None]
    return torch.cat([frames_of(one).diff(dim=0) for one in videos])
