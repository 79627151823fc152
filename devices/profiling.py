"""The one way to profile: bundles on a device by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from devices.host import profile_host
from devices.journal import Journal
from devices.protocol import Schedule
from devices.records import Profile
from devices.requests import Request
from toolkit.errors import UserError, unknown_name

Profiler = Callable[[Sequence[Path], Request], Profile]

PROFILERS: dict[str, Profiler] = {"host": profile_host}


def profile(
    bundles: Sequence[Path],
    device: str = "host",
    *,
    iterations: int = 10,
    repeats: int = 3,
    threads: int | None = None,
    operators: bool = True,
    store: str | None = None,
    resume: bool = False,
) -> Profile:
    """Measure every artifact of `bundles` that `device` can run, interleaved in one session.

    `repeats` times `iterations` rounds are timed, with time to cool between repeats. `threads` is by default the number
    of cores; `operators` adds per-operator tables. Every finished round is in `store` (a SQLAlchemy URL; None for the
    user's own) at once, and the records when all is done. With `resume`, the last unfinished session that asked for the
    same goes on.

    Candidates that cannot be measured are failures of the profile. Raises `UserError` on an unknown device and on a
    store that cannot be written, `CheckFailed` on a changed bundle, `DeviceError` where nothing could be measured.
    """
    if device not in PROFILERS:
        raise unknown_name("device", device, PROFILERS)
    for option, value in (("--iterations", iterations), ("--repeats", repeats)):
        if value < 1:
            raise UserError(f"{option} {value}: at least 1")
    schedule = Schedule(repeats=repeats, iterations=iterations, operators=operators)
    return PROFILERS[device](bundles, Request(Journal(store), schedule, threads, resume))
