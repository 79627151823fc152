"""How certain a percentile of measured times is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toolkit.side_by_side import Interval

RESAMPLES = 2000
SEED = 0
CONFIDENCE = 95.0  # per cent
DRAWN_AT_ONCE = 1_000_000  # times; bounds the memory


def percentile_interval(repeats: Sequence[Sequence[float]], share: float) -> Interval | None:
    """The 95 % interval of the percentile `share` of all times, in their unit; None with fewer than two times.

    A bootstrap in two stages (Davison and Hinkley, 1997, section 3.8): repeats are drawn with replacement, then times
    within each, for times of one repeat are more alike than those of several. `RESAMPLES` draws, seed `SEED`.
    """
    groups = [np.asarray(times) for times in repeats if len(times)]
    if sum(map(len, groups)) < 2:
        return None
    random = np.random.default_rng(SEED)
    if len({len(group) for group in groups}) == 1:
        found = _percentiles(np.stack(groups), share, random)
    else:
        found = np.array([np.percentile(_drawn(groups, random), share) for _ in range(RESAMPLES)])
    low, high = np.percentile(found, [(100 - CONFIDENCE) / 2, (100 + CONFIDENCE) / 2])
    return Interval(low=float(low), high=float(high))


def _percentiles(groups: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """The percentile of each of `RESAMPLES` draws from repeats of one length: `groups` is (repeats, times)."""
    repeats, length = groups.shape
    at_once = max(1, min(RESAMPLES, DRAWN_AT_ONCE // groups.size))
    found = []
    for start in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - start)
        chosen = random.integers(repeats, size=(count, repeats, 1))
        drawn = groups[chosen, random.integers(length, size=(count, repeats, length))]
        found.append(np.percentile(drawn.reshape(count, -1), share, axis=1))
    return np.concatenate(found)


def _drawn(groups: Sequence[np.ndarray], random: np.random.Generator) -> np.ndarray:
    chosen = random.integers(len(groups), size=len(groups))
    return np.concatenate([random.choice(groups[index], size=len(groups[index])) for index in chosen])
