"""How far an optical flow is from the truth: over all pixels, by displacement, and visible and occluded apart.

Flows are `(2, H, W)` or `(B, 2, H, W)` in pixels, masks `(H, W)` or `(B, H, W)` bool. Figures are means over pixels,
so that of several pairs each pixel counts once.
"""

from __future__ import annotations

import math

import torch
from pydantic import ConfigDict

from toolkit.schema import StrictModel

FL_PIXELS, FL_SHARE = 3.0, 0.05  # KITTI 2015: an outlier is beyond both
RANGES = {"s0_10": (0.0, 10.0), "s10_40": (10.0, 40.0), "s40": (40.0, math.inf)}  # pixels, as MPI Sintel has them
WITHIN = (1.0, 3.0, 5.0)
GROUPS = ("all", *RANGES, "visible", "occluded")


class FlowScores(StrictModel):
    """Over a group of `pixels`: the mean end-point error in pixels, and shares of the pixels in per cent.

    `fl_percent` have an error above 3 pixels and above 5 % of their displacement; `within_N_percent` one of at most N
    pixels. An error that is no number counts as infinite; infinite values are strings in JSON.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    pixels: int
    epe: float
    fl_percent: float
    within_1_percent: float
    within_3_percent: float
    within_5_percent: float


class FlowReport(StrictModel):
    """Scores of all valid pixels and of groups of them; None for a group without a pixel.

    `s0_10`, `s10_40` and `s40` go by the true displacement in pixels, a lower bound included and an upper one not.
    `visible` and `occluded` are None where no mask said which are which.
    """

    all: FlowScores | None
    s0_10: FlowScores | None
    s10_40: FlowScores | None
    s40: FlowScores | None
    visible: FlowScores | None
    occluded: FlowScores | None


class FlowMeter:
    """Collects the errors of any number of pairs; `report` gives the figures over all of them."""

    def __init__(self) -> None:
        self._sums = {group: torch.zeros(3 + len(WITHIN), dtype=torch.float64) for group in GROUPS}

    def add(
        self,
        prediction: torch.Tensor,
        truth: torch.Tensor,
        valid: torch.Tensor | None = None,
        visible: torch.Tensor | None = None,
    ) -> None:
        """Add a pair or a batch. Where `valid` is false, or `truth` is not finite, nothing is counted.

        Raises `ValueError` where shapes differ.
        """
        _check_shapes(prediction, truth, valid, visible)
        known = truth.isfinite().all(dim=-3)
        if valid is not None:
            known = known & valid
        length = torch.linalg.vector_norm(truth.float(), dim=-3)[known]
        errors = error_lengths(prediction, truth)[known]
        outlier = (errors > FL_PIXELS) & (errors > FL_SHARE * length)
        columns = [torch.ones_like(errors), errors, outlier, *(errors <= limit for limit in WITHIN)]
        table = torch.stack([column.double() for column in columns])  # (figures, pixels)
        groups = {"all": torch.ones_like(outlier)}
        groups |= {name: (length >= low) & (length < high) for name, (low, high) in RANGES.items()}
        if visible is not None:
            groups |= {"visible": visible[known], "occluded": ~visible[known]}
        for name, members in groups.items():
            self._sums[name] += table[:, members].sum(dim=1).cpu()

    def join(self, other: FlowMeter) -> None:
        """Add what another meter has collected."""
        for group, sums in other._sums.items():
            self._sums[group] += sums

    def report(self) -> FlowReport:
        """The figures over everything added so far."""
        return FlowReport(**{group: _scores(self._sums[group]) for group in GROUPS})


def flow_report(
    prediction: torch.Tensor,
    truth: torch.Tensor,
    valid: torch.Tensor | None = None,
    visible: torch.Tensor | None = None,
) -> FlowReport:
    """The figures of one pair or batch; arguments as of `FlowMeter.add`."""
    meter = FlowMeter()
    meter.add(prediction, truth, valid, visible)
    return meter.report()


def error_lengths(prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The end-point error of every pixel, `(H, W)` or `(B, H, W)`; infinite where it is no number."""
    errors = torch.linalg.vector_norm(prediction.float() - truth.float(), dim=-3)
    return errors.nan_to_num(nan=math.inf, posinf=math.inf)


def _scores(sums: torch.Tensor) -> FlowScores | None:
    pixels, error, *counts = sums.tolist()
    if not pixels:
        return None
    outliers, *within = (100 * count / pixels for count in counts)
    return FlowScores(
        pixels=int(pixels),
        epe=error / pixels,
        fl_percent=outliers,
        within_1_percent=within[0],
        within_3_percent=within[1],
        within_5_percent=within[2],
    )


def _check_shapes(prediction: torch.Tensor, truth: torch.Tensor, *masks: torch.Tensor | None) -> None:
    if prediction.shape != truth.shape or truth.ndim not in (3, 4) or truth.shape[-3] != 2:
        raise ValueError(f"flows of {tuple(prediction.shape)} and {tuple(truth.shape)}; both are (2, H, W) or a batch")
    pixels = truth.shape[:-3] + truth.shape[-2:]
    for mask in masks:
        if mask is not None and mask.shape != pixels:
            raise ValueError(f"a mask of {tuple(mask.shape)} for flows of {tuple(truth.shape)}")
