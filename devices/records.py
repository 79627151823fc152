"""A profile record: every figure of one candidate on one device, with all that makes it comparable, or not."""

from __future__ import annotations

import statistics
from typing import Any, Literal

import numpy as np

from devices.intervals import percentile_interval
from toolkit.parity import Parity
from toolkit.schema import StrictModel
from toolkit.side_by_side import Interval

RECORD_VERSION = 2
BUSY_SHARE = 0.15

Obtained = Literal["measured", "planned", "estimated", "emulated"]
DeviceKind = Literal["host", "android", "apple", "browser"]
#: Core ML's compute units: which of a device's processors it may use. Which of them it does use, it decides itself.
ComputeUnits = Literal["all", "cpuOnly", "cpuAndGPU", "cpuAndNeuralEngine"]
#: By what a browser's runtime computes: the processor, the graphics processor, or what the system offers for networks.
Provider = Literal["wasm", "webgpu", "webnn"]
#: What a candidate may run on, where that is a choice.
Unit = Literal["all", "cpuOnly", "cpuAndGPU", "cpuAndNeuralEngine", "wasm", "webgpu", "webnn"]


def upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """A record's JSON as this release holds it, of one of any release. Records of today's are given back as they are.

    Version 1 had one repeat, whose start it did not note apart from the session's.
    """
    if content.get("record_version") != 1:
        return content
    latency = dict(content["latency"])
    times = latency.pop("iterations_ms")
    latency["repeats"] = [{"iterations_ms": times, "started": content["created"]}]
    return {**content, "record_version": RECORD_VERSION, "latency": latency}


class Device(StrictModel):
    """Where a record was made. Unknown facts are None, never guessed.

    `kind` says by what way it was reached; `emulated`, whether other hardware played it. `others_share` is the share of
    all processors that was busy during a second before the session in which Handheld itself was idle: what other
    programs took. `clock_mode` is `fixed` where the device held its clocks for the session. `details` are further facts
    of one kind of device, by name.
    """

    kind: DeviceKind
    name: str
    model: str
    system: str
    cores: int | None
    memory_bytes: int | None
    clock_mhz: float | None
    temperature_c: float | None
    others_share: float | None
    clock_mode: Literal["free", "fixed"] | None = None
    charging: bool | None = None
    emulated: bool = False
    details: dict[str, str] = {}


class Repeat(StrictModel):
    """Rounds without a pause between them: a time for each, in ms, outliers included.

    Before them `waited_s` seconds passed for the device to cool; `cooled` is False where the limit of that wait ended
    it, and None where nothing could tell. Temperature and clock are those at its start.
    """

    iterations_ms: list[float]
    started: str
    waited_s: float = 0.0
    cooled: bool | None = True
    temperature_c: float | None = None
    clock_mhz: float | None = None


class Latency(StrictModel):
    """Milliseconds. `warmup_ms` and the times of `repeats` are kept whole, outliers included.

    Where the device's clock is too coarse for one call, each time is the mean of `batch` calls in a row.
    """

    load_ms: float
    first_ms: float
    warmup_ms: list[float]
    steady: bool
    repeats: list[Repeat]
    batch: int = 1

    @property
    def iterations_ms(self) -> list[float]:
        return [time for repeat in self.repeats for time in repeat.iterations_ms]

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.iterations_ms, share))

    def interval(self, share: float) -> Interval | None:
        """Between which values a percentile lies: 95 %, by bootstrap over repeats and over the times in them.

        None with fewer than two times.
        """
        return percentile_interval([repeat.iterations_ms for repeat in self.repeats], share)

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


class Placement(StrictModel):
    """Where Core ML means to run operators of one kind: its plan before running, not a trace and not a time.

    `cost_share` is the share of the whole model's cost that Core ML estimates for them, 0 to 1; None where it tells
    none of one of them. `unit` is the preferred one (`unknown` where it does not tell), `supported` all that could.
    """

    kind: str
    unit: str
    supported: list[str]
    operators: int
    cost_share: float | None
    obtained: Literal["planned"] = "planned"


class ProfileRecord(StrictModel):
    """One candidate, one device, one session. Records of one `session` were interleaved and may be set in ratio.

    `inputs` are the shapes of what it was called with, by name; empty in records of earlier releases. `threads` is None
    where a runtime divides the work itself, as Core ML does among the compute units it may use.
    `place` says which of the bundles that were named it belongs to, from 0. `interruptions` counts how often the
    session was stopped and resumed; what it had measured was kept. `nodes` says how many operators of one inference ran
    by which execution provider, where the runtime has several and tells.
    """

    record_version: int = RECORD_VERSION
    protocol_version: int
    session: str
    created: str
    place: int = 0
    bundle: str
    role: Literal["student", "teacher", "module"]
    target: str
    artifact_sha256: str
    artifact_bytes: int
    inputs: dict[str, list[int]] = {}
    device: Device
    runtime: str
    threads: int | None
    versions: dict[str, str]
    obtained: Obtained
    latency: Latency
    memory: Memory | None
    operators: list[OperatorTime]
    parity: Parity
    interruptions: int = 0
    unit: Unit | None = None
    placement: list[Placement] = []
    nodes: dict[str, int] = {}

    @property
    def busy(self) -> bool:
        """Whether other programs were likely to take part in the figures."""
        return self.device.others_share is not None and self.device.others_share > BUSY_SHARE

    @property
    def label(self) -> str:
        return f"{self.role} · {self.runs_on}"

    @property
    def runs_on(self) -> str:
        """The runtime without its version, and what it may run on where its name does not say it."""
        runtime = self.runtime.rsplit(" ", 1)[0]
        return runtime if self.unit is None or self.unit in runtime else f"{runtime}, {self.unit}"

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


class Failure(StrictModel):
    """A candidate without figures in a session: it `failed`, or the device was `lost` before it came to its turn."""

    session: str
    created: str
    place: int = 0
    bundle: str
    role: Literal["student", "teacher", "module"]
    target: str
    artifact_sha256: str
    device: Device
    kind: Literal["failed", "lost"]
    reason: str
    unit: Unit | None = None

    def __str__(self) -> str:
        word = {"failed": "failed", "lost": "was not measured, for the device was lost"}[self.kind]
        on = f" on {self.unit}" if self.unit is not None else ""
        return f"{self.target}{on} of {self.bundle} ({self.role}) {word}: {self.reason}"


class Profile(StrictModel):
    """What was measured, and what could not be.

    `errors` are of devices that gave nothing at all, and of passes behind the rounds that failed; a line each.
    """

    records: list[ProfileRecord]
    failures: list[Failure] = []
    errors: list[str] = []

    @property
    def troubles(self) -> list[str]:
        """All that went wrong, a line each."""
        return [*map(str, self.failures), *self.errors]

    def of(self, place: int) -> Profile:
        """The part that speaks of the `place`-th bundle that was named."""
        return Profile(
            records=[record for record in self.records if record.place == place],
            failures=[failure for failure in self.failures if failure.place == place],
        )
