"""VAEs from diffusers behind one small interface: encode, decode, the decoder alone, features by name, statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from recipes.alignment import Features, tapped
from recipes.rundir import read_recipe
from recipes.schema import TeacherSpec, asset_path
from recipes.teachers.vae_classes import (
    VAE_CLASSES,
    VAEClass,
    fold_frames,
    latent_statistics,
    unfold_frames,
)
from toolkit.errors import UserError, unknown_name
from toolkit.latents import LatentStatistics

KNOWN_CLASSES = tuple(VAE_CLASSES)
SLICE_FRAMES = 8

_OUTPUT = "<output>"  # beside features, under a name that no block can have


class Decoder(nn.Module):
    """The decoder's side of a VAE, whole: latent `(B, C, T', h, w)` as the encoder gives it, to `(B, 3, T, H, W)`.

    It shares weights with the VAE and holds none of its encoder's.
    """

    def __init__(self, vae: ModelMixin, is_image: bool) -> None:
        super().__init__()
        self.vae = copy.copy(vae)
        unused = {"encoder", "quant_conv"}
        self.vae._modules = {name: module for name, module in vae.named_children() if name not in unused}
        self.is_image = is_image

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        given = fold_frames(latent) if self.is_image else latent
        decoded = self.vae.decode(given, return_dict=False)[0]
        video = unfold_frames(decoded, latent.shape[0]) if self.is_image else decoded
        assert isinstance(video, torch.Tensor)
        return video


class DiffusersVAE(nn.Module):
    """A diffusers VAE. Videos are `(B, 3, T, H, W)` in [-1, 1], latents `(B, C, T', h, w)`.

    An image VAE takes every frame of a video on its own. Where nothing learns, videos go through one at a time, in an
    image VAE at most `slice_frames` frames at a time, so that memory does not grow with the batch (or the clip);
    with `slice_frames` None everything goes at once.

    Raises `UserError` for a class that is not known, and for a decoder that needs more than a latent.
    """

    def __init__(self, vae: ModelMixin, slice_frames: int | None = SLICE_FRAMES) -> None:
        super().__init__()
        self.vae = vae
        self.slice_frames = slice_frames
        _known(type(vae).__name__)
        if vae.config.get("timestep_conditioning"):
            raise UserError(
                f"{type(vae).__name__}: this decoder takes a noise level beside the latent (timestep_conditioning), "
                "which no student does; use a VAE without, such as that of LTX-Video 0.9.0"
            )

    @property
    def facts(self) -> VAEClass:
        """What sets this class apart from the others."""
        return VAE_CLASSES[type(self.vae).__name__]

    @property
    def latent_channels(self) -> int:
        return int(self.vae.config[self.facts.channels])

    @property
    def spatial_factor(self) -> int:
        return self.facts.spatial(self.vae)

    @property
    def temporal_factor(self) -> int:
        return self.facts.temporal(self.vae)

    @property
    def latent_statistics(self) -> LatentStatistics:
        """What a diffusion model normalises latents by, and an app undoes before it decodes."""
        return latent_statistics(self.vae, self.latent_channels)

    @property
    def decoder(self) -> Decoder:
        """The decoder alone and whole: latent in, video out, in one go."""
        return Decoder(self.vae, self.facts.is_image)

    @property
    def features_root(self) -> nn.Module:
        """What blocks are named relative to: `mid_block`, `up_blocks.1`."""
        root = self.vae.decoder
        assert isinstance(root, nn.Module)
        return root

    def posterior(self, video: torch.Tensor) -> DiagonalGaussianDistribution:
        """The distribution of the latents of `video`; one of no width where the class has none."""

        def moments(piece: torch.Tensor) -> Features:
            given = fold_frames(piece) if self.facts.is_image else piece
            encoded = self.vae.encode(given, return_dict=False)[0]
            moments = encoded if isinstance(encoded, torch.Tensor) else encoded.parameters
            return {_OUTPUT: unfold_frames(moments, len(piece)) if self.facts.is_image else moments}

        parameters = self._sliced(moments, video)[_OUTPUT]
        if parameters.shape[1] == self.latent_channels:
            latent_and_no_width = torch.cat([parameters, torch.zeros_like(parameters)], 1)
            return DiagonalGaussianDistribution(latent_and_no_width, deterministic=True)
        return DiagonalGaussianDistribution(parameters)

    def encode(self, video: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """The posterior's mode, or a sample of it where a generator is given."""
        posterior = self.posterior(video)
        latent = posterior.mode() if generator is None else posterior.sample(generator)
        assert isinstance(latent, torch.Tensor)
        return latent

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """The video of a latent as `encode` gives it."""
        return self.decode_with_features(latent, [])[0]

    def decode_with_features(self, latent: torch.Tensor, names: Sequence[str]) -> tuple[torch.Tensor, Features]:
        """The video, and the outputs `(B, C, T, h, w)` of these blocks of the decoder, each of the whole clip.

        A block that decoding never calls is missing. Raises `UserError` for a name that there is not.
        """
        decoder = self.decoder

        def run(piece: torch.Tensor) -> Features:
            with tapped(self.features_root, names, lambda calls: self.facts.join(self.vae, calls, piece.shape)) as taps:
                video = decoder(piece)
            return {_OUTPUT: video, **taps}

        features = self._sliced(run, latent)
        return features.pop(_OUTPUT), features

    def check_video(self, frames: int, height: int, width: int) -> None:
        """Raise `UserError` where a clip of this shape does not survive encoding and decoding unchanged."""
        t, s = self.facts.frame_step(self.vae), self.spatial_factor
        if (frames - 1) % t:
            raise UserError(f"data frames: {frames} does not fit the teacher, which takes {t}k+1 frames")
        if height % s or width % s:
            raise UserError(f"data size: {height}x{width} does not fit the teacher; use multiples of {s}")

    def _sliced(self, run: Callable[[torch.Tensor], Features], x: torch.Tensor) -> Features:
        """`run` on the slices of `(B, C, T, H, W)`; each of its results joined along time and batch."""
        learns = torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.parameters()))
        if self.slice_frames is None or learns:  # what learns keeps the activations of every slice anyway
            return run(x)
        frames = self.slice_frames if self.facts.is_image else x.shape[2]
        videos = [_joined([run(piece) for piece in video.split(frames, 2)], 2) for video in x.split(1)]
        return _joined(videos, 0)


def load(spec: TeacherSpec) -> DiffusersVAE:
    """The frozen teacher in fp32 and evaluation mode, from a folder, an embedded asset or a hub name.

    Raises `UserError` with how to fetch the weights where they are not to be had, where they are another class's, and
    where there are no statistics of the latents for every channel.
    """
    cls = _class(spec.class_name)
    path = asset_path(spec.weights)
    folder = path / spec.subfolder if spec.subfolder else path
    is_local = folder.exists()
    source = path if is_local else spec.weights
    try:
        _check_class(spec, cls.load_config(source, subfolder=spec.subfolder))
        vae, found = cls.from_pretrained(
            source, subfolder=spec.subfolder, torch_dtype=torch.float32, output_loading_info=True
        )
        _check_complete(vae, found["missing_keys"])
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        if is_local:
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"{folder}: no usable weights of {spec.class_name} ({reason}); fetch them again") from error
        part = f" --include '{spec.subfolder}/*'" if spec.subfolder else ""
        raise UserError(
            f"teacher {spec.class_name}: '{spec.weights}' is no folder here, and the hub did not give it. Where there "
            f"is a network, run `hf download {spec.weights}{part} --local-dir DIR`; then --set teacher.weights=DIR"
        ) from error
    teacher = DiffusersVAE(vae).eval().requires_grad_(False)
    _ = teacher.latent_statistics  # a run writes them at its end: what is wrong with them is said before it
    return teacher


def load_teacher(run: Path) -> DiffusersVAE:
    """The frozen teacher that a run directory's student learned from; raises `UserError` where it had none."""
    recipe = read_recipe(run)
    if not isinstance(recipe.teacher, TeacherSpec):
        raise UserError(f"{run}: recipe '{recipe.name}' has no teacher that decodes video")
    return load(recipe.teacher)


def build(class_name: str, config: dict[str, Any]) -> DiffusersVAE:
    """An untrained VAE of this configuration; raises `UserError` where the class does not take it."""
    try:
        return DiffusersVAE(_class(class_name)(**config))
    except (TypeError, IndexError, ValueError) as error:
        raise UserError(f"student.config does not fit diffusers.{class_name}: {error}") from error


def _known(name: str) -> str:
    if name not in KNOWN_CLASSES:
        raise unknown_name("teacher class", name, KNOWN_CLASSES)
    return name


def _class(name: str) -> type[ModelMixin]:
    cls = getattr(diffusers, _known(name))
    assert issubclass(cls, ModelMixin)
    return cls


def _check_class(spec: TeacherSpec, config: dict[str, Any]) -> None:
    found = config.get("_class_name", spec.class_name)
    if found != spec.class_name:
        raise UserError(
            f"teacher {spec.class_name}: the weights of '{spec.weights}' are those of {found}; "
            "set teacher.class to it, or teacher.weights to others"
        )


def _check_complete(vae: ModelMixin, missing: Sequence[str]) -> None:
    """diffusers itself fills missing parameters with random numbers, and only logs it."""
    parameters = sorted({name for name, _ in vae.named_parameters()} & set(missing))
    if parameters:
        raise ValueError(f"{len(parameters)} tensors are missing, {parameters[0]} among them")


def _joined(results: Sequence[Features], dim: int) -> Features:
    if len(results) == 1:
        return results[0]
    return {name: torch.cat([result[name] for result in results], dim) for name in results[0]}
