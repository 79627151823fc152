"""The building blocks of video students: separable 3-D convolutions, channel RMS norm, decoupled pixel shuffle.

Shapes are `(B, C, T, H, W)` throughout. Facts of the blocks: Turbo-VAED (arXiv 2508.09136).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class ChannelRMSNorm(nn.Module):
    """Divide every position by the root mean square over its channels; no learned scale (Turbo-VAED's PixelNorm)."""

    def __init__(self, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + self.eps)


class ChannelLayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` over the channels of a `(B, C, T, H, W)` tensor."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def pad_time(x: torch.Tensor, kernel: int, causal: bool = False) -> torch.Tensor:
    """Repeat the first and the last frame so that a valid convolution keeps T.

    Both `(kernel - 1) // 2` times; or, `causal`, the first one alone `kernel - 1` times: no frame sees a later one.
    """
    if kernel == 1:
        return x
    before = kernel - 1 if causal else (kernel - 1) // 2
    after = kernel - 1 - before
    return torch.cat([x[:, :, :1]] * before + [x] + [x[:, :, -1:]] * after, dim=2)


class Conv3d(nn.Module):
    """A dense 3-D convolution that keeps the shape: time padded by repetition, space by zeros."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, causal: bool = False) -> None:
        super().__init__()
        self.kernel, self.causal = kernel, causal
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, padding=(0, kernel // 2, kernel // 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(pad_time(x, self.kernel, self.causal))


class SeparableConv3d(nn.Module):
    """A depthwise convolution of `kernel`^2 in space and `temporal_kernel` in time, then at once a pointwise one.

    The temporal kernel is by default `kernel`; padding is that of `Conv3d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 5,
        causal: bool = False,
        temporal_kernel: int | None = None,
    ) -> None:
        super().__init__()
        self.temporal_kernel, self.causal = kernel if temporal_kernel is None else temporal_kernel, causal
        size, padding = (self.temporal_kernel, kernel, kernel), (0, kernel // 2, kernel // 2)
        self.depthwise_conv = nn.Conv3d(in_channels, in_channels, size, padding=padding, groups=in_channels)
        self.pointwise_conv = nn.Conv3d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise_conv(self.depthwise_conv(pad_time(x, self.temporal_kernel, self.causal)))


class DecoupledPixelShuffle3d(nn.Module):
    """Channels to time, then channels to space: `(B, C*s*s*st, T, H, W)` to `(B, C, T*st, H*s, W*s)`.

    Time is the innermost factor of the channels; each step moves one axis only, so no step needs more than
    one extra dimension (Turbo-VAED, "decoupled 3D pixel shuffle").
    """

    def __init__(self, time: int, space: int) -> None:
        super().__init__()
        self.time, self.space = time, space

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.time > 1:
            x = x.unflatten(1, (-1, self.time))  # (B, C*s*s, st, T, H, W)
            x = x.permute(0, 1, 3, 2, 4, 5).flatten(2, 3)  # (B, C*s*s, T*st, H, W)
        if self.space > 1:
            batch, frames = x.shape[0], x.shape[2]
            x = x.transpose(1, 2).flatten(0, 1)  # (B*T, C*s*s, H, W)
            x = F.pixel_shuffle(x, self.space).unflatten(0, (batch, frames)).transpose(1, 2)
        return x
