"""How far outputs are from PyTorch fp32 on the same input, and whether that is close enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import ConfigDict, model_validator

from toolkit.schema import StrictModel

How = Literal["executed", "reference-evaluated"]


class Tolerance(StrictModel):
    """Greatest |difference| as a share of the output's scale, or least PSNR in dB; None where it is not asked."""

    max_share: float | None = None
    min_psnr_db: float | None = None

    @model_validator(mode="after")
    def _bounds_something(self) -> Tolerance:
        if self.max_share is None and self.min_psnr_db is None:
            raise ValueError("a tolerance needs max_share or min_psnr_db")
        return self

    def __str__(self) -> str:
        if self.max_share is not None:
            return f"≤ {self.max_share:g} of scale"
        return f"PSNR ≥ {self.min_psnr_db:g} dB"


class Parity(StrictModel):
    """How far an output is from PyTorch fp32 on the bundle's sample, and how it came about.

    Of several outputs it speaks of the worst. `scale` is the largest absolute value of PyTorch's output; PSNR takes
    the range of PyTorch's output as its peak. `max_abs` is None where an output is missing, misshapen or not finite;
    `psnr_db` also where it is identical.
    """

    how: How
    runtime: str
    max_abs: float | None
    scale: float
    psnr_db: float | None
    tolerance: Tolerance
    passed: bool

    @property
    def share(self) -> float | None:
        """`max_abs` as a share of `scale`."""
        if self.max_abs is None or self.scale == 0:
            return self.max_abs
        return self.max_abs / self.scale

    def __str__(self) -> str:
        verdict = "pass" if self.passed else "FAIL"
        if self.share is None:
            return f"{verdict}: output missing, misshapen or not finite, {self.how} by {self.runtime}"
        psnr = f", PSNR {self.psnr_db:.1f} dB" if self.psnr_db is not None else ""
        return f"{verdict}: max |Δ| {self.share:.1e} of scale{psnr} ({self.tolerance}), {self.how} by {self.runtime}"


class InputCheck(StrictModel):
    """Parity on an input beyond the bundle's sample: a real one ("held-out"), or one made to be awkward.

    Adversarial inputs have the sample's shape and range. fp32 artifacts must hold their tolerance on all inputs, other
    precisions on real ones; on adversarial ones they must be finite wherever PyTorch is. What PyTorch's own output has
    that is not finite is left out of the comparison. Where an fp32 tolerance does not hold of an adversarial input's
    answer, it may hold of the scale of real ones: an answer of nearly zero has no digits of its own. Else `rounding` is
    looked at: how far PyTorch's fp32 answers, of the model and of its lowered form, are from the fp64 one, as a share
    of scale. An artifact may then be `ROUNDINGS` times as far off. `parity.passed` says whether the tolerance itself
    held, `passed` whether the rule above did.
    """

    name: str
    kind: Literal["held-out", "adversarial"]
    parity: Parity
    rounding: float | None = None
    passed: bool

    def __str__(self) -> str:
        own = f"; PyTorch's own rounding is {self.rounding:.1e} of scale" if self.rounding is not None else ""
        return f"{self.kind} input '{self.name}': {self.parity}{own}"


#: How many times PyTorch's own fp32 rounding an fp32 artifact may be off where that is more than its tolerance: both
#: round, in different orders.
ROUNDINGS = 4
#: The largest value of a picture in 8 bits.
LEVELS = 255


class TaskMetric(StrictModel):
    """The task's own metric against the truth, a mean over `samples` held-out samples: PyTorch's and the artifact's.

    `psnr_db` may be 0.5 dB below PyTorch's, `epe` (pixels) 5 % above it; `limit` is the worst figure that passes.
    Infinite values are strings in JSON.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    name: Literal["psnr_db", "epe"]
    pytorch: float
    artifact: float
    limit: float
    samples: int
    passed: bool

    def __str__(self) -> str:
        words = {"psnr_db": ("PSNR", "dB", "≥"), "epe": ("EPE", "px", "≤")}[self.name]
        title, unit, sign = words
        return (
            f"{title} against the truth {self.artifact:.3f} {unit}, PyTorch's {self.pytorch:.3f} "
            f"({sign} {self.limit:.3f})"
        )


PSNR_LOSS_DB, EPE_GROWTH = 0.5, 0.05


def task_metric(name: Literal["psnr_db", "epe"], pytorch: float, artifact: float, samples: int) -> TaskMetric:
    """The two figures and whether the artifact's is close enough; a better one always is."""
    if name == "psnr_db":
        limit = pytorch - PSNR_LOSS_DB
        passed = artifact >= limit
    else:
        limit = pytorch * (1 + EPE_GROWTH)
        passed = artifact <= limit
    return TaskMetric(name=name, pytorch=pytorch, artifact=artifact, limit=limit, samples=samples, passed=passed)


@dataclass(frozen=True)
class Execution:
    """Outputs of an artifact, and how and where they came about."""

    outputs: list[np.ndarray]
    how: How
    runtime: str


def compare(execution: Execution, expected: Sequence[np.ndarray], tolerance: Tolerance) -> Parity:
    """The worst difference over all outputs. A missing output, another shape or a NaN never passes.

    PSNR is against the range of an output's expected values, of pictures in 8 bits against their 255.
    """
    outputs = execution.outputs
    fits = len(outputs) == len(expected) and all(a.shape == b.shape for a, b in zip(outputs, expected, strict=True))
    max_abs, scale, psnr_db = None, 0.0, None
    passed = fits and all(bool(np.isfinite(a).all()) for a in (*outputs, *expected))
    if passed:
        pairs = [(a.astype(np.float64), b.astype(np.float64), _peak(b)) for a, b in _filled(outputs, expected)]
        differences = [(float(np.abs(a - b).max()), float(np.abs(b).max())) for a, b, _ in pairs]
        max_abs, scale = max(differences, key=lambda d: d[0] / d[1] if d[1] else d[0], default=(0.0, 0.0))
        worst = min((_psnr(a, b, peak) for a, b, peak in pairs), default=math.inf)
        psnr_db = round(worst, 2) if math.isfinite(worst) else None
        if tolerance.max_share is not None:
            passed = max_abs <= tolerance.max_share * scale
        if tolerance.min_psnr_db is not None:
            passed = passed and worst >= tolerance.min_psnr_db
    return Parity(
        how=execution.how,
        runtime=execution.runtime,
        max_abs=max_abs,
        scale=scale,
        psnr_db=psnr_db,
        tolerance=tolerance,
        passed=passed,
    )


def _filled(outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Outputs with what is expected of them, without those that hold no number, in which nothing can differ."""
    return [(a, b) for a, b in zip(outputs, expected, strict=True) if b.size]


def _peak(expected: np.ndarray) -> float:
    return LEVELS if expected.dtype == np.uint8 else float(expected.max()) - float(expected.min())


def _psnr(actual: np.ndarray, expected: np.ndarray, peak: float) -> float:
    error = float(np.mean((actual - expected) ** 2))
    if error == 0:
        return math.inf
    return 10 * math.log10(peak * peak / error) if peak > 0 else -math.inf


class LayerPrecision(StrictModel):
    """A layer of an artifact of two precisions: whether it kept the higher one.

    `alone_db` is the PSNR of the model with this layer alone reduced, estimated in PyTorch; None where nothing changes.
    """

    layer: str
    node: str
    operator: str
    alone_db: float | None
    kept: bool


class MixedPrecision(StrictModel):
    """The fewest layers that were kept for the artifact to meet a budget, and how it was found.

    `reached_db` is the least PSNR of the artifact over all real inputs, by the runtime that its parity names, or, of
    `onnx-fp16`, reference-evaluated there with each result rounded to fp16; None where it is exact. Of a stream the
    real inputs are the steps of one clip, each called with the exact fp32 states that PyTorch gave before it: errors
    that states carry from step to step are not in it. `conversions` were made and measured on the way. Layers come
    most sensitive first.
    """

    budget_db: float
    reached_db: float | None
    conversions: int
    layers: list[LayerPrecision]

    @property
    def wide(self) -> frozenset[str]:
        """Nodes that kept the higher precision."""
        return frozenset(layer.node for layer in self.layers if layer.kept)
