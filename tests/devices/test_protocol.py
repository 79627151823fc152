"""The measuring protocol, on a clock that the tests wind."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.protocol import SPREAD, WARMUP_LIMIT, WINDOW, Timing, interleave, is_steady, timed, warm_up


class Clock:
    """Seconds that pass only when a call spends them."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now

    def costing(self, times_ms: Sequence[float]) -> Callable[[], None]:
        """A call that takes these times in turn, the last one from then on."""
        left = list(times_ms)

        def call() -> None:
            self.now += (left.pop(0) if len(left) > 1 else left[0]) / 1e3

        return call


def test_time_of_a_call_is_in_milliseconds() -> None:
    clock = Clock()
    assert timed(clock.costing([12.5]), clock) == pytest.approx(12.5)


@pytest.mark.parametrize(
    ("times", "steady"),
    [
        ([], False),
        ([100.0, 100.0], False),
        ([100.0, 100.0, 100.0], True),
        ([95.0, 100.0, 105.0], True),
        ([105.0, 95.0, 100.0], True),
        ([100.0, 100.0, 111.0], False),
        ([89.0, 100.0, 100.0], False),
        ([100.0, 50.0, 100.0], False),
        ([900.0, 100.0, 100.0, 100.0], True),
        ([100.0, 100.0, 100.0, 900.0], False),
        ([100.0, 100.0, 100.0, 900.0, 100.0, 100.0], False),
    ],
)
def test_steady_is_when_the_last_few_times_agree(times: list[float], steady: bool) -> None:
    assert (WINDOW, SPREAD) == (3, 0.10)
    assert is_steady(times) is steady


def test_warm_up_stops_at_the_first_steady_window_and_keeps_every_time() -> None:
    clock = Clock()
    timing = warm_up(clock.costing([300, 150, 101, 100, 102, 5, 5]), clock)
    assert timing.warmup_ms == pytest.approx([300, 150, 101, 100, 102])
    assert timing.steady
    assert timing.iterations_ms == []


def test_warm_up_gives_up_at_the_limit_and_says_so() -> None:
    clock = Clock()
    restless = [float(2**number) for number in range(WARMUP_LIMIT + 5)]
    timing = warm_up(clock.costing(restless), clock)
    assert timing.warmup_ms == pytest.approx(restless[:WARMUP_LIMIT])
    assert not timing.steady


def test_steady_at_the_very_limit_counts() -> None:
    clock = Clock()
    times = [float(2**number) for number in range(WARMUP_LIMIT - 3)] + [7.0, 7.0, 7.0]
    timing = warm_up(clock.costing(times), clock)
    assert len(timing.warmup_ms) == WARMUP_LIMIT
    assert timing.steady


@given(candidates=st.integers(1, 5), iterations=st.integers(0, 9))
def test_every_round_calls_every_candidate_once_and_starts_one_further_on(candidates: int, iterations: int) -> None:
    order: list[int] = []
    calls = [lambda index=index: order.append(index) for index in range(candidates)]
    timings = [Timing() for _ in calls]
    interleave(calls, timings, iterations)
    rounds = [order[start : start + candidates] for start in range(0, len(order), candidates)]
    assert len(rounds) == iterations
    for number, members in enumerate(rounds):
        assert sorted(members) == list(range(candidates))
        assert members[0] == number % candidates
    assert all(len(timing.iterations_ms) == iterations for timing in timings)


def test_times_go_to_the_candidate_that_took_them() -> None:
    clock = Clock()
    timings = [Timing(warmup_ms=[9.0], steady=True), Timing(), Timing()]
    calls = [clock.costing([1, 2]), clock.costing([10, 20]), clock.costing([100, 200])]
    interleave(calls, timings, 2, clock=clock)
    assert [timing.iterations_ms for timing in timings] == [
        pytest.approx([1, 2]),
        pytest.approx([10, 20]),
        pytest.approx([100, 200]),
    ]
    assert timings[0].warmup_ms == [9.0]


def test_progress_is_told_after_every_round() -> None:
    told: list[int] = []
    interleave([lambda: None, lambda: None], [Timing(), Timing()], 3, told.append)
    assert told == [1, 2, 3]
