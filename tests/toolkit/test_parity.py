"""Parity: what passes, what never passes, and exactly where the boundary lies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.parity import Execution, Parity, Tolerance, compare

SHARE = Tolerance(max_share=0.25)
DECIBELS = Tolerance(min_psnr_db=20.0)


def judge(outputs: list[np.ndarray], expected: list[np.ndarray], tolerance: Tolerance = SHARE) -> Parity:
    return compare(Execution(outputs, "executed", "Test Runtime 1.0"), expected, tolerance)


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 20), error=st.floats(1e-3, 10))
def test_reports_greatest_difference_scale_and_psnr_as_numpy_computes_them(seed: int, size: int, error: float) -> None:
    rng = np.random.default_rng(seed)
    expected = rng.normal(size=size).astype(np.float32)
    actual = (expected + rng.normal(scale=error, size=size)).astype(np.float32)
    parity = judge([actual], [expected])
    difference = actual.astype(np.float64) - expected.astype(np.float64)
    peak = float(np.ptp(expected.astype(np.float64)))
    assert parity.max_abs == pytest.approx(np.abs(difference).max())
    assert parity.scale == pytest.approx(np.abs(expected).max())
    assert parity.psnr_db == pytest.approx(20 * math.log10(peak) - 10 * math.log10((difference**2).mean()), abs=0.006)
    assert parity.passed == (np.abs(difference).max() <= 0.25 * np.abs(expected).max())


def test_pictures_are_judged_against_all_of_their_255_levels() -> None:
    grey, off_by_one = np.array([127, 128], dtype=np.uint8), np.array([128, 128], dtype=np.uint8)
    parity = judge([off_by_one], [grey], DECIBELS)
    assert parity.psnr_db == pytest.approx(20 * math.log10(255) + 10 * math.log10(2), abs=0.006)
    assert parity.passed


def test_truth_values_are_compared_as_numbers() -> None:
    right = np.array([True, False, True])
    assert judge([right], [right]).passed
    assert not judge([~right], [right]).passed


def test_an_output_without_numbers_differs_in_none() -> None:
    empty = np.zeros((0, 2), np.float32)
    assert judge([empty], [empty]).passed
    assert judge([empty], [empty], DECIBELS).passed
    assert not judge([empty, array(2.0)], [empty, array(1.0)]).passed
    assert not judge([np.zeros((2, 0), np.float32)], [empty]).passed


def test_says_how_and_where_the_output_came_about() -> None:
    parity = compare(Execution([array(1.0)], "reference-evaluated", "MIL reference"), [array(1.0)], SHARE)
    assert (parity.how, parity.runtime) == ("reference-evaluated", "MIL reference")
    assert "reference-evaluated by MIL reference" in str(parity)


def test_identical_outputs_pass_with_no_difference_and_no_psnr() -> None:
    parity = judge([array(1.0, -4.0)], [array(1.0, -4.0)])
    assert parity.passed
    assert parity.max_abs == 0
    assert parity.psnr_db is None


def test_share_of_scale_passes_at_the_boundary_and_fails_above_it() -> None:
    expected = array(0.0, -8.0)
    assert judge([array(2.0, -8.0)], [expected]).passed
    assert not judge([np.nextafter(array(2.0, -8.0), np.float32(3))], [expected]).passed


def test_scale_is_that_of_pytorch_not_of_the_artifact() -> None:
    assert not judge([array(100.0, 100.0)], [array(1.0, 1.0)]).passed


@pytest.mark.parametrize(("error", "passes"), [(0.0999, True), (0.1001, False)])
def test_psnr_takes_the_range_of_pytorchs_output_as_its_peak(error: float, passes: bool) -> None:
    expected = array(5.0, 6.0)
    parity = judge([array(5.0 + error, 6.0 - error)], [expected], DECIBELS)
    assert parity.psnr_db == pytest.approx(20.0, abs=0.02)
    assert parity.passed is passes


def test_psnr_is_judged_before_it_is_rounded() -> None:
    error = 10 ** (-19.997 / 20)
    parity = judge([np.array([error, 1 - error])], [np.array([0.0, 1.0])], DECIBELS)
    assert parity.psnr_db == 20.0
    assert not parity.passed


def test_both_tolerances_must_hold() -> None:
    expected, both = array(0.0, 1.0), Tolerance(max_share=0.05, min_psnr_db=20.0)
    assert judge([array(0.04, 1.0)], [expected], both).passed
    assert not judge([array(0.06, 1.0)], [expected], both).passed
    tight = Tolerance(max_share=0.05, min_psnr_db=60.0)
    assert not judge([array(0.04, 1.0)], [expected], tight).passed


def test_the_worst_of_several_outputs_decides() -> None:
    good, bad = array(0.0, 1.0), array(0.5, 1.0)
    for outputs in ([good, bad], [bad, good]):
        parity = judge(outputs, [good, good])
        assert not parity.passed
        assert parity.max_abs == 0.5
        assert parity.psnr_db == pytest.approx(10 * math.log10(2 / 0.5**2), abs=0.006)
        assert not judge(outputs, [good, good], DECIBELS).passed


@pytest.mark.parametrize(
    "outputs",
    [
        pytest.param([array(math.nan, 1.0)], id="not a number"),
        pytest.param([array(math.inf, 1.0)], id="infinite"),
        pytest.param([array(-math.inf, 1.0)], id="minus infinity"),
        pytest.param([array(1.0)], id="too short"),
        pytest.param([array(0.0, 1.0)[None]], id="an axis too many"),
        pytest.param([array(0.0, 1.0).reshape(2, 1)], id="would broadcast"),
        pytest.param([np.float32(1.0).reshape(())], id="a scalar"),
        pytest.param([], id="missing"),
        pytest.param([array(0.0, 1.0), array(0.0, 1.0)], id="one too many"),
    ],
)
@pytest.mark.parametrize("tolerance", [Tolerance(max_share=1e9), Tolerance(min_psnr_db=-1e9)], ids=["share", "psnr"])
def test_missing_misshapen_or_unbounded_output_never_passes(outputs: list[np.ndarray], tolerance: Tolerance) -> None:
    parity = judge(outputs, [array(0.0, 1.0)], tolerance)
    assert not parity.passed
    assert parity.max_abs is None
    assert parity.psnr_db is None
    assert str(parity).startswith("FAIL: output missing, misshapen or not finite")


@pytest.mark.parametrize("tolerance", [Tolerance(max_share=1e9), Tolerance(min_psnr_db=-1e9)], ids=["share", "psnr"])
def test_nothing_passes_against_a_reference_that_is_not_a_number(tolerance: Tolerance) -> None:
    assert not judge([array(0.0, 1.0)], [array(math.nan, 1.0)], tolerance).passed


def test_missing_second_output_fails_even_where_the_first_is_right() -> None:
    assert not judge([array(1.0)], [array(1.0), array(2.0)]).passed


def test_a_difference_from_a_flat_reference_fails_psnr() -> None:
    assert judge([array(3.0, 3.0)], [array(3.0, 3.0)], DECIBELS).passed
    assert not judge([array(3.0, 3.001)], [array(3.0, 3.0)], DECIBELS).passed


def test_any_difference_from_a_reference_of_zeros_fails_the_share() -> None:
    assert not judge([array(1e-9, 0.0)], [array(0.0, 0.0)]).passed


def test_verdict_reads_as_one_line() -> None:
    parity = judge([array(0.5, 4.0)], [array(0.0, 4.0)])
    assert str(parity) == "pass: max |Δ| 1.2e-01 of scale, PSNR 21.1 dB (≤ 0.25 of scale), executed by Test Runtime 1.0"
    assert str(DECIBELS) == "PSNR ≥ 20 dB"


def test_survives_a_round_trip_through_json() -> None:
    for outputs in ([array(0.5, 4.0)], [array(0.0, 4.0)], []):
        parity = judge(outputs, [array(0.0, 4.0)])
        assert Parity.model_validate_json(parity.model_dump_json()) == parity
