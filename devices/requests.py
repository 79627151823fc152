"""What a user asks of a profiler, whatever the device."""

from __future__ import annotations

from dataclasses import dataclass, field

from devices.journal import Journal
from devices.protocol import Schedule
from devices.records import ComputeUnits

#: How long a device that is not there, or gone, is waited for, in seconds.
WAIT_S = 600.0


@dataclass(frozen=True)
class Request:
    """What to measure, and how. What a kind of device has no use for, it leaves.

    `threads` is None for as many as suit the device; `resume` goes on with an unfinished session. `which` is the part
    of the device's name behind the colon. `wait_s` bounds every wait for a device; `fixed_clocks` asks a device that
    can to hold its clocks; `keep` leaves what was copied to a device there, for a next time; `lan` opens the browser's
    page to the local network. `compute_units`: where Core ML may run, each a candidate of its own.
    """

    journal: Journal
    schedule: Schedule = field(default_factory=Schedule)
    threads: int | None = None
    resume: bool = False
    which: str | None = None
    wait_s: float = WAIT_S
    fixed_clocks: bool = True
    keep: bool = False
    lan: bool = False
    compute_units: tuple[ComputeUnits, ...] = ("all",)
