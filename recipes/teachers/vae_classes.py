"""What differs between the VAE classes of diffusers: factors, frames a clip may have, how features come, statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin

from recipes.alignment import joined_in_time
from toolkit.errors import UserError
from toolkit.latents import LatentStatistics
from toolkit.schema import validate

Factor = Callable[[ModelMixin], int]
Join = Callable[[ModelMixin, Sequence[torch.Tensor], torch.Size], torch.Tensor]


def latent_statistics(vae: ModelMixin, channels: int) -> LatentStatistics:
    """From latents_mean and latents_std (buffers or configuration), scaling_factor and shift_factor, where it has them.

    diffusers' pipelines undo them as `x * latents_std / scaling_factor + latents_mean`, with shift_factor for the mean
    where there are no statistics. Raises `UserError` where there are not `channels` of them, or where they are no
    statistics: a std must be above 0, and every number finite.
    """
    buffers = dict(vae.named_buffers(recurse=False))

    def known(key: str) -> list[float] | None:
        values = buffers.get(key, vae.config.get(key))
        return None if values is None else [float(value) for value in values]

    scale = float(vae.config.get("scaling_factor") or 1.0)
    mean, std = known("latents_mean"), known("latents_std")
    if mean is None or std is None:
        mean = [float(vae.config.get("shift_factor") or 0.0)] * channels
        std = [1.0] * channels
    for key, values in (("latents_mean", mean), ("latents_std", std)):
        if len(values) != channels:
            raise UserError(
                f"{type(vae).__name__}: {key} has {len(values)} numbers for latents of {channels} channels; "
                f"give latents_mean and latents_std of {channels} numbers each in its configuration"
            )
    name = type(vae).__name__
    found = {"mean": mean, "std": [value / scale for value in std], "origin": name}
    return validate(LatentStatistics, found, f"{name}: statistics of its latents")


@dataclass(frozen=True)
class VAEClass:
    """The facts of one class.

    `frame_step`: clips of `frame_step * k + 1` frames survive encoding and decoding. `join` makes one feature
    `(B, C, T, h, w)` of a block's outputs during one decode of a latent of the given shape. `is_image`: it takes
    `(B, C, H, W)`, so that every frame of a video goes on its own. `channels`: the key of the latent's channels.
    """

    spatial: Factor
    temporal: Factor
    frame_step: Factor
    join: Join
    is_image: bool = False
    channels: str = "latent_channels"


def _declared(name: str) -> Factor:
    """The factor that the VAE itself keeps as an attribute or in its configuration."""

    def factor(vae: Any) -> int:
        value = vars(vae).get(name)
        return int(vae.config[name] if value is None else value)

    return factor


def _halvings(widths: str) -> Factor:
    """Twofold between one width of the configuration and the next."""
    return lambda vae: 2 ** (len(vae.config[widths]) - 1)


def _wan_spatial(vae: Any) -> int:
    return int(_halvings("dim_mult")(vae) * (vae.config["patch_size"] or 1))


def _wan_temporal(vae: Any) -> int:
    return 2 ** sum(vae.config["temperal_downsample"])


def _one(_vae: Any) -> int:
    return 1


def _four(_vae: Any) -> int:
    return 4


def _joined(_vae: ModelMixin, calls: Sequence[torch.Tensor], _latent: torch.Size) -> torch.Tensor:
    return joined_in_time(calls)


def _unfolded(_vae: ModelMixin, calls: Sequence[torch.Tensor], latent: torch.Size) -> torch.Tensor:
    return unfold_frames(joined_in_time(calls), latent[0])


def _trimmed(vae: Any, calls: Sequence[torch.Tensor], latent: torch.Size) -> torch.Tensor:
    """Overlapping tiles of time joined as the decoder joins its frames, without the blending of pixels.

    The first tile gives its first frame and those of `stride` latent frames, each further tile those of `stride`.
    """
    if len(calls) == 1:
        return calls[0]
    ratio = vae.temporal_compression_ratio
    stride = vae.tile_sample_stride_num_frames // ratio
    tile = min(vae.tile_sample_min_num_frames // ratio + 1, latent[2])
    frames = (calls[0].shape[2] - 1) // (tile - 1) * stride  # of one stride, at this block's own rate
    later = [call[:, :, 1 : frames + 1] for call in calls[1:]]
    return joined_in_time([calls[0][:, :, : frames + 1], *later])


def fold_frames(video: torch.Tensor) -> torch.Tensor:
    """`(B, C, T, H, W)` as images, `(B*T, C, H, W)`."""
    return video.movedim(2, 1).flatten(0, 1)


def unfold_frames(images: torch.Tensor, batch: int) -> torch.Tensor:
    """`(batch*T, C, H, W)` as videos, `(batch, C, T, H, W)`."""
    return images.unflatten(0, (batch, images.shape[0] // batch)).movedim(1, 2)


_SPATIAL, _TEMPORAL = _declared("spatial_compression_ratio"), _declared("temporal_compression_ratio")

VAE_CLASSES = {
    "AutoencoderKLLTXVideo": VAEClass(_SPATIAL, _TEMPORAL, _TEMPORAL, _joined),
    "AutoencoderKLHunyuanVideo": VAEClass(_SPATIAL, _TEMPORAL, _TEMPORAL, _trimmed),
    "AutoencoderKLCogVideoX": VAEClass(
        _halvings("block_out_channels"),
        _TEMPORAL,
        lambda vae: 2 * _TEMPORAL(vae),  # an even number of latent frames decodes to a multiple of the factor
        _joined,
    ),
    # Its encoder takes one frame and then four at a time, whatever its factor, and leaves out what remains.
    "AutoencoderKLWan": VAEClass(_wan_spatial, _wan_temporal, _four, _joined, channels="z_dim"),
    "AutoencoderKL": VAEClass(_halvings("block_out_channels"), _one, _one, _unfolded, is_image=True),
    "AutoencoderDC": VAEClass(_SPATIAL, _one, _one, _unfolded, is_image=True),
}
