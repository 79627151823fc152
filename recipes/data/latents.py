"""Training clips that a teacher has encoded ahead: `recipes.encoding` writes them, `Latents` gives them to the trainer.

A folder of them holds `manifest.json`, which says of what they were made, and shards `latents-NNNNN.safetensors`, in
which clip number n is `video.n` uint8 `(T, 3, H, W)` and `latent.n` `(C, t, h, w)` as the teacher gave it.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import PositiveInt
from safetensors import SafetensorError, safe_open

from recipes.data.samples import Samples
from recipes.schema import ClipsSpec, Recipe, TeacherSpec
from recipes.teachers.diffusers_vae import DiffusersVAE
from toolkit.errors import UserError
from toolkit.schema import StrictModel, validate_json
from toolkit.video import to_unit_range

MANIFEST_FILE = "manifest.json"


class Batch(NamedTuple):
    """What a training step is given: `video` in [-1, 1], and its latent where the teacher has encoded it ahead."""

    video: torch.Tensor
    latent: torch.Tensor | None = None


class LatentsManifest(StrictModel):
    """Of what encoded clips were made: the first `clips` samples that a training with this `seed` draws of `data`."""

    schema_version: Literal[1] = 1
    teacher: TeacherSpec
    teacher_sha256: str
    data: ClipsSpec
    seed: int
    precision: str
    clips: PositiveInt
    clips_per_shard: PositiveInt

    @property
    def shards(self) -> list[range]:
        """The numbers of the clips in each shard."""
        return [
            range(first, min(first + self.clips_per_shard, self.clips))
            for first in range(0, self.clips, self.clips_per_shard)
        ]


def shard_path(folder: Path, shard: int) -> Path:
    return folder / f"latents-{shard:05d}.safetensors"


def read_latents_manifest(folder: Path) -> LatentsManifest:
    """Raises `UserError` where `folder` holds no encoded clips."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise UserError(f"{folder}: holds no encoded clips (no {MANIFEST_FILE}); `handheld encode` makes them")
    return validate_json(LatentsManifest, path)


class Latents(Samples):
    """Encoded clips, numbered without end: in the order of their making, then in a new order each time round.

    A training on as many clips as it draws is therefore the same as one that encodes them itself.
    Raises `UserError` where the folder holds none, where a shard is missing, and where a shard is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_latents_manifest(folder)
        for shard, numbers in enumerate(self.manifest.shards):
            path = shard_path(folder, shard)
            if not path.is_file():
                raise UserError(
                    f"{folder}: shard {shard} of {len(self.manifest.shards)} is missing; finish it with "
                    "`handheld encode` and --resume"
                )
            if count_clips(path) != len(numbers):
                raise UserError(f"{path}: damaged; delete it and make it anew with `handheld encode` and --resume")

    def __getitem__(self, number: int) -> Batch:
        turn, place = divmod(number, self.manifest.clips)
        if turn:
            place = int(_order(self.manifest.seed, turn, self.manifest.clips)[place])
        path = shard_path(self.folder, place // self.manifest.clips_per_shard)
        try:
            with safe_open(path, framework="pt") as shard:
                return Batch(to_unit_range(shard.get_tensor(f"video.{place}")), shard.get_tensor(f"latent.{place}"))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: was readable when the training began; put it back and resume") from error

    def log_to(self, run: Path, is_first: bool) -> None:
        """Nothing is left out here; what was, when the clips were encoded, is listed beside them."""

    def check_made_for(self, recipe: Recipe, teacher: DiffusersVAE) -> None:
        """Raise `UserError` where the latents are another teacher's, or of another precision."""
        if self.manifest.teacher_sha256 != fingerprint(teacher):
            raise UserError(
                f"{self.folder}: was encoded by another teacher ({self.manifest.teacher.class_name} of "
                f"'{self.manifest.teacher.weights}'); encode the clips anew with this recipe's"
            )
        if self.manifest.precision != recipe.trainer.precision:
            raise UserError(
                f"{self.folder}: was encoded in {self.manifest.precision}, the recipe trains in "
                f"{recipe.trainer.precision}; add --set trainer.precision={self.manifest.precision}, or encode anew"
            )


def count_clips(path: Path) -> int:
    """How many clips a shard holds whole; 0 where it cannot be read."""
    try:
        with safe_open(path, framework="pt") as shard:
            return sum(name.startswith("latent.") for name in shard.keys())  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError):
        return 0


def fingerprint(teacher: DiffusersVAE) -> str:
    """SHA-256 over a teacher's class and weights."""
    digest = hashlib.sha256(type(teacher.vae).__name__.encode())
    for name, value in sorted(teacher.vae.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


@lru_cache(maxsize=2)
def _order(seed: int, turn: int, clips: int) -> np.ndarray:
    return np.random.default_rng([seed, turn]).permutation(clips)
