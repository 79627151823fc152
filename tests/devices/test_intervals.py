"""Intervals of percentiles: they cover, and they know that times of one repeat are alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.intervals import percentile_interval

TIMES = st.lists(st.lists(st.floats(1, 100), min_size=1, max_size=8), min_size=1, max_size=4)


@pytest.mark.slow
@settings(max_examples=15)
@given(TIMES, st.sampled_from([50, 90, 99]))
def test_an_interval_lies_within_the_times(repeats: list[list[float]], share: float) -> None:
    times = [time for repeat in repeats for time in repeat]
    found = percentile_interval(repeats, share)
    if len(times) < 2:
        assert found is None
        return
    assert found is not None
    assert min(times) - 1e-9 <= found.low <= found.high <= max(times) + 1e-9


def test_equal_times_are_certain() -> None:
    found = percentile_interval([[7.0] * 5, [7.0] * 5], 50)
    assert found is not None
    assert (found.low, found.high) == (7.0, 7.0)


def test_repeats_that_differ_are_less_certain_than_one_long_one() -> None:
    random = np.random.default_rng(0)
    apart = [list(random.normal(level, 1, 20)) for level in (90, 100, 110)]
    mixed = [[time for repeat in apart for time in repeat]]
    wide, narrow = percentile_interval(apart, 50), percentile_interval(mixed, 50)
    assert wide is not None
    assert narrow is not None
    assert wide.high - wide.low > 1.2 * (narrow.high - narrow.low)


@pytest.mark.slow
def test_ninety_five_of_a_hundred_intervals_hold_the_median() -> None:
    held = 0
    for number in range(60):
        random = np.random.default_rng(number)
        found = percentile_interval([list(random.lognormal(3, 0.1, 40))], 50)
        assert found is not None
        held += found.low <= np.exp(3) <= found.high
    assert held >= 51  # 57 expected; a fair coin of 95 % falls below 51 once in 300 tries
