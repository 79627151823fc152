"""What the report shows of a run of optical flow: headline figures, sample pairs, training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devices.report.figures import curves, jpeg_uri, load_samples, png_uri
from toolkit.evaluation import FlowEvaluation, retention
from toolkit.flow_metrics import FlowReport, flow_report
from toolkit.flow_pictures import pair_pictures, wheel_picture

RIVAL = "dis-medium"  # what a phone can run without any network
PARTS = ("image1", "truth", "student", "visible", "valid")
NO_LOSS = {"step", "lr", "epe", "fl_percent"}


@dataclass(frozen=True)
class PairStrip:
    """One held-out pair: a (caption, data URI) for each picture, and what the colours of its flow stand for."""

    caption: str
    note: str
    pictures: list[tuple[str, str]]


def methods(evaluation: FlowEvaluation) -> dict[str, FlowReport]:
    """Student, teacher where there is one, and baselines, in the order of the table."""
    teacher = {} if evaluation.teacher is None else {"teacher": evaluation.teacher}
    return {"student": evaluation.student, **teacher, **evaluation.baselines}


def tiles(evaluation: FlowEvaluation) -> list[dict[str, str]]:
    """The student's error alone, beside the teacher's and beside DIS-medium's, and its parameters."""
    reports = methods(evaluation)
    ours = reports["student"].all
    found = []
    if ours is not None:
        note = f"on {evaluation.pairs} held-out pairs; Fl-all {ours.fl_percent:.1f} %"
        found.append({"value": f"{ours.epe:.2f} px", "label": "mean end-point error", "note": note})
        for name, title in (("teacher", "the teacher"), (RIVAL, "DIS-medium")):
            theirs = reports[name].all if name in reports else None
            share = None if theirs is None else retention(ours.epe, theirs.epe)
            if theirs is not None and share is not None:
                note = f"{ours.epe:.2f} of {theirs.epe:.2f} px; lower is better"
                found.append({"value": f"{share:.1f}%", "label": f"of {title}'s end-point error", "note": note})
    found.append({"value": f"{evaluation.student_params / 1e6:.2f} M", "label": "parameters of the student"})
    return found


def strips(samples: Path) -> list[PairStrip]:
    """First frame, truth, the student's flow and its errors, of each pair that the run kept; empty where it kept none.

    Raises `UserError` where the file is damaged.
    """
    tensors = load_samples(samples)
    found = []
    for number in range(sum(key.startswith("image1.") for key in tensors)):
        if not all(f"{part}.{number}" in tensors for part in PARTS):
            continue
        image, truth, flow, visible, valid = (tensors[f"{part}.{number}"] for part in PARTS)
        drawn = pair_pictures(image[0].mul(255).round().byte(), truth, valid, flow)
        report = flow_report(flow, truth, valid, visible)
        groups = {"EPE": report.all, "visible": report.visible, "occluded": report.occluded}
        errors = ", ".join(f"{name} {scores.epe:.2f} px" for name, scores in groups.items() if scores is not None)
        found.append(
            PairStrip(
                caption=f"held-out pair {number + 1}",
                note=f"{errors}; full colour from {drawn.radius:.1f} px on",
                pictures=[
                    ("first frame", jpeg_uri(drawn.image)),
                    ("truth", png_uri(drawn.truth)),
                    ("student", png_uri(drawn.flow)),
                    ("errors", png_uri(drawn.error)),
                ],
            )
        )
    return found


def wheel() -> str:
    """The legend of the flow's colours, as a data URI."""
    return png_uri(wheel_picture(96))


def training(rows: Sequence[dict[str, float]]) -> str:
    """Every loss and the held-out EPE over steps."""
    losses = {name: f"{name} loss" for row in rows for name in row if name not in NO_LOSS}
    return curves(rows, losses, ("epe", "held-out EPE", "EPE, px"), from_zero=True)
