"""What a recipe may not say of optical-flow data."""

from __future__ import annotations

from typing import Any

import pytest

from recipes.data.flow_specs import (
    AugmentationSpec,
    FlowMixtureSpec,
    FlowPairsSpec,
    SyntheticFlowSpec,
    VideoPairsSpec,
)
from toolkit.errors import UserError
from toolkit.schema import StrictModel, validate

TEXTURES = {"sources": ["pictures"]}
SCENES = {"kind": "synthetic_flow", "textures": TEXTURES}
UNSIZED = {"kind": "flow_pairs", "layout": "motorcycle"}
VIDEOS = {"kind": "video_pairs", "path": "clips", "augmentation": {"size": [64, 64]}}


@pytest.mark.parametrize(
    ("model", "data", "reason"),
    [
        (SyntheticFlowSpec, {"textures": {"sources": []}}, "textures.sources: .*at least 1"),
        (SyntheticFlowSpec, {"textures": {**TEXTURES, "range": [5, 5]}}, r"range \[5, 5\] holds no frame"),
        (SyntheticFlowSpec, {"textures": TEXTURES, "objects": [3, 2]}, "fewest <= most"),
        (SyntheticFlowSpec, {"textures": TEXTURES, "size": [8, 320]}, "size.0"),
        (
            SyntheticFlowSpec,
            {"textures": TEXTURES, "displacement": {"median": 50, "largest": 40}},
            "median 50.* is",
        ),
        (SyntheticFlowSpec, {"textures": TEXTURES, "photometrics": None}, "did you mean 'photometric'"),
        (SyntheticFlowSpec, {"textures": TEXTURES, "photometric": {"jpeg": 2}}, "photometric.jpeg"),
        (FlowPairsSpec, {"layout": "sintel"}, "path is missing: the folder of the data set 'sintel'"),
        (FlowPairsSpec, {"layout": "sintell", "path": "."}, "layout: .*'sintel'"),
        (AugmentationSpec, {"size": [64, 64], "scale": [0.5, 0]}, "low <= high"),
        (VideoPairsSpec, {**VIDEOS, "gap": [3, 2]}, "fewest <= most"),
        (VideoPairsSpec, {"kind": "video_pairs", "path": "clips"}, "augmentation"),
        (FlowMixtureSpec, {"kind": "flow_mixture", "parts": [{"data": VIDEOS}]}, "parts: .*at least 2"),
        (
            FlowMixtureSpec,
            {"kind": "flow_mixture", "parts": [{"data": VIDEOS}, {"data": SCENES}]},
            "parts of 256x320 and 64x64: a batch takes pairs of one size",
        ),
        (
            FlowMixtureSpec,
            {
                "kind": "flow_mixture",
                "parts": [{"data": VIDEOS}, {"data": {"kind": "flow_pairs", "layout": "motorcycle"}}],
            },
            "parts of 64x64 and none",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_key(model: type[StrictModel], data: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        validate(model, data, "recipe.yaml")
    assert "\n" not in str(caught.value)


def test_the_motorcycle_needs_no_folder() -> None:
    assert FlowPairsSpec(layout="motorcycle").path == ""
