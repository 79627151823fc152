"""Resizing of videos and images against PyTorch's own, in both directions and by all kinds of factors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from export.lowering import lower
from export.lowering.handlers.interpolation import _linear_rows, _nearest_places
from tests.conftest import Apply
from tests.export.lowering.check import VIDEO, assert_lowers_exactly

TARGETS: list[dict[str, Any]] = [
    {"scale_factor": 2},
    {"scale_factor": (1.0, 2.0, 2.0)},
    {"scale_factor": (2.0, 1.0, 1.5)},
    {"scale_factor": 1.3},
    {"scale_factor": 1.3, "recompute_scale_factor": True},
    {"scale_factor": 0.5},
    {"size": (7, 9, 11)},
    {"size": (9, 16, 12)},
    {"size": (3, 4, 5)},
    {"size": (1, 1, 1)},
]


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "trilinear", "area"])
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_resized_video(mode: str, target: dict[str, Any]) -> None:
    assert_lowers_exactly(Apply(lambda x: F.interpolate(x, mode=mode, **target)))


@pytest.mark.parametrize("target", [t for t in TARGETS if "recompute_scale_factor" not in t], ids=str)
def test_a_resized_video_with_its_corners_kept(target: dict[str, Any]) -> None:
    assert_lowers_exactly(Apply(lambda x: F.interpolate(x, mode="trilinear", align_corners=True, **target)))


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear"])
@pytest.mark.parametrize("target", [{"scale_factor": 2}, {"scale_factor": 1.7}, {"size": (3, 24)}], ids=str)
def test_resized_frames(mode: str, target: dict[str, Any]) -> None:
    frames = Apply(lambda x: F.interpolate(x[0].transpose(0, 1), mode=mode, **target).transpose(0, 1)[None])
    assert_lowers_exactly(frames)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.ops.aten.upsample_nearest3d(x, [10, 8, 12], 2.0, 1.0, 1.0),
        lambda x: torch.ops.aten._upsample_nearest_exact3d(x, [10, 8, 18], scales_w=1.5),
        lambda x: torch.ops.aten.upsample_trilinear3d(x, [10, 16, 15], False, scales_w=1.3),
        lambda x: torch.ops.aten.upsample_nearest2d(x[0], [8, 18], None, 1.5),
        lambda x: torch.ops.aten.upsample_bilinear2d(x[0], [16, 20], False, scales_w=1.7),
    ],
)
def test_calls_by_size_with_factors_beside_it(function) -> None:  # type: ignore[no-untyped-def]
    assert_lowers_exactly(Apply(function))


def test_many_places_become_one_operator() -> None:
    assert_lowers_exactly(Apply(lambda x: F.interpolate(x, size=(3, 50, 70))), (1, 2, 3, 31, 41))


def test_repeated_frames_are_not_written_out_before_they_are_needed() -> None:
    module = Apply(lambda x: torch.sigmoid(F.interpolate(x, scale_factor=(2.0, 1.0, 1.0))))
    program = torch.export.export(lower(module, (torch.randn(VIDEO),)), (torch.randn(5, 6, 8, 12),))
    (sigmoid,) = [node for node in program.graph.nodes if "sigmoid" in str(node.target)]
    assert tuple(sigmoid.meta["val"].shape) == (5, 6, 8, 12)


def test_an_upsampling_layer_between_convolutions() -> None:
    assert_lowers_exactly(nn.Sequential(nn.Conv3d(6, 4, 3), nn.Upsample(scale_factor=(2, 2, 2)), nn.Conv3d(4, 6, 1)))


RESIZES = {"size": st.integers(1, 40), "factor": st.floats(0.1, 4), "by_factor": st.booleans()}


def resized(x: torch.Tensor, factor: float, by_factor: bool, **options: Any) -> tuple[torch.Tensor, float | None]:
    """The time of a video `(1, C, T, 1, 1)` resized, as `(T', C)`, and the factor by which that was asked for."""
    steps = max(int(x.shape[2] * factor), 1)
    by: dict[str, Any] = {"size": (steps, 1, 1)}
    if by_factor and int(x.shape[2] * factor):
        by = {"scale_factor": (factor, 1.0, 1.0)}
    return F.interpolate(x, **by, **options)[0, :, :, 0, 0].T, factor if "scale_factor" in by else None


@settings(max_examples=200, deadline=None)
@given(**RESIZES, exact=st.booleans())
def test_places_are_those_that_pytorch_takes(size: int, factor: float, by_factor: bool, exact: bool) -> None:
    ramp = torch.arange(size, dtype=torch.float32).reshape(1, 1, size, 1, 1)
    expected, scale = resized(ramp, factor, by_factor, mode="nearest-exact" if exact else "nearest")
    assert _nearest_places(size, len(expected), scale, exact) == expected.flatten().int().tolist()


@settings(max_examples=200, deadline=None)
@given(**RESIZES, align=st.booleans())
def test_weights_are_those_that_pytorch_gives(size: int, factor: float, by_factor: bool, align: bool) -> None:
    impulses = torch.eye(size).reshape(1, size, size, 1, 1)
    expected, scale = resized(impulses, factor, by_factor, mode="trilinear", align_corners=align)
    rows = _linear_rows(size, len(expected), scale, align)
    actual = torch.tensor([[row.get(place, 0.0) for place in range(size)] for row in rows])
    assert torch.allclose(actual, expected, atol=1e-5)
