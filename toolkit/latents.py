"""What a diffusion model normalises latents by: found by distillation, carried by bundles, undone by apps.

A run directory holds it as `latent.json`, a bundle in its manifest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, FiniteFloat, model_validator

from toolkit.schema import StrictModel, validate_json

LATENT_FILE = "latent.json"


class LatentStatistics(StrictModel):
    """Per channel of the latent: a diffusion model works on `(latent - mean) / std`; a decoder takes `latent`.

    `origin` names what says so: the teacher's class, or a file of released weights.
    """

    mean: tuple[FiniteFloat, ...]
    std: tuple[Annotated[FiniteFloat, Field(gt=0)], ...]
    origin: str

    @model_validator(mode="after")
    def _is_consistent(self) -> LatentStatistics:
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} numbers and std {len(self.std)}; each has one a channel")
        return self

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def is_identity(self) -> bool:
        """Whether a normalised latent is the latent itself."""
        return not any(self.mean) and set(self.std) == {1.0}

    @property
    def is_uniform(self) -> bool:
        """Whether all channels share one mean and one std."""
        return len(set(self.mean)) == len(set(self.std)) == 1


def read_statistics(run: Path) -> LatentStatistics | None:
    """The statistics of a run's latents; None for runs that kept none. Raises `UserError` on a damaged file."""
    path = run / LATENT_FILE
    return validate_json(LatentStatistics, path) if path.is_file() else None


def undoing(statistics: LatentStatistics | None, normalized: bool = False) -> str:
    """In one line, what an app does to a diffusion model's output before it decodes.

    `normalized`: the decoder was exported with the undoing in it.
    """
    if normalized:
        return "the decoder takes normalised latents, as the diffusion model gives them"
    if statistics is None:
        return "the decoder takes raw latents; the diffusion model's mean and std are not known here"
    if statistics.is_identity:
        return f"the decoder takes raw latents; {statistics.origin} has mean 0 and std 1, so there is nothing to undo"
    first = f"mean {statistics.mean[0]:.6g}, std {statistics.std[0]:.6g}"
    figures = f"{first} in every channel" if statistics.is_uniform else f"{statistics.channels} channels of each"
    return f"the decoder takes raw latents, normalised * std + mean ({statistics.origin}: {figures})"
