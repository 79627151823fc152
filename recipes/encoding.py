"""Encoding training clips ahead, once, so that trainings need neither the teacher's encoder nor the video files."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from lightning_fabric import Fabric
from safetensors.torch import save
from torch.utils.data import DataLoader

from recipes import processes
from recipes.data.clips import Clips, FromStep
from recipes.data.latents import (
    MANIFEST_FILE,
    LatentsManifest,
    count_clips,
    fingerprint,
    read_latents_manifest,
    shard_path,
)
from recipes.schema import ClipsSpec, Recipe, TeacherSpec
from recipes.teachers import diffusers_vae
from recipes.teachers.diffusers_vae import DiffusersVAE
from recipes.trainer import Interrupted, resolve, stop_on_signal
from toolkit.errors import UserError
from toolkit.files import write_atomic
from toolkit.progress import track
from toolkit.video import to_frames

CLIPS_PER_SHARD = 256


def encode(
    recipe: Recipe, output: Path, clips: int, *, clips_per_shard: int = CLIPS_PER_SHARD, resume: bool = False
) -> LatentsManifest:
    """Encode the first `clips` samples that a training with this recipe would draw, by its teacher, into `output`.

    Several devices (`trainer.devices`) share the shards. With `resume`, goes on with the shards that are missing.
    Raises `UserError` where the recipe has no teacher or no clips, and where they would not fit on the disk, and
    `Interrupted` when stopped by a signal.
    """
    recipe = resolve(recipe)
    data = recipe.data.train
    if not isinstance(recipe.teacher, TeacherSpec) or not isinstance(data, ClipsSpec):
        raise UserError(f"recipe '{recipe.name}': only data.train of kind clips can be encoded, and by a teacher")
    fabric = processes.start(recipe.trainer)
    with processes.together(fabric):
        teacher = diffusers_vae.load(recipe.teacher)
        samples = Clips(data, recipe.trainer.seed)
        teacher.check_video(*samples[0].shape[1:])
    manifest = LatentsManifest(
        teacher=recipe.teacher,
        teacher_sha256=fingerprint(teacher),
        data=data,
        seed=recipe.trainer.seed,
        precision=recipe.trainer.precision,
        clips=clips,
        clips_per_shard=clips_per_shard,
    )
    with processes.together(fabric):
        if fabric.is_global_zero:
            _open(output, manifest, resume)
        samples.log_to(output, fabric.is_global_zero)
    missing = [
        (shard_path(output, shard), numbers)
        for shard, numbers in enumerate(manifest.shards)
        if count_clips(shard_path(output, shard)) != len(numbers)
    ]
    fabric.barrier()  # nobody writes before everybody knows what is missing
    with processes.together(fabric):
        _encode(fabric, teacher, samples, missing, recipe.trainer.workers)
    return manifest


def _open(output: Path, manifest: LatentsManifest, resume: bool) -> None:
    """Begin a folder, or check that it may be gone on with."""
    path = output / MANIFEST_FILE
    if not path.exists():
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UserError(f"{output}: exists and holds no encoded clips; name another --output")
        write_atomic(path, manifest.model_dump_json(by_alias=True, indent=2) + "\n")
    elif not resume:
        raise UserError(f"{output}: encoded clips are there already; add --resume to go on, or name another --output")
    elif read_latents_manifest(output) != manifest:
        raise UserError(f"{path}: was begun with another recipe, teacher or number of clips; go on with that one")


def _encode(
    fabric: Fabric, teacher: DiffusersVAE, samples: Clips, missing: list[tuple[Path, range]], workers: int
) -> None:
    """Encode this process's share of the missing shards."""
    teacher.to(fabric.device)
    mine = missing[fabric.global_rank :: fabric.world_size]
    total, done = sum(len(numbers) for _, numbers in missing), 0
    with track("encode", sum(len(numbers) for _, numbers in mine)) as progress, stop_on_signal() as stop:
        for path, numbers in mine:
            sampler = FromStep(numbers.start, numbers.stop)
            loader = DataLoader(samples, batch_size=None, sampler=sampler, num_workers=workers)
            tensors: dict[str, torch.Tensor] = {}
            for number, video in zip(numbers, loader, strict=True):
                tensors[f"video.{number}"] = to_frames(video).contiguous()
                tensors[f"latent.{number}"] = _latent(fabric, teacher, video)
                if done == 0:
                    _check_space(path.parent, total, sum(value.nbytes for value in tensors.values()))
                done += 1
                progress.update(done)
                if stop.requested:
                    raise Interrupted(path.parent, f"{path.name}, which comes next")
            write_atomic(path, save(tensors))


@torch.no_grad()
def _latent(fabric: Fabric, teacher: DiffusersVAE, video: torch.Tensor) -> torch.Tensor:
    with fabric.autocast():
        latent = teacher.encode(video[None].to(fabric.device))[0]
    if not latent.isfinite().all():
        raise UserError("the teacher's latent of a clip is not finite: check teacher.weights")
    return latent.cpu().contiguous()


def _check_space(folder: Path, clips: int, bytes_each: int) -> None:
    free = shutil.disk_usage(folder).free
    if clips * bytes_each > free:
        raise UserError(
            f"{folder}: {clips:,} clips of {bytes_each / 1e6:.1f} MB take {clips * bytes_each / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free; free some, name another --output, or lower --clips"
        )
