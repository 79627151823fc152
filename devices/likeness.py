"""In what two measurements are not alike, beyond the artifacts: what must not be mixed without being told."""

from __future__ import annotations

from collections.abc import Iterator

from devices.records import Device, Failure, Profile, ProfileRecord

#: Sessions that began further apart than this, in degrees Celsius, are not alike: a warm phone is a slow one.
WARMER_C = 5.0


def device_name(device: Device) -> str:
    """What makes a device the same one, in words."""
    return f"{device.model} ({device.kind}, {device.system}{', emulated' if device.emulated else ''})"


def by_device(profile: Profile) -> dict[str, Profile]:
    """A profile of several devices taken apart, in the order in which they appear."""
    each: list[ProfileRecord | Failure] = [*profile.records, *profile.failures]
    return {
        name: Profile(
            records=[record for record in profile.records if device_name(record.device) == name],
            failures=[failure for failure in profile.failures if device_name(failure.device) == name],
        )
        for name in dict.fromkeys(device_name(one.device) for one in each)
    }


def differences(base: Profile, new: Profile) -> list[str]:
    """What differs between the sessions of two profiles, and between candidates of one role, target and unit."""
    found = [
        f"{what}: {mine} and {theirs}"
        for other in {record.session: record for record in new.records}.values()
        for what, mine, theirs in _of_sessions(base.records[0], other)
        if mine != theirs
    ]
    known = {(record.role, record.target, record.unit): record for record in base.records}
    for record in new.records:
        mate = known.get((record.role, record.target, record.unit))
        if mate is not None:
            found += [
                f"{what} of {record.target}: {mine} and {theirs}"
                for what, mine, theirs in _of_candidates(mate, record)
                if mine != theirs
            ]
    return list(dict.fromkeys(found))


def _of_sessions(base: ProfileRecord, new: ProfileRecord) -> Iterator[tuple[str, object, object]]:
    yield "device", device_name(base.device), device_name(new.device)
    yield "clock mode", base.device.clock_mode, new.device.clock_mode
    yield "charging", base.device.charging, new.device.charging
    yield "screen", base.device.details.get("screen"), new.device.details.get("screen")
    yield "threads", base.threads, new.threads
    yield "protocol", base.protocol_version, new.protocol_version
    before, after = base.device.temperature_c, new.device.temperature_c
    if before is not None and after is not None and abs(before - after) > WARMER_C:
        yield "temperature at the start", f"{before:.0f} °C", f"{after:.0f} °C"


def _of_candidates(base: ProfileRecord, new: ProfileRecord) -> Iterator[tuple[str, object, object]]:
    yield "runtime", base.runtime, new.runtime
    yield "how the figures were obtained", base.obtained, new.obtained
    if base.inputs and new.inputs:  # earlier releases did not note them
        yield "inputs", _shapes(base), _shapes(new)


def _shapes(record: ProfileRecord) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in record.inputs.items())
