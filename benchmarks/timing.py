"""Latencies that can be compared with each other: taken in turn, so that all candidates meet the same disturbances."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

WARM_UP = 2

Key = TypeVar("Key")


def interleaved(calls: Mapping[Key, Callable[[], object]], rounds: int) -> dict[Key, list[float]]:
    """The milliseconds of each call in each of `rounds` rounds, one call of each a round, after a warm-up."""
    times: dict[Key, list[float]] = {key: [] for key in calls}
    for number in range(WARM_UP + rounds):
        for key, call in calls.items():
            start = time.perf_counter()
            call()
            if number >= WARM_UP:
                times[key].append(1e3 * (time.perf_counter() - start))
    return times
