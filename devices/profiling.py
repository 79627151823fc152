"""The one way to profile: bundles on devices by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import get_args

from devices.android import adb
from devices.android.profiler import profile_android
from devices.apple.mac import profile_mac
from devices.apple.profiler import profile_iphone
from devices.bench import DeviceLost
from devices.browser.profiler import profile_browser
from devices.host import profile_host
from devices.journal import Journal
from devices.protocol import Schedule
from devices.records import ComputeUnits, Profile
from devices.requests import WAIT_S, Request
from devices.sessions import Stopped, Watch
from toolkit.bundle import read_manifest
from toolkit.errors import DeviceError, HandheldError, UserError, unknown_name

Profiler = Callable[[Sequence[Path], Request], Profile]
#: Devices that share this machine's processors: measured alone, and first.
HERE = ("host", "mac")

PROFILERS: dict[str, Profiler] = {
    "host": profile_host,
    "android": profile_android,
    "browser": profile_browser,
    "iphone": profile_iphone,
    "mac": profile_mac,
}


def profile(
    bundles: Sequence[Path],
    devices: str | Sequence[str] = "host",
    *,
    iterations: int = 10,
    repeats: int = 3,
    threads: int | None = None,
    operators: bool = True,
    store: str | None = None,
    resume: bool = False,
    wait_s: float = WAIT_S,
    fixed_clocks: bool = True,
    keep: bool = False,
    lan: bool = False,
    compute_units: Sequence[ComputeUnits] = ("all",),
    watch: Watch | None = None,
) -> Profile:
    """Measure every artifact of `bundles` that a device can run, interleaved in one session a device.

    A device is named `KIND` or `KIND:WHICH`, such as `host`, `android` or `android:SERIAL`. This machine is measured
    alone and first, all others at the same time.

    `repeats` times `iterations` rounds are timed, with time to cool between repeats. `threads` is by default what suits
    the device; `operators` adds per-operator tables. Every finished round is in `store` (a SQLAlchemy URL; None for the
    user's own) at once, and the records when all is done. With `resume`, the last unfinished session that asked for the
    same goes on. `wait_s`, `fixed_clocks`, `keep`, `lan` and `compute_units` are those of `Request`; `watch` looks on.

    Candidates that cannot be measured are failures of the profile, and a device that gives nothing, while others do, is
    one of its errors. Raises `UserError` on an unknown device and on a store that cannot be written, `CheckFailed` on a
    changed bundle, `DeviceError` where nothing could be measured.
    """
    names = [devices] if isinstance(devices, str) else list(dict.fromkeys(devices))
    for name in names:
        if _kind(name) not in PROFILERS:
            raise unknown_name("device", _kind(name), PROFILERS)
    for unit in compute_units:
        if unit not in get_args(ComputeUnits):
            raise unknown_name("compute units", unit, get_args(ComputeUnits))
    for option, value in (("--iterations", iterations), ("--repeats", repeats)):
        if value < 1:
            raise UserError(f"{option} {value}: at least 1")
    names = list(dict.fromkeys(map(_resolved, names)))
    for bundle in bundles:
        read_manifest(bundle)  # what is wrong with it is said once, before any device is looked for
    schedule = Schedule(repeats=repeats, iterations=iterations, operators=operators)
    journal = Journal(store, watch)
    request = Request(journal, schedule, threads, resume, None, wait_s, fixed_clocks, keep, lan, tuple(compute_units))
    if len(names) == 1:
        return _measure(names[0], bundles, request)
    return _merged(_measure_all(names, bundles, request))


def _kind(name: str) -> str:
    return name.partition(":")[0]


def _resolved(name: str) -> str:
    """A device by its full name, so that it is not measured twice; what is wrong with a name is raised ahead of all."""
    return adb.resolved(name) if _kind(name) == "android" else name


def _measure(name: str, bundles: Sequence[Path], request: Request) -> Profile:
    which = name.partition(":")[2] or None
    return PROFILERS[_kind(name)](bundles, replace(request, which=which))


def _measure_all(names: Sequence[str], bundles: Sequence[Path], request: Request) -> list[Profile]:
    """One profile a device, in the order of the names; this machine first, since measuring others would disturb it.

    What is wrong with one device is an error of its profile, and leaves the others.
    """

    def measured(name: str) -> Profile:
        try:
            return _measure(name, bundles, request)
        except DeviceLost as lost:
            return Profile(records=[], failures=lost.failures, errors=[] if lost.failures else [f"{name}: {lost}"])
        except HandheldError as error:
            return Profile(records=[], errors=[f"{name}: {error}"])
        except Stopped:
            return Profile(records=[])

    found = {name: measured(name) for name in names if _kind(name) in HERE}
    others = [name for name in names if name not in found]
    with ThreadPoolExecutor(max_workers=max(1, len(others))) as pool:
        try:
            found |= dict(zip(others, pool.map(measured, others), strict=True))
        except BaseException:
            request.journal.stop()
            raise
    return [found[name] for name in names]


def _merged(profiles: Sequence[Profile]) -> Profile:
    whole = Profile(
        records=[record for profile in profiles for record in profile.records],
        failures=[failure for profile in profiles for failure in profile.failures],
        errors=[error for profile in profiles for error in profile.errors],
    )
    if not whole.records and whole.troubles:
        raise DeviceError("; ".join(whole.troubles))
    return whole
