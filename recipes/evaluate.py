"""How good a student is on held-out clips: standard PSNR and SSIM, beside the teacher's on the same latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from recipes.objectives import DistillationTask, Task
from toolkit import metrics
from toolkit.evaluation import Evaluation, Scores
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


@torch.no_grad()
def validate(task: Task, student: nn.Module, clips: list[torch.Tensor]) -> tuple[Scores, Strip]:
    """The averaged student's scores over `clips` and the strip of the first one, in fp32."""
    device = next(student.parameters()).device
    task.eval()
    scores = []
    columns: list[torch.Tensor] = []
    for clip in clips:
        latent = task.latent(student, clip[None].to(device))
        decoded = task.decode(student, latent)[0].cpu()
        scores.append(_scores(decoded, clip))
        if not columns:
            teacher = [task.teacher.decode(latent)[0].cpu()] if isinstance(task, DistillationTask) else []
            columns = [clip, *teacher, decoded]
    return _mean(scores), Strip(columns)


@torch.no_grad()
def evaluate_task(
    task: Task, student: nn.Module, clips: list[torch.Tensor]
) -> tuple[Evaluation, dict[str, torch.Tensor]]:
    """Scores of teacher and student over all `clips`, and the first few clips' tensors for export to use.

    The tensors: `latent.N` fp32 `(1, C, t, h, w)`, `truth.N`, `teacher.N`, `student.N` fp16 `(3, T, H, W)`.
    """
    device = next(student.parameters()).device
    task.eval()
    teacher = task.teacher if isinstance(task, DistillationTask) else None
    ours: list[Scores] = []
    theirs: list[Scores] = []
    tensors: dict[str, torch.Tensor] = {}
    with track("evaluate", len(clips)) as progress:
        for number, clip in enumerate(clips):
            latent = task.latent(student, clip[None].to(device))
            outputs = {"student": task.decode(student, latent)[0].cpu()}
            ours.append(_scores(outputs["student"], clip))
            if teacher is not None:
                outputs["teacher"] = teacher.decode(latent)[0].cpu()
                theirs.append(_scores(outputs["teacher"], clip))
            if number < SAMPLES_KEPT:
                tensors[f"latent.{number}"] = latent.float().cpu()
                for name, video in {"truth": clip, **outputs}.items():
                    tensors[f"{name}.{number}"] = video.half()
            progress.update(number + 1)
    evaluation = Evaluation(
        clips=len(clips),
        frames=sum(clip.shape[1] for clip in clips),
        student=_mean(ours),
        teacher=_mean(theirs) if theirs else None,
        student_params=_count(student),
        teacher_params=_count(teacher.decoder) if teacher is not None else None,
    )
    return evaluation, tensors


def _scores(decoded: torch.Tensor, clip: torch.Tensor) -> Scores:
    return Scores(psnr_db=metrics.psnr(decoded, clip), ssim=metrics.ssim(decoded, clip))


def _mean(scores: list[Scores]) -> Scores:
    return Scores(
        psnr_db=sum(s.psnr_db for s in scores) / len(scores),
        ssim=sum(s.ssim for s in scores) / len(scores),
    )


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
