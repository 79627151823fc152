"""How good a student is on held-out clips: standard PSNR and SSIM, beside the teacher's on the same latents.

Where a run has several processes, each scores its share of the clips, numbers r, r + w, ... in the process of rank r
of w. Their scores are put in the order of the clips before they are averaged, so that the means do not depend on w.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn

from recipes.objectives import DistillationTask, VideoTask
from recipes.processes import gather_to_first, in_order
from recipes.task import Validation
from recipes.teachers.diffusers_vae import DiffusersVAE
from toolkit import metrics
from toolkit.evaluation import Evaluation, Scores, mean_scores
from toolkit.lpips import Lpips
from toolkit.progress import track
from toolkit.video import write_strip

SAMPLES_KEPT = 2


@dataclass(frozen=True)
class Strip:
    """Columns of the sample picture: truth, teacher where there is one, student; one held-out clip."""

    columns: list[torch.Tensor]

    def write(self, path: Path) -> None:
        frames = self.columns[0].shape[1]
        write_strip(path, self.columns, sorted({0, frames // 2, frames - 1}))


class HeldOutClips:
    """Held-out clips, of which each process keeps its share, and the task whose student decodes them."""

    def __init__(self, task: VideoTask, clips: Sequence[torch.Tensor], fabric: Fabric) -> None:
        self.task = task
        self.share = list(clips[fabric.global_rank :: fabric.world_size])

    @torch.no_grad()
    def validate(self, fabric: Fabric, student: nn.Module) -> Validation:
        """The averaged student's scores over the clips of all processes, in fp32, and a picture of the first clip."""
        device = next(student.parameters()).device
        self.task.eval()
        scores = []
        strip = None
        for place, clip in enumerate(self.share):
            latent = self.task.latent(student, clip[None].to(device))
            decoded = self.task.decode(student, latent)[0].cpu()
            scores.append(score(decoded, clip))
            if fabric.is_global_zero and place == 0:
                teacher = self._teacher
                strip = Strip([clip, *([] if teacher is None else [teacher.decode(latent)[0].cpu()]), decoded])
        mean = mean_scores(in_order(fabric, scores))
        return Validation(
            figures={"psnr_db": mean.psnr_db, "ssim": mean.ssim},
            text=f"PSNR {mean.psnr_db:.2f} dB",
            score=mean.psnr_db,
            picture=None if strip is None else strip.write,
        )

    @torch.no_grad()
    def evaluate(self, fabric: Fabric, student: nn.Module) -> tuple[Evaluation, dict[str, torch.Tensor]]:
        """Scores of teacher and student over the clips of all processes, and the first clips' tensors for export.

        The tensors, which only the first process gets: `latent.N` fp32 `(1, C, t, h, w)`, `truth.N`, `teacher.N`,
        `student.N` fp16 `(3, T, H, W)`.
        """
        device = next(student.parameters()).device
        self.task.eval()
        teacher = self._teacher
        ours: list[Scores] = []
        theirs: list[Scores] = []
        tensors: dict[str, torch.Tensor] = {}
        with track("evaluate", len(self.share)) as progress:
            for place, clip in enumerate(self.share):
                latent = self.task.latent(student, clip[None].to(device))
                outputs = {"student": self.task.decode(student, latent)[0].cpu()}
                ours.append(score(outputs["student"], clip))
                if teacher is not None:
                    outputs["teacher"] = teacher.decode(latent)[0].cpu()
                    theirs.append(score(outputs["teacher"], clip))
                number = fabric.global_rank + place * fabric.world_size
                if number < SAMPLES_KEPT:
                    tensors[f"latent.{number}"] = latent.float().cpu()
                    tensors |= {f"{name}.{number}": video.half() for name, video in {"truth": clip, **outputs}.items()}
                progress.update(place + 1)
        frames = in_order(fabric, [clip.shape[1] for clip in self.share])
        theirs = in_order(fabric, theirs)
        evaluation = Evaluation(
            clips=len(frames),
            frames=sum(frames),
            student=mean_scores(in_order(fabric, ours)),
            teacher=mean_scores(theirs) if theirs else None,
            student_params=parameters(student),
            teacher_params=parameters(teacher.decoder) if teacher is not None else None,
        )
        samples = gather_to_first(fabric, tensors)
        return evaluation, {name: tensor for some in samples for name, tensor in some.items()}

    @property
    def _teacher(self) -> DiffusersVAE | None:
        return self.task.teacher if isinstance(self.task, DistillationTask) else None


def score(decoded: torch.Tensor, clip: torch.Tensor, lpips: Lpips | None = None) -> Scores:
    """The scores of one decoded clip `(3, T, H, W)` against the true one."""
    return Scores(
        psnr_db=metrics.psnr(decoded, clip),
        ssim=metrics.ssim(decoded, clip),
        tpsnr_db=metrics.tpsnr(decoded, clip),
        lpips=lpips(decoded, clip) if lpips is not None else None,
    )


def parameters(module: nn.Module) -> int:
    """How many parameters a module has."""
    return sum(p.numel() for p in module.parameters())
