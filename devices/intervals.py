"""How certain a percentile of measured times is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toolkit.side_by_side import Interval

RESAMPLES = 2000
SEED = 0
CONFIDENCE = 95.0  # per cent


def percentile_interval(repeats: Sequence[Sequence[float]], share: float) -> Interval | None:
    """The 95 % interval of the percentile `share` of all times, in their unit; None with fewer than two times.

    A bootstrap in two stages (Davison and Hinkley, 1997, section 3.8): repeats are drawn with replacement, then times
    within each, for times of one repeat are more alike than those of several. `RESAMPLES` draws, seed `SEED`.
    """
    groups = [np.asarray(times) for times in repeats if len(times)]
    if sum(map(len, groups)) < 2:
        return None
    random = np.random.default_rng(SEED)
    found = [np.percentile(_drawn(groups, random), share) for _ in range(RESAMPLES)]
    low, high = np.percentile(found, [(100 - CONFIDENCE) / 2, (100 + CONFIDENCE) / 2])
    return Interval(low=float(low), high=float(high))


def _drawn(groups: Sequence[np.ndarray], random: np.random.Generator) -> np.ndarray:
    chosen = random.integers(len(groups), size=len(groups))
    return np.concatenate([random.choice(groups[index], size=len(groups[index])) for index in chosen])
