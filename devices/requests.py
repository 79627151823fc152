"""What a user asks of a profiler, whatever the device."""

from __future__ import annotations

from dataclasses import dataclass, field

from devices.journal import Journal
from devices.protocol import Schedule


@dataclass(frozen=True)
class Request:
    """`threads` is None for as many as the device has cores; `resume` goes on with an unfinished session."""

    journal: Journal
    schedule: Schedule = field(default_factory=Schedule)
    threads: int | None = None
    resume: bool = False
