"""Two measurements side by side: what became faster or slower, how surely, and what can no longer be measured."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from devices.intervals import CONFIDENCE, RESAMPLES, SEED
from devices.likeness import Matched, by_device, differences, inputs_in_words, matched
from devices.profiling import profile
from devices.records import Failure, Profile, ProfileRecord
from devices.sessions import Watch
from devices.store import read_json
from toolkit.bundle import MANIFEST, read_manifest
from toolkit.errors import DeviceError, UserError
from toolkit.schema import StrictModel
from toolkit.side_by_side import Interval

#: A change below this share is none, however sure it is.
LEAST = 0.01
#: Points of what was on an accelerator or in a delegate that may be lost before a candidate has moved off it.
MOVED = 0.05

Bucket = Literal[
    "faster",
    "same",
    "slower",
    "uncertain",
    "started failing",
    "lost device",
    "moved off the accelerator",
    "new",
    "gone",
]


class Row(StrictModel):
    """One candidate before and after. `ratio` is new p50 over base p50, with its 95 % interval.

    `paired` says that both were called in the same rounds, so that what slowed the device slowed both.
    """

    device: str
    role: str
    target: str
    runtime: str
    bucket: Bucket
    base_ms: float | None = None
    new_ms: float | None = None
    ratio: float | None = None
    interval: Interval | None = None
    paired: bool = False
    reason: str = ""

    def is_slower_than(self, share: float) -> bool:
        """Whether the candidate is surely slower by more than `share` (0.05: 5 %): all of the interval lies beyond."""
        return self.interval is not None and self.interval.low > 1 + share


class Comparison(StrictModel):
    """All candidates of two profiles, and in what the profiles are not alike."""

    rows: list[Row]
    differences: list[str]


def compare(
    base: Path,
    new: Path,
    device: str = "host",
    *,
    iterations: int = 20,
    repeats: int = 3,
    threads: int | None = None,
    unlike: bool = False,
    store: str | None = None,
    watch: Watch | None = None,
) -> Comparison:
    """Compare two bundles or two JSON files of profile records.

    Bundles are measured on `device` in one session, called in turn, so that their times come in pairs. `watch` sees it.
    Raises `UserError` where one is a bundle and the other is not, and as `compare_profiles` does; else what `profile`
    raises.
    """
    bundles = [(path / MANIFEST).is_file() for path in (base, new)]
    if not any(bundles):
        return compare_profiles(read_json(base), read_json(new), unlike=unlike)
    if not all(bundles):
        other = new if bundles[0] else base
        raise UserError(f"{other}: no bundle, as the other one is; compare two bundles, or two .json files of records")
    if not unlike:
        _check_inputs(base, new)
    found = profile(
        [base, new],
        device,
        iterations=iterations,
        repeats=repeats,
        threads=threads,
        operators=True,
        store=store,
        watch=watch,
    )
    if not found.of(0).records:
        raise DeviceError("; ".join(found.troubles))
    return compare_profiles(found.of(0), found.of(1), unlike=unlike)


def _check_inputs(base: Path, new: Path) -> None:
    """Raise `UserError` where two bundles take inputs of different shapes: their times do not speak of the same."""
    shapes = [
        inputs_in_words({info.name: list(info.shape) for info in read_manifest(bundle).signature.inputs})
        for bundle in (base, new)
    ]
    if shapes[0] != shapes[1]:
        raise UserError(f"compare: {base} takes {shapes[0]}, {new} {shapes[1]}; export both alike, or add --unlike")


def compare_profiles(base: Profile, new: Profile, *, unlike: bool = False) -> Comparison:
    """Compare candidates of one device, role, target and runtime, one after the other where several share these.

    Profiles of one device each are compared whatever their devices; of several, each device with itself. Raises
    `UserError` where the two cannot be compared, for something else than the artifact differs too: the device, its
    clocks, its temperature, the threads, versions, the protocol. `unlike` compares them all the same.
    """
    if not base.records or (not new.records and not new.failures):
        raise UserError("compare: a profile without any record; measure with `handheld profile BUNDLE --json FILE`")
    parts = by_device(base, new)
    found = [matched(mine.records, theirs.records) for mine, theirs in parts]
    unalike = differences(pair for one in found for pair in one.pairs)
    if unalike and not unlike:
        raise UserError(
            f"compare: not measured alike ({'; '.join(unalike)}); measure both in one session, as "
            "`handheld compare BASE_BUNDLE NEW_BUNDLE` does, or add --unlike"
        )
    rows = [
        row for one, (_, theirs) in zip(found, parts, strict=True) for row in _rows(one, _by_target(theirs.failures))
    ]
    return Comparison(rows=rows, differences=unalike)


def _rows(found: Matched, failures: dict[tuple[str | None, ...], list[Failure]]) -> list[Row]:
    """The rows of one device."""
    rows = [_row(base, new) for base, new in found.pairs]
    rows += [_missing(record, failures.get((record.role, record.target, record.unit), [])) for record in found.gone]
    return rows + [_named(record, "new", new_ms=record.latency.p50) for record in found.new]


def ratio_interval(pairs: Sequence[Sequence[tuple[float, float]]]) -> tuple[float, Interval | None]:
    """The median ratio of new to base over pairs (base, new) of rounds, by repeats, and its 95 % interval.

    A round's two times were taken one after the other, so a slow moment of the device is in both and falls out of their
    ratio. The interval is a bootstrap in two stages, as in `devices.intervals`.
    """
    groups = [np.log([new / base for base, new in repeat]) for repeat in pairs if repeat]
    found = float(np.exp(np.median(np.concatenate(groups))))
    if sum(map(len, groups)) < 2:
        return found, None
    random = np.random.default_rng(SEED)
    draws = [
        np.median(np.concatenate([random.choice(groups[i], len(groups[i])) for i in _chosen(len(groups), random)]))
        for _ in range(RESAMPLES)
    ]
    return found, _interval(draws)


def unpaired_interval(base: ProfileRecord, new: ProfileRecord) -> tuple[float, Interval | None]:
    """The ratio of two medians that were measured apart, and its 95 % interval by bootstrap of each."""
    found = new.latency.p50 / base.latency.p50
    groups = [[np.asarray(repeat.iterations_ms) for repeat in record.latency.repeats] for record in (base, new)]
    if any(sum(map(len, times)) < 2 for times in groups):
        return found, None
    random = np.random.default_rng(SEED)

    def median(times: list[np.ndarray]) -> float:
        drawn = [random.choice(times[i], len(times[i])) for i in _chosen(len(times), random)]
        return float(np.log(np.median(np.concatenate(drawn))))

    return found, _interval([median(groups[1]) - median(groups[0]) for _ in range(RESAMPLES)])


def _chosen(count: int, random: np.random.Generator) -> np.ndarray:
    return random.integers(count, size=count)


def _interval(logs: Sequence[float]) -> Interval:
    low, high = np.exp(np.percentile(logs, [(100 - CONFIDENCE) / 2, (100 + CONFIDENCE) / 2]))
    return Interval(low=float(low), high=float(high))


def _row(base: ProfileRecord, new: ProfileRecord) -> Row:
    pairs = _pairs(base, new)
    ratio, interval = ratio_interval(pairs) if pairs else unpaired_interval(base, new)
    bucket, reason = _bucket(ratio, interval), ""
    shares = [_accelerated(record) for record in (base, new)]
    if None not in shares and shares[1] < shares[0] - MOVED:  # type: ignore[operator]
        bucket, reason = "moved off the accelerator", f"{shares[0]:.0%} of it there before, {shares[1]:.0%} now"
    return _named(
        new,
        bucket,
        base_ms=base.latency.p50,
        new_ms=new.latency.p50,
        ratio=ratio,
        interval=interval,
        paired=bool(pairs),
        reason=reason,
    )


def _missing(base: ProfileRecord, failures: list[Failure]) -> Row:
    if not failures:
        return _named(base, "gone", base_ms=base.latency.p50)
    failure = failures[0]
    bucket: Bucket = "lost device" if failure.kind == "lost" else "started failing"
    return _named(base, bucket, base_ms=base.latency.p50, reason=failure.reason)


def _named(record: ProfileRecord, bucket: Bucket, **figures: object) -> Row:
    return Row.model_validate(
        {
            "device": record.device.model,
            "role": record.role,
            "target": record.target,
            "runtime": record.runs_on,
            "bucket": bucket,
            **figures,
        }
    )


def _bucket(ratio: float, interval: Interval | None) -> Bucket:
    if interval is None:
        return "uncertain"
    if abs(math.log(ratio)) < math.log1p(LEAST) or interval.low <= 1 <= interval.high:
        return "same"
    return "faster" if ratio < 1 else "slower"


def _pairs(base: ProfileRecord, new: ProfileRecord) -> list[list[tuple[float, float]]]:
    """Times of the same rounds, by repeats; empty where the two were not measured in one session, round by round."""
    repeats = list(zip(base.latency.repeats, new.latency.repeats, strict=False))
    alike = len(base.latency.repeats) == len(new.latency.repeats) and all(
        len(a.iterations_ms) == len(b.iterations_ms) for a, b in repeats
    )
    if base.session != new.session or not alike:
        return []
    return [list(zip(a.iterations_ms, b.iterations_ms, strict=True)) for a, b in repeats]


def _accelerated(record: ProfileRecord) -> float | None:
    """How much of a candidate is not left to plain CPU kernels, from 0 to 1; None where nothing is known of that.

    Its share of the time where operators were timed; else of operators, as a browser's runtime tells or Core ML plans.
    """
    parts = [("CPU" not in row.unit, row.ms) for row in record.operators]
    parts = parts or [(provider != "CPU", count) for provider, count in record.nodes.items()]
    parts = parts or [(placed.unit not in ("cpu", "unknown"), placed.operators) for placed in record.placement]
    total = sum(part for _, part in parts)
    return sum(part for accelerated, part in parts if accelerated) / total if total else None


def _by_target(failures: Sequence[Failure]) -> dict[tuple[str | None, ...], list[Failure]]:
    found: defaultdict[tuple[str | None, ...], list[Failure]] = defaultdict(list)
    for failure in failures:
        found[failure.role, failure.target, failure.unit].append(failure)
    return dict(found)
