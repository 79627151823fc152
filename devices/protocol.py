"""How Handheld times things. Changing what is measured raises `VERSION`, and records say theirs.

1. Parity: a candidate whose output on the bundle's sample is wrong is not timed.
2. Load and first inference, once each, timed apart.
3. Warm-up until steady: the last `WINDOW` calls differ by at most `SPREAD` of their median, or `WARMUP_LIMIT` calls.
4. Iterations interleaved: every round calls every candidate once, and each round starts with another one, so that
   a change of the machine's speed touches all alike.
5. Memory in a pass of its own, in a fresh process for each candidate.
6. Operators in a pass of their own, since profiling slows what it measures.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

VERSION = 1
WINDOW = 3
SPREAD = 0.10
WARMUP_LIMIT = 12

Clock = Callable[[], float]
Call = Callable[[], object]


@dataclass
class Timing:
    """What one candidate's calls took, in ms."""

    warmup_ms: list[float] = field(default_factory=list)
    steady: bool = False
    iterations_ms: list[float] = field(default_factory=list)


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


def warm_up(call: Call, clock: Clock = time.perf_counter) -> Timing:
    """Call until steady or until the limit."""
    timing = Timing()
    while len(timing.warmup_ms) < WARMUP_LIMIT and not timing.steady:
        timing.warmup_ms.append(timed(call, clock))
        timing.steady = is_steady(timing.warmup_ms)
    return timing


def interleave(
    calls: Sequence[Call],
    timings: Sequence[Timing],
    iterations: int,
    tick: Callable[[int], None] = lambda _done: None,
    clock: Clock = time.perf_counter,
) -> None:
    """Add `iterations` times to each timing: one call of each a round, each round starting one further on."""
    for number in range(iterations):
        for offset in range(len(calls)):
            index = (number + offset) % len(calls)
            timings[index].iterations_ms.append(timed(calls[index], clock))
        tick(number + 1)
