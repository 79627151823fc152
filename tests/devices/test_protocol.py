"""The measuring protocol, on a clock that the tests wind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.protocol import (
    COOLED_C,
    COOLING_LIMIT_S,
    PAUSE_S,
    SPREAD,
    WARMUP_LIMIT,
    WINDOW,
    cool_down,
    interleaved,
    is_steady,
    timed,
    warm_up,
)


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

    def measuring(self, times_ms: Sequence[float]) -> Callable[[], float]:
        """The same, as a measure."""
        return partial(timed, self.costing(times_ms), self)


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
    times = warm_up(clock.measuring([300, 150, 101, 100, 102, 5, 5]))
    assert times == pytest.approx([300, 150, 101, 100, 102])
    assert is_steady(times)


def test_warm_up_gives_up_at_the_limit_and_says_so() -> None:
    clock = Clock()
    restless = [float(2**number) for number in range(WARMUP_LIMIT + 5)]
    times = warm_up(clock.measuring(restless))
    assert times == pytest.approx(restless[:WARMUP_LIMIT])
    assert not is_steady(times)


def test_steady_at_the_very_limit_counts() -> None:
    clock = Clock()
    times = warm_up(clock.measuring([float(2**number) for number in range(WARMUP_LIMIT - 3)] + [7.0, 7.0, 7.0]))
    assert len(times) == WARMUP_LIMIT
    assert is_steady(times)


@given(candidates=st.integers(1, 5), first=st.integers(0, 7), rounds=st.integers(0, 9))
def test_every_round_calls_every_candidate_once_and_starts_one_further_on(
    candidates: int, first: int, rounds: int
) -> None:
    order: list[int] = []

    def measure(index: int) -> float:
        order.append(index)
        return float(index)

    times = list(interleaved([partial(measure, index) for index in range(candidates)], first, rounds))
    assert [len(row) for row in times] == [candidates] * rounds
    found = [order[start : start + candidates] for start in range(0, len(order), candidates)]
    assert len(found) == rounds
    for number, members in enumerate(found, start=first):
        assert sorted(members) == list(range(candidates))
        assert members[0] == number % candidates


def test_times_go_to_the_candidate_that_took_them() -> None:
    clock = Clock()
    measures = [clock.measuring([1, 2]), clock.measuring([10, 20]), clock.measuring([100, 200])]
    assert list(interleaved(measures, 1, 2)) == [pytest.approx([1, 10, 100]), pytest.approx([2, 20, 200])]


def test_a_round_is_given_before_the_next_one_begins() -> None:
    made: list[float] = []

    def measure() -> float:
        made.append(1.0)
        return 1.0

    for number, _ in enumerate(interleaved([measure], 0, 3), start=1):
        assert len(made) == number


class Room:
    """A device that cools by a degree a second of sleep, down to 30 degrees; a clock that sleep winds."""

    def __init__(self, temperature: float | None) -> None:
        self.temperature, self.now = temperature, 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.temperature is not None:
            self.temperature = max(self.temperature - seconds, 30.0)

    def wait(self, start: float | None) -> tuple[float, bool | None]:
        return cool_down(lambda: self.temperature, start, clock=lambda: self.now, sleep=self.sleep)


@pytest.mark.parametrize(
    ("hot", "start", "waited", "cooled"),
    [
        (35.0, 35.0, 0.0, True),
        (36.5, 35.0, 0.0, True),
        (50.0, 35.0, 13.0, True),
        (400.0, 35.0, COOLING_LIMIT_S, False),
        (35.0, 20.0, COOLING_LIMIT_S, False),
        (None, 35.0, PAUSE_S, None),
        (50.0, None, PAUSE_S, None),
    ],
)
def test_a_device_cools_to_its_first_temperature_within_a_limit(
    hot: float | None, start: float | None, waited: float, cooled: bool | None
) -> None:
    assert COOLED_C == 2.0
    assert Room(hot).wait(start) == (waited, cooled)
