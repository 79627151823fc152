"""The video models on which the exact rank-4 lowering is tried: `MODELS[NAME]()` gives a module and its example inputs.

Weights are random, of a fixed seed; networks that are large when published are small here, but of the same structure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import nn

from toolkit import students

Factory = Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]]

# Narrower at the end they would have norms over one to four channels, which multiply rounding errors.
_SMALL_PATCHED = {"latent_channels": 8, "widths": (64, 64, 32, 16, 64)}
_SMALL_PLAIN = {"latent_channels": 8, "widths": (32, 32, 16, 16, 16)}


class Decoder(nn.Module):
    """The decoder's side of a diffusers VAE, whole: its loops over frames, their caches and the unpatching."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        video = self.vae.decode(latent, return_dict=False)[0]
        assert isinstance(video, torch.Tensor)
        return video


def _seeded(build: Callable[[], nn.Module], *shape: int) -> Factory:
    """A factory that gives the same weights and the same input of this shape at every call."""

    def make() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            module = build()
            _move_constants(module)
            return module.eval(), (torch.randn(shape),)

    return make


def _move_constants(module: nn.Module) -> None:
    """Make random what initialisers leave constant, such as a norm's scale and statistics: mistakes there must show."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point() and tensor.numel() > 1 and tensor.min() == tensor.max():
            tensor.add_(torch.empty_like(tensor).uniform_(-0.25, 0.25))


def _turbo_vaed(preset: str, overrides: dict[str, Any], *shape: int) -> Factory:
    return _seeded(lambda: students.build("turbo_vaed", preset, overrides), *shape)


def _torchvision(name: str, *shape: int) -> Factory:
    def build() -> nn.Module:
        from torchvision.models import video  # type: ignore[import]  # the other models do without

        module = getattr(video, name)(weights=None)
        assert isinstance(module, nn.Module)
        return module

    return _seeded(build, *shape)


def _mvit_v2_s(*shape: int) -> Factory:
    """torchvision's `mvit_v2_s` for another size of video: its own factory takes 16x224x224 alone."""

    def build() -> nn.Module:
        from torchvision.models.video.mvit import MSBlockConfig, MViT  # type: ignore[import]

        heads = [1, 2, 2, *[4] * 11, 8, 8]
        blocks = []
        for before, here in zip([1, *heads], heads, strict=False):
            space, space_kv = here // before, 8 // here
            blocks.append(
                MSBlockConfig(
                    num_heads=here,
                    input_channels=96 * before,
                    output_channels=96 * here,
                    kernel_q=[3, 3, 3],
                    kernel_kv=[3, 3, 3],
                    stride_q=[1, space, space],
                    stride_kv=[1, space_kv, space_kv],
                )
            )
        module = MViT(
            spatial_size=(shape[3], shape[4]),
            temporal_size=shape[2],
            block_setting=blocks,
            residual_pool=True,
            residual_with_cls_embed=False,
            rel_pos_embed=True,
            proj_after_attn=True,
        )
        assert isinstance(module, nn.Module)
        return module

    return _seeded(build, *shape)


def _diffusers(name: str, *shape: int, **config: Any) -> Factory:
    return _seeded(lambda: Decoder(getattr(diffusers, name)(**config)), *shape)


MODELS: dict[str, Factory] = {
    "turbo-vaed-ltx": _turbo_vaed("ltx", {}, 1, 128, 3, 6, 8),
    "turbo-vaed-hunyuan": _turbo_vaed("hunyuan", {}, 1, 16, 3, 6, 8),
    "turbo-vaed-cog": _turbo_vaed("cogvideox", {}, 1, 16, 2, 8, 6),
    "turbo-vaed-dc": _turbo_vaed("dc-ae", {}, 1, 128, 3, 6, 8),
    "turbo-vaed-ltx-small": _turbo_vaed("ltx", _SMALL_PATCHED, 1, 8, 3, 4, 5),
    "turbo-vaed-hunyuan-small": _turbo_vaed("hunyuan", _SMALL_PLAIN, 1, 8, 3, 6, 7),
    "turbo-vaed-cog-small": _turbo_vaed("cogvideox", _SMALL_PLAIN, 1, 8, 2, 7, 6),
    "turbo-vaed-dc-small": _turbo_vaed("dc-ae", _SMALL_PATCHED, 1, 8, 3, 4, 5),
    "r3d_18": _torchvision("r3d_18", 1, 3, 8, 64, 80),
    "mc3_18": _torchvision("mc3_18", 1, 3, 8, 64, 80),
    "r2plus1d_18": _torchvision("r2plus1d_18", 1, 3, 8, 64, 80),
    "s3d": _torchvision("s3d", 1, 3, 14, 210, 242),  # its last pool, 2x7x7 at an eighth and a 32nd, needs that much
    "mvit_v2_s": _mvit_v2_s(1, 3, 8, 64, 96),
    "swin3d_t": _torchvision("swin3d_t", 1, 3, 20, 64, 80),  # windows are shifted in time from 18 frames on
    "ltx-video-vae": _diffusers(
        "AutoencoderKLLTXVideo",
        *(1, 16, 3, 4, 5),
        latent_channels=16,
        block_out_channels=(16, 16, 32, 32),
        decoder_block_out_channels=(16, 16, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 2, 1, 1),
    ),
    "hunyuan-video-vae": _diffusers(
        "AutoencoderKLHunyuanVideo",
        *(1, 4, 6, 5, 6),  # more than 4 latent frames are decoded in overlapping tiles of time
        latent_channels=4,
        block_out_channels=(16, 16, 32, 32),
        layers_per_block=1,
        norm_num_groups=8,
    ),
    "cogvideox-vae": _diffusers(
        "AutoencoderKLCogVideoX",
        *(1, 4, 7, 5, 6),  # decoded as 3, 2 and 2 frames
        latent_channels=4,
        block_out_channels=(16, 16, 32, 32),
        layers_per_block=1,
        norm_num_groups=8,
    ),
    "wan-vae": _diffusers(
        "AutoencoderKLWan",
        *(1, 4, 3, 5, 6),
        z_dim=4,
        base_dim=16,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
    ),
    "mochi-vae": _diffusers(
        "AutoencoderKLMochi",
        *(1, 4, 3, 5, 6),  # all at once, but the norms take 8 frames at a time
        latent_channels=4,
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(64, 64, 64, 64),  # a norm has 32 groups, whatever the width
        layers_per_block=(1, 1, 1, 1, 1),
    ),
    "magvit-vae": _diffusers(
        "AutoencoderKLMagvit",
        *(1, 4, 3, 5, 6),
        latent_channels=4,
        block_out_channels=(16, 16, 32, 32),
        layers_per_block=1,
        norm_num_groups=8,
    ),
}
