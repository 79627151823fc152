"""How Handheld times things. Changing what is measured raises `VERSION`, and records say theirs.

1. Parity: a candidate whose output on the bundle's sample is wrong is not timed.
2. Load and first inference, once each, timed apart.
3. Warm-up until steady: the last `WINDOW` calls differ by at most `SPREAD` of their median, or `WARMUP_LIMIT` calls.
4. Repeats of rounds. A round calls every candidate once, and each round starts with another one, so that a change of
   the machine's speed touches all alike. Before every repeat but the first the device cools: until it is within
   `COOLED_C` of its temperature at the start, `COOLING_LIMIT_S` at most; where it does not tell it, for `PAUSE_S`.
5. Memory in a pass of its own, in a fresh process for each candidate.
6. Operators in a pass of their own, since profiling slows what it measures.

Every time is kept, outliers included. Every finished round is in the store before the next one begins.
docs/protocol.md has it in full, with what each kind of device does.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence

from pydantic import Field

from toolkit.schema import StrictModel

VERSION = 2
WINDOW = 3
SPREAD = 0.10
WARMUP_LIMIT = 12
COOLED_C = 2.0
COOLING_LIMIT_S = 120.0
COOLING_STEP_S = 1.0
PAUSE_S = 1.0

Clock = Callable[[], float]
Call = Callable[[], object]
Measure = Callable[[], float]


class Schedule(StrictModel):
    """How much is measured: `repeats` times `iterations` rounds, and which passes follow."""

    repeats: int = Field(default=3, ge=1)
    iterations: int = Field(default=10, ge=1)
    operators: bool = True

    @property
    def rounds(self) -> int:
        return self.repeats * self.iterations


def timed(call: Call, clock: Clock = time.perf_counter) -> float:
    """Milliseconds that `call` takes."""
    start = clock()
    call()
    return (clock() - start) * 1e3


def is_steady(times_ms: Sequence[float]) -> bool:
    """Whether the last `WINDOW` times differ among themselves by at most `SPREAD` of their median."""
    if len(times_ms) < WINDOW:
        return False
    last = times_ms[-WINDOW:]
    return (max(last) - min(last)) <= SPREAD * statistics.median(last)


def warm_up(measure: Measure) -> list[float]:
    """Measure until steady or until the limit; the milliseconds of every call."""
    times: list[float] = []
    while len(times) < WARMUP_LIMIT and not is_steady(times):
        times.append(measure())
    return times


def interleaved(measures: Sequence[Measure], first: int, rounds: int) -> Iterator[list[float]]:
    """What each of `measures` gives in each of `rounds` rounds, number `first` and on.

    A measure calls its candidate once and gives the milliseconds that this took, by the clock of the device. Round n
    starts with measure n, counted around, so that none always follows the same one.
    """
    for number in range(first, first + rounds):
        times = [0.0] * len(measures)
        for offset in range(len(measures)):
            index = (number + offset) % len(measures)
            times[index] = measures[index]()
        yield times


def cool_down(
    temperature: Callable[[], float | None],
    start: float | None,
    clock: Clock = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[float, bool | None]:
    """Wait as step 4 of the protocol says; the seconds waited, and whether the device cooled in time (None: unknown).

    `temperature` gives degrees Celsius, or None where they are not known; `start` are those at the session's start.
    """
    began = clock()
    if start is None or temperature() is None:
        sleep(PAUSE_S)
        return clock() - began, None
    while (now := temperature()) is not None and now > start + COOLED_C:
        if clock() - began >= COOLING_LIMIT_S:
            return clock() - began, False
        sleep(COOLING_STEP_S)
    return clock() - began, True
