"""Which records of two measurements belong together, and in what these are not alike beyond the artifacts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from devices.records import Device, Failure, Profile, ProfileRecord

#: Sessions that began further apart than this, in degrees Celsius, are not alike: a warm phone is a slow one.
WARMER_C = 5.0


class Matched(NamedTuple):
    """Records of two profiles: those that belong together, base first, and those of one profile only."""

    pairs: list[tuple[ProfileRecord, ProfileRecord]]
    gone: list[ProfileRecord]
    new: list[ProfileRecord]


def device_name(device: Device) -> str:
    """What makes a device the same one, in words."""
    return f"{device.model} ({device.kind}, {device.system}{', emulated' if device.emulated else ''})"


def by_device(base: Profile, new: Profile) -> list[tuple[Profile, Profile]]:
    """Two profiles taken apart by device, in the order in which these appear; as they are where each has but one.

    Devices of one model are told apart by their own names where a profile has several of them.
    """
    each: list[ProfileRecord | Failure] = [*base.records, *base.failures, *new.records, *new.failures]
    alike = max((_names(profile) for profile in (base, new)), key=len)
    if len(alike) == 1:
        return [(base, new)]
    several = len(alike) > len({model for model, _ in alike})

    def key(device: Device) -> tuple[str, str]:
        return device_name(device), device.name if several else ""

    def part(profile: Profile, wanted: tuple[str, str]) -> Profile:
        return Profile(
            records=[record for record in profile.records if key(record.device) == wanted],
            failures=[failure for failure in profile.failures if key(failure.device) == wanted],
        )

    return [(part(base, wanted), part(new, wanted)) for wanted in dict.fromkeys(key(one.device) for one in each)]


def matched(base: Sequence[ProfileRecord], new: Sequence[ProfileRecord]) -> Matched:
    """Records of one role, target and runtime, one after the other where several share these."""
    before, after = _by_candidate(base), _by_candidate(new)
    found = Matched([], [], [])
    for key, records in before.items():
        others = after.get(key, [])
        found.pairs.extend(zip(records, others, strict=False))
        found.gone.extend(records[len(others) :])
    for key, records in after.items():
        found.new.extend(records[len(before.get(key, [])) :])
    return found


def differences(pairs: Iterable[tuple[ProfileRecord, ProfileRecord]]) -> list[str]:
    """What differs within pairs of records, in words, each said once."""
    return list(
        dict.fromkeys(
            f"{what}: {mine} and {theirs}"
            for base, new in pairs
            for what, mine, theirs in _compared(base, new)
            if mine != theirs
        )
    )


def inputs_in_words(inputs: dict[str, list[int]]) -> str:
    """Such as `latent 1x4x8x8`."""
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in inputs.items())


def _compared(base: ProfileRecord, new: ProfileRecord) -> Iterator[tuple[str, object, object]]:
    yield "device", device_name(base.device), device_name(new.device)
    yield "clock mode", base.device.clock_mode, new.device.clock_mode
    yield "charging", base.device.charging, new.device.charging
    yield "screen", base.device.details.get("screen"), new.device.details.get("screen")
    yield "threads", base.threads, new.threads
    yield "protocol", base.protocol_version, new.protocol_version
    yield f"runtime of {new.target}", base.runtime, new.runtime
    yield f"how the figures of {new.target} were obtained", base.obtained, new.obtained
    before, after = base.device.temperature_c, new.device.temperature_c
    if before is not None and after is not None and abs(before - after) > WARMER_C:
        yield "temperature at the start", f"{before:.0f} °C", f"{after:.0f} °C"
    if base.inputs and new.inputs:  # earlier releases did not note them
        yield f"inputs of {new.target}", inputs_in_words(base.inputs), inputs_in_words(new.inputs)


def _names(profile: Profile) -> set[tuple[str, str]]:
    each: list[ProfileRecord | Failure] = [*profile.records, *profile.failures]
    return {(device_name(one.device), one.device.name) for one in each}


def _by_candidate(records: Sequence[ProfileRecord]) -> dict[tuple[str, str, str], list[ProfileRecord]]:
    found: defaultdict[tuple[str, str, str], list[ProfileRecord]] = defaultdict(list)
    for record in records:
        found[record.role, record.target, record.runs_on].append(record)
    return dict(found)
