"""A profile record: every figure of one candidate on one device, with all that makes it comparable, or not."""

from __future__ import annotations

import statistics
from typing import Any, Literal

import numpy as np

from toolkit.parity import Parity
from toolkit.schema import StrictModel

RECORD_VERSION = 1
BUSY_SHARE = 0.15

Obtained = Literal["measured", "planned", "estimated", "emulated"]


class Device(StrictModel):
    """Where a record was made. Unknown facts are None, never guessed.

    `others_share` is the share of all processors that was busy during a second before the session in which Handheld
    itself was idle: what other programs took.
    """

    kind: Literal["host"]
    name: str
    model: str
    system: str
    cores: int
    memory_bytes: int
    clock_mhz: float | None
    temperature_c: float | None
    others_share: float | None
    emulated: bool = False


class Latency(StrictModel):
    """Milliseconds. `warmup_ms` and `iterations_ms` are kept whole, outliers included."""

    load_ms: float
    first_ms: float
    warmup_ms: list[float]
    steady: bool
    iterations_ms: list[float]

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.iterations_ms, share))

    @property
    def p50(self) -> float:
        return self.percentile(50)

    @property
    def p90(self) -> float:
        return self.percentile(90)

    @property
    def p99(self) -> float:
        return self.percentile(99)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.iterations_ms)

    @property
    def std(self) -> float:
        return statistics.stdev(self.iterations_ms) if len(self.iterations_ms) > 1 else 0.0


class Memory(StrictModel):
    """Resident memory of a process of its own: before loading, and its peak over loading and running."""

    baseline_bytes: int
    peak_bytes: int

    @property
    def added_bytes(self) -> int:
        return self.peak_bytes - self.baseline_bytes


class OperatorTime(StrictModel):
    """Time in one operator kind or delegate step: mean of `calls` calls an inference, from the runtime's profile."""

    name: str
    kind: str
    unit: str
    ms: float
    calls: int
    obtained: Obtained


class ProfileRecord(StrictModel):
    """One candidate, one device, one session. Records of one `session` were interleaved and may be set in ratio."""

    record_version: int = RECORD_VERSION
    protocol_version: int
    session: str
    created: str
    bundle: str
    role: Literal["student", "teacher", "module"]
    target: str
    artifact_sha256: str
    artifact_bytes: int
    device: Device
    runtime: str
    threads: int
    versions: dict[str, str]
    obtained: Obtained
    latency: Latency
    memory: Memory | None
    operators: list[OperatorTime]
    parity: Parity

    @property
    def busy(self) -> bool:
        """Whether other programs were likely to take part in the figures."""
        return self.device.others_share is not None and self.device.others_share > BUSY_SHARE

    @property
    def label(self) -> str:
        return f"{self.role} · {self.runtime.rsplit(' ', 1)[0]}"

    def summary(self) -> dict[str, Any]:
        """The figures that a table shows."""
        timing = self.latency
        return {
            "candidate": self.label,
            "target": self.target,
            "p50_ms": timing.p50,
            "p90_ms": timing.p90,
            "p99_ms": timing.p99,
            "load_ms": timing.load_ms,
            "first_ms": timing.first_ms,
            "added_memory_mb": self.memory.added_bytes / 1e6 if self.memory else None,
        }
