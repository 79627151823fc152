"""Turbo-VAED: a compact decoder for the latents of a video VAE.

Source: Turbo-VAED (arXiv 2508.09136); parameter names are the published ones.
Stages are listed in the order in which a latent passes them: the middle block, then every up block.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from toolkit.blocks import ChannelLayerNorm, ChannelRMSNorm, Conv3d, DecoupledPixelShuffle3d, SeparableConv3d
from toolkit.students import Student, register
from toolkit.students.turbo_vaed_config import PRESETS, TurboVAEDConfig


@register("turbo_vaed", TurboVAEDConfig, PRESETS)
class TurboVAED(Student):
    """The decoder; see `TurboVAEDConfig`. As published, every frame sees its neighbours on both sides."""

    config: TurboVAEDConfig

    def __init__(self, config: TurboVAEDConfig) -> None:
        super().__init__()
        self.config = config
        width = config.widths[0]
        causal = config.temporal_padding == "causal"
        self.conv_in = Conv3d(config.latent_channels, width, causal=causal)
        self.mid_block = Stage(config, 0, width)
        blocks = []
        for index in range(1, len(config.widths)):
            blocks.append(Stage(config, index, width))
            width = config.widths[index]
        self.up_blocks = nn.ModuleList(blocks)
        self.upsampler2d_1 = Upsampler2d(width) if config.staged else None
        self.upsampler2d_2 = Upsampler2d(width // 4) if config.staged else None
        last = Parts(config, len(config.widths) - 1, separable=False)
        self.norm_out, self.act_out = last.norm(), last.activation()
        if config.patch == 1 or config.staged:
            self.conv_out: nn.Module = Conv3d(width // 16 if config.staged else width, 3, causal=causal)
            self.unpatchify: nn.Module = nn.Identity()
        else:
            self.conv_out = FrameConv2d(width, 3 * config.patch**2)
            self.unpatchify = DecoupledPixelShuffle3d(1, config.patch)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        x = self.mid_block(self.conv_in(latent))
        for block in self.up_blocks:
            x = block(x)
        if self.upsampler2d_1 is not None and self.upsampler2d_2 is not None:
            x = self.upsampler2d_2(self.upsampler2d_1(x))
        video = self.unpatchify(self.conv_out(self.act_out(self.norm_out(x))))
        assert isinstance(video, torch.Tensor)
        return video


class Stage(nn.Module):
    """The middle block or an up block: a channel change where widths differ, an upsampler, residual blocks."""

    def __init__(self, config: TurboVAEDConfig, index: int, in_width: int) -> None:
        super().__init__()
        width = config.widths[index]
        time, space = config.strides[index - 1] if index else (1, 1)
        upsamples = time * space > 1
        transitions = Parts(config, index, config.separable_transitions)
        self.conv_in = ResidualBlock(in_width, width, transitions) if in_width != width else None
        self.upsamplers = (
            nn.ModuleList([Upsampler3d(width, time, space, transitions, config.keep_first_frames)])
            if upsamples
            else None
        )
        parts = Parts(config, index, config.separable[index])
        self.resnets = nn.ModuleList(
            ResidualBlock(width, width, parts, relu_first=upsamples) for _ in range(config.layers[index])
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.conv_in is not None:
            x = self.conv_in(x)
        for upsampler in self.upsamplers or ():
            x = upsampler(x)
        for block in self.resnets:
            x = block(x)
        return x


class Parts:
    """Chooses the convolution, norm and activation of a place in the network."""

    def __init__(self, config: TurboVAEDConfig, stage: int, separable: bool) -> None:
        self.config, self.stage, self.separable = config, stage, separable

    def convolution(self, in_channels: int, out_channels: int) -> nn.Module:
        config, causal = self.config, self.config.temporal_padding == "causal"
        if self.separable:
            temporal = config.temporal_kernel(self.stage)
            return SeparableConv3d(in_channels, out_channels, config.depthwise_kernel, causal, temporal)
        return Conv3d(in_channels, out_channels, causal=causal)

    @property
    def has_norms(self) -> bool:
        return self.config.has_norms(self.stage)

    def norm(self) -> nn.Module:
        return ChannelRMSNorm() if self.has_norms else nn.Identity()

    def activation(self) -> nn.Module:
        return nn.SiLU() if self.config.activation == "silu" else nn.ReLU()


class ResidualBlock(nn.Module):
    """norm, activation, convolution, twice, plus a shortcut.

    The first activation is ReLU in upsampling stages, but not where the block changes the width.
    """

    def __init__(self, in_channels: int, out_channels: int, parts: Parts, relu_first: bool = False) -> None:
        super().__init__()
        self.norm1 = parts.norm()
        self.act1 = nn.ReLU() if relu_first else parts.activation()
        self.conv1 = parts.convolution(in_channels, out_channels)
        self.norm2 = parts.norm()
        self.act2 = parts.activation()
        self.conv2 = parts.convolution(out_channels, out_channels)
        changes = in_channels != out_channels
        self.norm3 = ChannelLayerNorm(in_channels, eps=1e-6) if changes and parts.has_norms else nn.Identity()
        self.conv_shortcut = Conv3d(in_channels, out_channels, kernel=1) if changes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(self.act1(self.norm1(x)))
        y = self.conv2(self.act2(self.norm2(y)))
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(self.norm3(x))
        return x + y


class Upsampler3d(nn.Module):
    """A convolution at the low resolution, then the decoupled pixel shuffle."""

    def __init__(self, width: int, time: int, space: int, parts: Parts, keep_first_frames: bool) -> None:
        super().__init__()
        self.conv = parts.convolution(width, width * time * space * space)
        self.shuffle = DecoupledPixelShuffle3d(time, space)
        self.dropped = 0 if keep_first_frames else time - 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.shuffle(self.conv(x))
        return x[:, :, self.dropped :] if self.dropped else x


class FrameConv2d(nn.Module):
    """A 3x3 convolution of every frame on its own: `(B, C, T, H, W)` to `(B, C', T, H, W)`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, frames = x.shape[0], x.shape[2]
        y = self.conv(x.transpose(1, 2).flatten(0, 1))  # (B*T, C', H, W)
        return y.unflatten(0, (batch, frames)).transpose(1, 2)


class Upsampler2d(nn.Module):
    """norm, SiLU, a 3x3 convolution a frame and a 2x pixel shuffle: `(B, C, T, H, W)` to `(B, C/4, T, 2H, 2W)`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = ChannelRMSNorm()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, frames = x.shape[0], x.shape[2]
        y = F.silu(self.norm(x)).transpose(1, 2).flatten(0, 1)  # (B*T, C, H, W)
        y = F.pixel_shuffle(self.conv(y), 2)
        return y.unflatten(0, (batch, frames)).transpose(1, 2)
