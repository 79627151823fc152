"""How good a student is on held-out clips: standard PSNR and SSIM, beside the teacher's on the same latents.

Where a run has several processes, each scores its share of the clips, numbers r, r + w, ... in the process of rank r
of w. Their scores are put in the order of the clips before they are averaged, so that the means do not depend on w.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn

from recipes.objectives import DistillationTask, Task
from recipes.processes import gather_to_first, in_order
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
def validate(fabric: Fabric, task: Task, student: nn.Module, share: list[torch.Tensor]) -> tuple[Scores, Strip | None]:
    """The averaged student's scores over the clips of all processes, in fp32; in the first, the first clip's strip."""
    device = next(student.parameters()).device
    task.eval()
    scores = []
    strip = None
    for place, clip in enumerate(share):
        latent = task.latent(student, clip[None].to(device))
        decoded = task.decode(student, latent)[0].cpu()
        scores.append(score(decoded, clip))
        if fabric.is_global_zero and place == 0:
            teacher = [task.teacher.decode(latent)[0].cpu()] if isinstance(task, DistillationTask) else []
            strip = Strip([clip, *teacher, decoded])
    return mean_scores(in_order(fabric, scores)), strip


@torch.no_grad()
def evaluate_task(
    fabric: Fabric, task: Task, student: nn.Module, share: list[torch.Tensor]
) -> tuple[Evaluation, dict[str, torch.Tensor]]:
    """Scores of teacher and student over the clips of all processes, and the first clips' tensors for export to use.

    The tensors, which only the first process gets: `latent.N` fp32 `(1, C, t, h, w)`, `truth.N`, `teacher.N`,
    `student.N` fp16 `(3, T, H, W)`.
    """
    device = next(student.parameters()).device
    task.eval()
    teacher = task.teacher if isinstance(task, DistillationTask) else None
    ours: list[Scores] = []
    theirs: list[Scores] = []
    tensors: dict[str, torch.Tensor] = {}
    with track("evaluate", len(share)) as progress:
        for place, clip in enumerate(share):
            latent = task.latent(student, clip[None].to(device))
            outputs = {"student": task.decode(student, latent)[0].cpu()}
            ours.append(score(outputs["student"], clip))
            if teacher is not None:
                outputs["teacher"] = teacher.decode(latent)[0].cpu()
                theirs.append(score(outputs["teacher"], clip))
            number = fabric.global_rank + place * fabric.world_size
            if number < SAMPLES_KEPT:
                tensors[f"latent.{number}"] = latent.float().cpu()
                for name, video in {"truth": clip, **outputs}.items():
                    tensors[f"{name}.{number}"] = video.half()
            progress.update(place + 1)
    frames = in_order(fabric, [clip.shape[1] for clip in share])
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
