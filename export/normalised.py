"""A decoder that takes what a diffusion model gives: it undoes the normalisation of latents itself."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from export.sources import Source
from toolkit.errors import UserError
from toolkit.latents import LatentStatistics


class Undoing(nn.Module):
    """A decoder of raw latents behind `normalised * std + mean`: takes normalised ones, `(1, C, T, h, w)`.

    The two are not folded into the decoder's first convolution: what that pads with zeros is the raw latent.
    """

    def __init__(self, decoder: nn.Module, statistics: LatentStatistics) -> None:
        super().__init__()
        self.decoder = decoder
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(statistics.mean).view(1, -1, 1, 1, 1))
        self.register_buffer("std", torch.tensor(statistics.std).view(1, -1, 1, 1, 1))

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        video = self.decoder(latent * self.std + self.mean)
        assert isinstance(video, torch.Tensor)
        return video


def normalised(source: Source) -> Source:
    """The same decoder for normalised latents, with its example normalised.

    Raises `UserError` where it takes no latents, and where their statistics are not known, as for modules of the
    user's own.
    """
    if source.task == "optical-flow":
        raise UserError(f"{source.name}: takes images and no latents; leave out --normalized-latents")
    statistics = source.latent_statistics
    if statistics is None:
        raise UserError(
            f"{source.name}: --normalized-latents needs the mean and std of its latents, which are not known here; "
            "export without it, and undo the normalisation in the app"
        )
    if statistics.is_identity:
        return replace(source, normalized_latents=True)
    module = Undoing(source.module, statistics)
    latent, *others = source.inputs
    return replace(
        source,
        module=module,
        inputs=((latent - module.mean) / module.std, *others),
        held_out=tuple(((other - module.mean) / module.std,) for (other,) in source.held_out),
        normalized_latents=True,
    )
