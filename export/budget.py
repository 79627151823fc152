"""Mixed precision by evidence: which layers of an artifact keep the higher precision so that it meets a budget."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from export.handover import Material
from export.sensitivity import Budgeted, fewest_wide
from export.targets import Conversion, Target
from toolkit.parity import LayerPrecision, MixedPrecision


def within_budget(target: Target, material: Material) -> MixedPrecision | None:
    """What the material's budget asks of this target; None without a budget, and of targets that reduce nothing.

    Raises `CheckFailed` where not even the model with all its layers kept reaches the budget.
    """
    if material.budget_db is None or not target.is_mixable:
        return None
    call = material.call
    with tempfile.TemporaryDirectory() as folder:
        conversion = Conversion(call.program, call.names, call.calibration)
        return _told(fewest_wide(conversion, target, material.budget_db, Path(folder)))


def _told(found: Budgeted) -> MixedPrecision:
    return MixedPrecision(
        budget_db=found.budget_db,
        reached_db=found.psnr_db if math.isfinite(found.psnr_db) else None,
        conversions=len(found.steps),
        layers=[
            LayerPrecision(
                layer=layer.name,
                node=layer.node,
                operator=layer.operator,
                alone_db=layer.psnr_db if math.isfinite(layer.psnr_db) else None,
                kept=kept,
            )
            for layer, kept in found.rows
        ],
    )
