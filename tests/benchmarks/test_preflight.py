"""What inspection predicts is what an export does, on cases of every kind."""

from __future__ import annotations

import pytest

from benchmarks.preflight import FAILS, RUNS, TARGETS, judge
from benchmarks.preflight_cases import cases

EXPECTED = {
    "image: gelu": [RUNS, RUNS, RUNS],
    "image: bicubic": [RUNS, RUNS, FAILS],
    "weights given": [RUNS, FAILS, RUNS],
    "image: svd of images": [FAILS, FAILS, FAILS],
    "video: rank 6 kept": [FAILS, FAILS, FAILS],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_a_prediction_is_the_outcome(name: str) -> None:
    rows = judge(name, cases()[name])
    assert [row.target for row in rows] == TARGETS
    assert [(row.predicted, row.outcome) for row in rows] == [(outcome, outcome) for outcome in EXPECTED[name]]


def test_there_are_enough_cases() -> None:
    assert len(cases()) >= 60
