"""Figures of optical flow against cases computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit.flow_metrics import FlowMeter, FlowScores, error_lengths, flow_report


def field(*vectors: tuple[float, float]) -> torch.Tensor:
    """A flow `(2, 1, W)` of these vectors."""
    return torch.tensor(vectors).T[:, None]


def test_the_end_point_error_is_the_length_of_the_difference() -> None:
    report = flow_report(field((3, 4), (1, 0), (0, 0)), field((0, 0), (1, 0), (0, 2)))
    assert report.all is not None
    assert report.all.epe == pytest.approx((5 + 0 + 2) / 3)
    assert report.all.pixels == 3


def test_an_outlier_is_beyond_three_pixels_and_five_per_cent() -> None:
    truth = field((100, 0), (100, 0), (10, 0), (10, 0), (0, 0))
    wrong = field((104, 0), (106, 0), (13, 0), (13.5, 0), (0, 3.1))
    report = flow_report(wrong, truth)  # 4 px are 4 % of 100; 6 px are 6 %; 3 px are not above 3
    assert report.all is not None
    assert report.all.fl_percent == pytest.approx(60)


def test_shares_within_a_distance_include_the_distance_itself() -> None:
    report = flow_report(field((1, 0), (1.5, 0), (3, 0), (5, 0), (7, 0)), field(*[(0.0, 0.0)] * 5))
    assert report.all == FlowScores(
        pixels=5, epe=3.5, fl_percent=40, within_1_percent=20, within_3_percent=60, within_5_percent=80
    )


def test_ranges_go_by_the_true_displacement() -> None:
    truth = field((9.99, 0), (0, 10), (24, 32), (39.9, 0), (300, 0))
    wrong = truth + torch.tensor([1.0, 2, 3, 4, 5]).view(1, 1, 5) * torch.tensor([1.0, 0]).view(2, 1, 1)
    report = flow_report(wrong, truth)
    found = [(scores.pixels, scores.epe) for scores in (report.s0_10, report.s10_40, report.s40) if scores is not None]
    assert found == [(1, pytest.approx(1)), (2, pytest.approx(3)), (2, pytest.approx(4))]


def test_groups_without_a_pixel_have_no_figures() -> None:
    report = flow_report(field((1, 0)), field((0, 0)))
    assert report.s40 is None
    assert report.visible is None
    assert report.occluded is None
    assert flow_report(field((1, 0)), field((math.nan, 0))).all is None


def test_visible_and_occluded_points_are_counted_apart() -> None:
    visible = torch.tensor([[True, False, True, False]])
    valid = torch.tensor([[True, True, True, False]])
    report = flow_report(field((1, 0), (2, 0), (3, 0), (9, 0)), field(*[(0.0, 0.0)] * 4), valid, visible)
    assert report.all is not None
    assert report.visible is not None
    assert report.occluded is not None
    assert (report.all.epe, report.visible.epe, report.occluded.epe) == (2, 2, 2)
    assert (report.visible.pixels, report.occluded.pixels) == (2, 1)


@pytest.mark.parametrize("unknown", [math.nan, math.inf])
def test_a_truth_that_is_no_number_is_not_counted(unknown: float) -> None:
    report = flow_report(field((1, 0), (5, 0)), field((0, 0), (0, unknown)))
    assert report.all is not None
    assert (report.all.pixels, report.all.epe) == (1, 1)


@given(st.integers(0, 1000))
def test_a_truth_that_is_no_number_is_masked_from_every_figure(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(2, 7, 9, generator=generator) * 30
    wrong = truth + torch.randn(truth.shape, generator=generator) * 3
    known, visible = (torch.rand(7, 9, generator=generator) < 0.6 for _ in range(2))
    holed = truth.clone()
    holed[seed % 2, ~known] = math.nan  # one component is enough
    assert flow_report(wrong, holed, visible=visible) == flow_report(wrong, truth, known, visible)


def test_a_prediction_that_is_no_number_is_infinitely_wrong() -> None:
    report = flow_report(field((math.nan, 0), (0, 0)), field((0, 0), (0, 0)))
    assert report.all is not None
    assert report.all.epe == math.inf
    assert report.all.fl_percent == 50
    assert report.all.within_5_percent == 50
    assert error_lengths(field((math.nan, 0)), field((0, 0))).tolist() == [[math.inf]]


@given(st.integers(0, 1000), st.integers(1, 3))
def test_pairs_one_by_one_or_in_a_batch_give_the_same_figures(seed: int, pairs: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(pairs, 2, 5, 6, generator=generator) * 20
    wrong = truth + torch.randn(truth.shape, generator=generator) * 3
    valid, visible = (torch.rand(pairs, 5, 6, generator=generator) < 0.7 for _ in range(2))
    meter = FlowMeter()
    for number in range(pairs):
        meter.add(wrong[number], truth[number], valid[number], visible[number])
    one, other = meter.report().model_dump(), flow_report(wrong, truth, valid, visible).model_dump()
    assert one.keys() == other.keys()
    for group, scores in one.items():
        assert (scores is None) == (other[group] is None)
        assert scores is None or scores == pytest.approx(other[group])


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    flow = torch.zeros(2, 4, 5)
    with pytest.raises(ValueError, match="flows of"):
        flow_report(torch.zeros(2, 4, 6), flow)
    with pytest.raises(ValueError, match="flows of"):
        flow_report(torch.zeros(3, 4, 5), torch.zeros(3, 4, 5))
    with pytest.raises(ValueError, match="a mask of"):
        flow_report(flow, flow, torch.ones(1, 4, 5, dtype=torch.bool))
