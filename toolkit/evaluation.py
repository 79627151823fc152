"""Held-out scores of a run: written by distillation (`evaluation.json`), carried by bundles, shown by reports."""

from __future__ import annotations

from pathlib import Path

from toolkit.errors import UserError
from toolkit.schema import StrictModel, validate_json

EVALUATION_FILE = "evaluation.json"


class Scores(StrictModel):
    """Reconstruction quality against the true video: PSNR in dB and SSIM, means over frames."""

    psnr_db: float
    ssim: float


class Evaluation(StrictModel):
    """Held-out scores of a run; `teacher` is None where the run trained a teacher itself."""

    clips: int
    frames: int
    student: Scores
    teacher: Scores | None
    student_params: int
    teacher_params: int | None


def read_evaluation(run: Path) -> Evaluation:
    """The scores of a finished run; raises `UserError` where the run is not finished or the file is damaged."""
    path = run / EVALUATION_FILE
    if not path.is_file():
        raise UserError(f"{run}: the run is not finished; go on with `handheld distill ... --resume`")
    return validate_json(Evaluation, path)
