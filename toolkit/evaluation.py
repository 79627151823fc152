"""Held-out scores of a run: written by distillation (`evaluation.json`), carried by bundles, shown by reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import ConfigDict

from toolkit.errors import UserError
from toolkit.flow_metrics import FlowReport
from toolkit.schema import StrictModel, read_json, validate

EVALUATION_FILE = "evaluation.json"


class Scores(StrictModel):
    """Reconstruction quality against the true video, means over frames; `toolkit.metrics` defines each.

    `tpsnr_db` is None for single frames, `lpips` where it was not computed. Infinite values are strings in JSON.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    psnr_db: float
    ssim: float
    tpsnr_db: float | None = None
    lpips: float | None = None


class Evaluation(StrictModel):
    """Held-out scores of a run; `teacher` is None where the run trained a teacher itself."""

    clips: int
    frames: int
    student: Scores
    teacher: Scores | None
    student_params: int
    teacher_params: int | None


class FlowEvaluation(StrictModel):
    """Held-out figures of an optical-flow run; `teacher` is None where it had none, `baselines` go by their names."""

    pairs: int
    student: FlowReport
    teacher: FlowReport | None
    baselines: dict[str, FlowReport]
    student_params: int


AnyEvaluation = Evaluation | FlowEvaluation


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """The mean of each metric over at least one clip; None where a clip lacks it."""
    means = {}
    for name in Scores.model_fields:
        values = [getattr(clip, name) for clip in scores]
        means[name] = None if None in values else float(np.mean(values))
    return Scores.model_validate(means)


def retention(student: float, teacher: float) -> float | None:
    """The share of the teacher's figure that the student keeps, in per cent; None where there is no such share."""
    if not (math.isfinite(student) and math.isfinite(teacher)) or teacher <= 0:
        return None
    return 100 * student / teacher


def read_evaluation(run: Path) -> AnyEvaluation:
    """The scores of a finished run; raises `UserError` where the run is not finished or the file is damaged."""
    path = run / EVALUATION_FILE
    if not path.is_file():
        raise UserError(f"{run}: the run is not finished; go on with `handheld distill ... --resume`")
    content = read_json(path, finite=False)  # a student that diverged has scores that are no numbers
    if isinstance(content, dict) and "pairs" in content:
        return validate(FlowEvaluation, content, str(path))
    return validate(Evaluation, content, str(path))
