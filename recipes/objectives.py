"""The training tasks of videos: distilling a VAE's decoder, and training a VAE whole."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from recipes.adversarial import Judged
from recipes.alignment import Alignment, Features, tapped
from recipes.data.latents import Batch, read_latents_manifest
from recipes.perceptual import check_size, perceptual_distance, perceptual_network, structural_similarity
from recipes.result import save_decoder, save_teacher
from recipes.schema import (
    AutoencoderObjective,
    AutoencoderSpec,
    ClipsSpec,
    LatentsSpec,
    ObjectiveSpec,
    Recipe,
    TeacherSpec,
    TurboVAEDSpec,
)
from recipes.task import Losses, Task
from recipes.teachers import diffusers_vae
from recipes.teachers.diffusers_vae import DiffusersVAE
from toolkit import students
from toolkit.errors import UserError
from toolkit.students import Student

CHARBONNIER_EPS = 1e-3


def charbonnier(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1, smooth where the error is below 1e-3: the mean of sqrt(e^2 + 1e-6)."""
    return (prediction - target).square().add(CHARBONNIER_EPS**2).sqrt().mean()


PIXEL_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "l1": F.l1_loss,
    "mse": F.mse_loss,
    "charbonnier": charbonnier,
}


class VideoTask(Task):
    """What held-out clips are scored by, beside what the trainer needs: how a video is reconstructed."""

    @property
    @abstractmethod
    def vae(self) -> DiffusersVAE:
        """The VAE whose latents are decoded."""

    @abstractmethod
    def latent(self, model: nn.Module, video: torch.Tensor) -> torch.Tensor:
        """The latent `(B, C, t, h, w)` that `model` is to decode for this video."""

    @abstractmethod
    def decode(self, model: nn.Module, latent: torch.Tensor) -> torch.Tensor:
        """The video that `model` (the student or its average) makes of the latent."""

    def check_clip(self, height: int, width: int) -> None:
        """Raise `UserError` where a loss cannot take training clips of this size."""

    def batch(self, collated: torch.Tensor | Batch) -> Batch:
        """Videos `(B, 3, T, H, W)` in [-1, 1], and their latents where they came with them."""
        return collated if isinstance(collated, Batch) else Batch(collated)

    def pair(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        latent = self.latent(self.student, batch.video) if batch.latent is None else batch.latent
        return batch.video, self.decode(self.student, latent).to(batch.video.dtype)

    def fault(self, batch: Batch) -> str | None:
        return None if batch.video.isfinite().all() else "a clip holds values that are not finite"


class AutoencoderTask(VideoTask):
    """Train a VAE whole: pixels through both halves, and a KL term that keeps latents near unit scale."""

    def __init__(self, vae: DiffusersVAE, objective: AutoencoderObjective) -> None:
        super().__init__()
        self.student = vae
        self.objective = objective

    @property
    def vae(self) -> DiffusersVAE:
        assert isinstance(self.student, DiffusersVAE)
        return self.student

    def save(self, run: Path, student: nn.Module) -> None:
        assert isinstance(student, DiffusersVAE)
        save_teacher(run, student)

    def forward(self, batch: Batch, judged: Judged | None = None) -> Losses:
        video = batch.video
        posterior = self.vae.posterior(video)
        decoded = self.vae.decode(posterior.sample())
        elements = posterior.mean[0].numel()
        return {
            "reconstruction": PIXEL_LOSSES[self.objective.loss](decoded, video),
            "kl": self.objective.kl * posterior.kl().mean().to(decoded.device) / elements,
        }

    def latent(self, model: nn.Module, video: torch.Tensor) -> torch.Tensor:
        assert isinstance(model, DiffusersVAE)
        return model.encode(video)

    def decode(self, model: nn.Module, latent: torch.Tensor) -> torch.Tensor:
        assert isinstance(model, DiffusersVAE)
        return model.decode(latent)


class DistillationTask(VideoTask):
    """Decoder-only distillation: the frozen teacher encodes, the student learns to decode its latents."""

    def __init__(self, teacher: DiffusersVAE, student: nn.Module, objective: ObjectiveSpec, frames: int) -> None:
        super().__init__()
        assert objective.reconstruction is not None
        self.teacher, self.student = teacher, student
        self.reconstruction = objective.reconstruction
        self.pairs = objective.features
        self.alignment = self._fit_heads(frames) if objective.features else None
        self.ssim, self.perceptual = objective.ssim, objective.perceptual
        self.lpips = perceptual_network(objective.perceptual.net) if objective.perceptual else None

    @property
    def vae(self) -> DiffusersVAE:
        return self.teacher

    def save(self, run: Path, student: nn.Module) -> None:
        assert isinstance(student, Student)
        save_decoder(run, student, self.teacher.latent_statistics)

    def train(self, mode: bool = True) -> DistillationTask:
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch, judged: Judged | None = None) -> Losses:
        video = batch.video
        needs_teacher_video = self.reconstruction.against == "teacher"
        theirs: Features = {}
        with torch.no_grad():
            latent = self.encoded(batch)
            if needs_teacher_video or self.pairs:
                target, theirs = self.teacher.decode_with_features(latent, [p.teacher for p in self.pairs])
        with tapped(self.student, [p.student for p in self.pairs]) as ours:
            decoded = self.student(latent)
        pixel_loss = PIXEL_LOSSES[self.reconstruction.loss](decoded, target if needs_teacher_video else video)
        losses = {"reconstruction": self.reconstruction.weight * pixel_loss}
        if self.ssim is not None:
            losses["ssim"] = self.ssim.weight * (1 - structural_similarity(decoded, video))
        if self.perceptual is not None and self.lpips is not None:
            losses["perceptual"] = self.perceptual.weight * perceptual_distance(self.lpips, decoded, video)
        if self.alignment is not None:
            losses["features"] = self.alignment(ours, theirs)
        if judged is not None:
            last = [weight for weight in self.student.parameters() if weight.ndim > 1][-1]
            losses["adversarial"] = judged.loss(decoded, losses["reconstruction"], last)
        return losses

    def latent(self, model: nn.Module, video: torch.Tensor) -> torch.Tensor:
        return self.teacher.encode(video)

    def encoded(self, batch: Batch) -> torch.Tensor:
        """The teacher's latents of a batch, which may have them already."""
        return self.teacher.encode(batch.video) if batch.latent is None else batch.latent

    def decode(self, model: nn.Module, latent: torch.Tensor) -> torch.Tensor:
        video = model(latent)
        assert isinstance(video, torch.Tensor)
        return video

    def check_clip(self, height: int, width: int) -> None:
        if self.perceptual is not None:
            check_size(height, width)

    @torch.no_grad()
    def fault(self, batch: Batch) -> str | None:
        fault = super().fault(batch)
        if fault is not None:
            return fault
        latent = self.encoded(batch)
        if not latent.isfinite().all():
            return "the teacher's latent of a clip is not finite: check teacher.weights"
        if not self.teacher.decode(latent).isfinite().all():
            return "the teacher's video of a clip is not finite: check teacher.weights"
        return None

    @torch.no_grad()
    def _fit_heads(self, frames: int) -> Alignment:
        """Heads sized by one pass over frames of zeros: block widths are facts of the models, not of the recipe."""
        side = self.teacher.spatial_factor * 4
        video = torch.zeros(1, 3, frames, side, side)
        latent = self.teacher.encode(video)
        _, theirs = self.teacher.decode_with_features(latent, [p.teacher for p in self.pairs])
        with tapped(self.student, [p.student for p in self.pairs]) as ours:
            self.student(latent)
        return Alignment(self.pairs, ours, theirs)


def build_task(recipe: Recipe) -> VideoTask:
    """The task that a recipe describes; raises `UserError` where student and teacher do not fit."""
    if isinstance(recipe.student, AutoencoderSpec):
        assert recipe.objective.autoencoder is not None
        vae = diffusers_vae.build(recipe.student.class_name, recipe.student.config)
        return AutoencoderTask(vae, recipe.objective.autoencoder)
    assert isinstance(recipe.teacher, TeacherSpec)
    assert isinstance(recipe.student, TurboVAEDSpec)
    teacher = diffusers_vae.load(recipe.teacher)
    student = _build_student(recipe.student, teacher)
    data = recipe.data.train
    assert isinstance(data, ClipsSpec | LatentsSpec)
    frames = read_latents_manifest(Path(data.path)).data.frames if isinstance(data, LatentsSpec) else data.frames
    return DistillationTask(teacher, student, recipe.objective, frames)


def _build_student(spec: TurboVAEDSpec, teacher: DiffusersVAE) -> Student:
    student = students.build(spec.kind, spec.preset, spec.overrides)
    theirs = (teacher.latent_channels, teacher.temporal_factor, teacher.spatial_factor)
    config = students.decoder_config(student)
    ours = (config.latent_channels, config.temporal_factor, config.spatial_factor)
    if ours != theirs:
        raise UserError(
            f"student {spec.kind}:{spec.preset} decodes latents of {ours[0]} channels, {ours[1]}x in time and "
            f"{ours[2]}x in space; the teacher's have {theirs[0]}, {theirs[1]}x and {theirs[2]}x"
        )
    return student
