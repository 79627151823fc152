"""The one way to profile: bundles on a device by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from devices.host import profile_host
from devices.records import ProfileRecord
from toolkit.errors import unknown_name

PROFILERS: dict[str, Callable[..., list[ProfileRecord]]] = {"host": profile_host}


def profile(
    bundles: Sequence[Path],
    device: str = "host",
    *,
    iterations: int = 20,
    threads: int | None = None,
    operators: bool = True,
) -> list[ProfileRecord]:
    """Measure every artifact of `bundles` that `device` can run, interleaved in one session.

    `threads` is by default the number of cores; `operators` adds per-operator tables. Raises `UserError` on an
    unknown device, `CheckFailed` on a changed bundle, `DeviceError` where the device or a runtime fails.
    """
    if device not in PROFILERS:
        raise unknown_name("device", device, PROFILERS)
    return PROFILERS[device](bundles, iterations=iterations, threads=threads, operators=operators)
