"""How good a student is on held-out clips: standard PSNR and SSIM, beside the teacher's on the same latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from recipes.objectives import DistillationTask, Task
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
        scores.append(score(decoded, clip))
        if not columns:
            teacher = [task.teacher.decode(latent)[0].cpu()] if isinstance(task, DistillationTask) else []
            columns = [clip, *teacher, decoded]
    return mean_scores(scores), Strip(columns)


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
            ours.append(score(outputs["student"], clip))
            if teacher is not None:
                outputs["teacher"] = teacher.decode(latent)[0].cpu()
                theirs.append(score(outputs["teacher"], clip))
            if number < SAMPLES_KEPT:
                tensors[f"latent.{number}"] = latent.float().cpu()
                for name, video in {"truth": clip, **outputs}.items():
                    tensors[f"{name}.{number}"] = video.half()
            progress.update(number + 1)
    evaluation = Evaluation(
        clips=len(clips),
        frames=sum(clip.shape[1] for clip in clips),
        student=mean_scores(ours),
        teacher=mean_scores(theirs) if theirs else None,
        student_params=parameters(student),
        teacher_params=parameters(teacher.decoder) if teacher is not None else None,
    )
    return evaluation, tensors


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
