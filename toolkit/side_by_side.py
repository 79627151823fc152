"""A student and its teacher side by side on held-out clips: the scores, how sure they are, and the table of both."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import ConfigDict

from toolkit.bundle import Provenance
from toolkit.evaluation import Scores, mean_scores, retention
from toolkit.schema import StrictModel

RESAMPLES = 10_000
SEED = 0
CONFIDENCE = 0.95
TITLES = {"psnr_db": "PSNR dB", "ssim": "SSIM", "tpsnr_db": "tPSNR dB", "lpips": "LPIPS"}
DIGITS = {"psnr_db": 2, "ssim": 4, "tpsnr_db": 2, "lpips": 4}
KEPT = ("psnr_db", "ssim")  # metrics of which a share is kept: higher is better, and zero is worthless


class Interval(StrictModel):
    """A 95 % confidence interval of a mean."""

    low: float
    high: float


class Summary(StrictModel):
    """Means over clips, and for each metric its interval; None with fewer than two clips, or without finite values."""

    params: int
    mean: Scores
    interval: dict[str, Interval | None]


class ClipScores(StrictModel):
    """One clip: frames `start` onwards of `file` (a path within the data), of `size` (height, width)."""

    file: str
    start: int
    size: tuple[int, int]
    teacher: Scores
    student: Scores


class SideBySide(StrictModel):
    """`evaluation.json`. `frames` are those of one clip, `size` is None where clips differ in it.

    Retention is the student's mean in per cent of the teacher's. `bootstrap` is (resamples, seed).
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    run: str
    data: str
    frames: int
    size: tuple[int, int] | None
    clips: list[ClipScores]
    teacher: Summary
    student: Summary
    retention_percent: dict[str, float | None]
    bootstrap: tuple[int, int] = (RESAMPLES, SEED)
    lpips_left_out: str | None
    student_sha256: str
    provenance: Provenance


def bootstrap_interval(values: Sequence[float], weights: Sequence[float] | None = None) -> Interval | None:
    """The 95 % percentile bootstrap interval of the mean of `values`, one a clip or pair: 10 000 resamples, seed 0.

    With `weights`, all above 0, the mean is the weighted one. Values count as independent. None with fewer than two of
    them, and where one is not finite.
    """
    if len(values) < 2 or not all(math.isfinite(value) for value in values):
        return None
    random = np.random.default_rng(SEED)
    shares = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    weighted = shares * np.asarray(values, np.float64)
    draws = (random.integers(len(shares), size=len(shares)) for _ in range(RESAMPLES))
    means = [weighted[drawn].sum() / shares[drawn].sum() for drawn in draws]
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(low=float(low), high=float(high))


def summarise(scores: Sequence[Scores], params: int) -> Summary:
    """Means and intervals over at least one clip."""
    mean = mean_scores(scores)
    intervals = {
        name: bootstrap_interval([getattr(clip, name) for clip in scores])
        for name in TITLES
        if getattr(mean, name) is not None
    }
    return Summary(params=params, mean=mean, interval=intervals)


def kept(student: Scores, teacher: Scores) -> dict[str, float | None]:
    """The retention in per cent of each metric that has one."""
    return {name: retention(getattr(student, name), getattr(teacher, name)) for name in KEPT}


def order(clips: Sequence[ClipScores]) -> list[int]:
    """The clips' numbers from the student's worst PSNR to its best; what is not a number is worst."""
    keys = [-math.inf if math.isnan(clip.student.psnr_db) else clip.student.psnr_db for clip in clips]
    return sorted(range(len(clips)), key=keys.__getitem__)


def table(result: SideBySide) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: teacher, student, and what the student keeps; a metric that was not computed has no column."""
    names = [name for name in TITLES if getattr(result.student.mean, name) is not None]
    rows = [
        [role, f"{summary.params:,}", *(_cell(name, summary) for name in names)]
        for role, summary in (("teacher", result.teacher), ("student", result.student))
    ]
    shares = [percent(result.retention_percent.get(name)) for name in names]
    rows.append(["student / teacher", percent(retention(result.student.params, result.teacher.params)), *shares])
    return ["decoder", "parameters", *(TITLES[name] for name in names)], rows


def title(result: SideBySide) -> str:
    """What was evaluated, in one line."""
    size = "" if result.size is None else f", {result.size[0]}x{result.size[1]}"
    count = len(result.clips)
    return f"held-out: {count} clip{'s' if count > 1 else ''} of {result.frames} frames{size}, {result.data}"


def markdown(result: SideBySide) -> str:
    """`evaluation.md`: the table, the clips and the two strips."""
    columns, rows = table(result)
    names = [name for name in TITLES if getattr(result.student.mean, name) is not None]
    heads = [f"{role} {TITLES[name]}" for name in names for role in ("teacher", "student")]
    clips = [
        [
            clip.file,
            str(clip.start),
            *(_number(name, getattr(s, name)) for name in names for s in (clip.teacher, clip.student)),
        ]
        for clip in result.clips
    ]
    found = result.provenance.versions
    versions = ", ".join(f"{name} {found[name]}" for name in ("handheld", "torch", "torchmetrics") if name in found)
    parts = [
        f"# {result.run}",
        title(result),
        markdown_table(columns, rows),
        f"Means over clips; in brackets the 95 % interval by bootstrap over clips ({result.bootstrap[0]} resamples, "
        f"seed {result.bootstrap[1]}), which takes clips as independent.",
        *([result.lpips_left_out] if result.lpips_left_out else []),
        "## Pictures\n\nFirst, middle and last frame; truth, teacher, student. By the student's PSNR:",
        "The worst clip:\n\n![worst clip](worst.png)",
        "The median clip:\n\n![median clip](median.png)",
        "## Clips",
        markdown_table(["file", "from frame", *heads], clips),
        f"{result.provenance.created}, {versions}",
    ]
    return "\n\n".join(parts) + "\n"


def _cell(name: str, summary: Summary) -> str:
    interval = summary.interval.get(name)
    mean = _number(name, getattr(summary.mean, name))
    if interval is None:
        return mean
    return f"{mean} [{_number(name, interval.low)}, {_number(name, interval.high)}]"


def _number(name: str, value: float | None) -> str:
    return "–" if value is None else f"{value:.{DIGITS[name]}f}"


def percent(share: float | None) -> str:
    """A share in per cent as text; a dash where there is none."""
    return "–" if share is None else f"{share:.1f}%"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A table; the first columns, `words` of them, are left-aligned."""
    rule = ["---" if number < words else "---:" for number in range(len(columns))]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (columns, rule, *rows)
    )
