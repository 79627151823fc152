"""Video VAEs from diffusers behind one small interface: encode, decode, the decoder alone, features by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from recipes.rundir import read_recipe
from recipes.schema import TeacherSpec, asset_path
from toolkit.errors import UserError, unknown_name

KNOWN_CLASSES = ("AutoencoderKLLTXVideo",)


class DiffusersVAE(nn.Module):
    """A diffusers video VAE. Videos are `(B, 3, T, H, W)` in [-1, 1], latents `(B, C, T', h, w)`."""

    def __init__(self, vae: ModelMixin) -> None:
        super().__init__()
        self.vae = vae

    @property
    def latent_channels(self) -> int:
        return int(self.vae.config["latent_channels"])

    @property
    def spatial_factor(self) -> int:
        return int(self.vae.spatial_compression_ratio)

    @property
    def temporal_factor(self) -> int:
        return int(self.vae.temporal_compression_ratio)

    @property
    def decoder(self) -> nn.Module:
        """The decoder alone: latent in, video out. Features are named relative to it."""
        decoder = self.vae.decoder
        assert isinstance(decoder, nn.Module)
        return decoder

    def encode(self, video: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """The posterior's mode, or a sample of it where a generator is given."""
        posterior = self.vae.encode(video).latent_dist
        latent = posterior.mode() if generator is None else posterior.sample(generator)
        assert isinstance(latent, torch.Tensor)
        return latent

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        video = self.vae.decode(latent).sample
        assert isinstance(video, torch.Tensor)
        return video

    def check_video(self, frames: int, height: int, width: int) -> None:
        """Raise `UserError` where a clip of this shape does not survive encoding and decoding unchanged."""
        t, s = self.temporal_factor, self.spatial_factor
        if (frames - 1) % t:
            raise UserError(f"data frames: {frames} does not fit the teacher, which takes {t}k+1 frames")
        if height % s or width % s:
            raise UserError(f"data size: {height}x{width} does not fit the teacher; use multiples of {s}")


def load(spec: TeacherSpec) -> DiffusersVAE:
    """The frozen teacher in fp32 and evaluation mode, from a folder, an embedded asset or a hub name.

    Raises `UserError` with how to fetch the weights where they are not to be had.
    """
    cls = _class(spec.class_name)
    path = asset_path(spec.weights)
    folder = path / spec.subfolder if spec.subfolder else path
    is_local = folder.exists()
    try:
        vae = cls.from_pretrained(
            path if is_local else spec.weights, subfolder=spec.subfolder, torch_dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError) as error:
        if is_local:
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"{folder}: no usable weights of {spec.class_name} ({reason}); fetch them again") from error
        part = f" --include '{spec.subfolder}/*'" if spec.subfolder else ""
        raise UserError(
            f"teacher {spec.class_name}: '{spec.weights}' is no folder here, and the hub did not give it. Where there "
            f"is a network, run `hf download {spec.weights}{part} --local-dir DIR`; then --set teacher.weights=DIR"
        ) from error
    return DiffusersVAE(vae).eval().requires_grad_(False)


def load_teacher(run: Path) -> DiffusersVAE:
    """The frozen teacher that a run directory's student learned from; raises `UserError` where it had none."""
    recipe = read_recipe(run)
    if recipe.teacher is None:
        raise UserError(f"{run}: recipe '{recipe.name}' has no teacher")
    return load(recipe.teacher)


def build(class_name: str, config: dict[str, Any]) -> DiffusersVAE:
    """An untrained VAE of this configuration; raises `UserError` where the class does not take it."""
    try:
        return DiffusersVAE(_class(class_name)(**config))
    except (TypeError, IndexError, ValueError) as error:
        raise UserError(f"student.config does not fit diffusers.{class_name}: {error}") from error


def _class(name: str) -> type[ModelMixin]:
    if name not in KNOWN_CLASSES:
        raise unknown_name("teacher class", name, KNOWN_CLASSES)
    cls = getattr(diffusers, name)
    assert issubclass(cls, ModelMixin)
    return cls
