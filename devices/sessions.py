"""A measuring session as a list of events: what is planned, what was found, and the records they make.

Events are kept in the store as they happen, so a session that was killed goes on from the last one.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Protocol

from pydantic import Field

from devices import protocol
from devices.records import (
    Device,
    Failure,
    Latency,
    Memory,
    Obtained,
    OperatorTime,
    Placement,
    Profile,
    ProfileRecord,
    Repeat,
    Unit,
)
from toolkit.bundle import Manifest, versions
from toolkit.errors import DeviceError
from toolkit.files import sha256, size_bytes
from toolkit.parity import Parity
from toolkit.schema import StrictModel


class Source(NamedTuple):
    """An artifact to measure: of which bundle, the `place`-th that was named, its file, where Core ML may run it."""

    place: int
    bundle: Path
    manifest: Manifest
    target: str
    path: Path
    unit: Unit | None = None


class Planned(StrictModel):
    """One candidate: an artifact of the `place`-th bundle that was named, and in browsers what computes it.

    `obtained` is given where it is not the plan's.
    """

    place: int
    bundle: str
    role: Literal["student", "teacher", "module"]
    target: str
    artifact_sha256: str
    artifact_bytes: int
    inputs: dict[str, list[int]] = {}
    unit: Unit | None = None
    obtained: Obtained | None = None


class Plan(StrictModel):
    """What a session is to measure. Two plans of one `fingerprint` ask for the same."""

    session: str
    created: str
    protocol_version: int
    device: Device
    threads: int | None
    schedule: protocol.Schedule
    obtained: Obtained
    versions: dict[str, str]
    candidates: list[Planned]

    @property
    def fingerprint(self) -> str:
        fields = {"protocol_version", "threads", "schedule", "obtained", "versions", "candidates"}
        asked = self.model_dump(mode="json", include=fields, exclude_none=True)
        device = self.device
        asked["device"] = [device.kind, device.name, device.model, device.system, device.emulated]
        asked["state"] = [device.clock_mode, device.charging, device.details.get("screen")]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class Loaded(StrictModel):
    """A candidate was loaded, proved on the sample and warmed up."""

    kind: Literal["loaded"] = "loaded"
    candidate: int
    runtime: str
    load_ms: float
    first_ms: float
    warmup_ms: list[float]
    parity: Parity
    batch: int = 1


class Began(StrictModel):
    """Rounds begin after a pause, or after a resumption. `repeat` counts from 0."""

    kind: Literal["began"] = "began"
    repeat: int
    started: str
    waited_s: float
    cooled: bool | None
    temperature_c: float | None
    clock_mhz: float | None


class Round(StrictModel):
    """The time of each candidate in one round; None where it was not called."""

    kind: Literal["round"] = "round"
    times_ms: list[float | None]


class MemoryFound(StrictModel):
    kind: Literal["memory"] = "memory"
    candidate: int
    memory: Memory


class OperatorsFound(StrictModel):
    kind: Literal["operators"] = "operators"
    candidate: int
    operators: list[OperatorTime]
    nodes: dict[str, int] = {}


class PlacementFound(StrictModel):
    kind: Literal["placement"] = "placement"
    candidate: int
    placement: list[Placement]


class Missed(StrictModel):
    """A pass behind the rounds failed; what was timed stands without it."""

    kind: Literal["missed"] = "missed"
    candidate: int
    what: Literal["memory", "operators"]
    reason: str


class Failed(StrictModel):
    """A candidate cannot be measured; nothing more is asked of it in this session."""

    kind: Literal["failed"] = "failed"
    candidate: int
    reason: str
    lost: bool = False


Event = Annotated[
    Loaded | Began | Round | MemoryFound | OperatorsFound | PlacementFound | Missed | Failed,
    Field(discriminator="kind"),
]


def plan(
    device: Device,
    candidates: Sequence[Source],
    threads: int | None,
    schedule: protocol.Schedule,
    obtained: Obtained = "measured",
) -> Plan:
    """A new session of these candidates."""
    return Plan(
        session=uuid.uuid4().hex,
        created=now(),
        protocol_version=protocol.VERSION,
        device=device,
        threads=threads,
        schedule=schedule,
        obtained=obtained,
        versions=versions(),
        candidates=[
            Planned(
                place=source.place,
                bundle=source.manifest.name,
                role=source.manifest.model.role,
                target=source.target,
                artifact_sha256=sha256(source.path),
                artifact_bytes=size_bytes(source.path),
                inputs={info.name: list(info.shape) for info in source.manifest.signature.inputs},
                unit=source.unit,
            )
            for source in candidates
        ],
    )


def now() -> str:
    """The time as records hold it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Watch(Protocol):
    """Somebody who looks on. Called by the thread that measures, between calls: so what it does must take no time."""

    def seen(self, session: Session, event: Event | None) -> None:
        """`event` was added; None at the session's beginning."""
        ...

    def said(self, session: Session, text: str) -> None:
        """What is being done now."""
        ...


class Stopped(Exception):
    """Somebody asked the session to stop; what it has is in the store."""


class Session:
    """A plan and what happened so far; `keep` is called with every new event before anything follows it.

    Where `stop` is set, by another thread, whatever is next raises `Stopped`, an event after it was kept.
    """

    def __init__(
        self,
        plan: Plan,
        events: Sequence[Event] = (),
        keep: Callable[[Event], None] = lambda _: None,
        watch: Watch | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self.plan, self.events = plan, list(events)
        self._keep, self._watch, self._stop = keep, watch, stop
        if watch is not None:
            watch.seen(self, None)

    def add(self, event: Event) -> None:
        self._keep(event)
        self.events.append(event)
        if self._watch is not None:
            self._watch.seen(self, event)
        self._go_on()

    def say(self, text: str) -> None:
        """Tell whoever looks on what is being done now."""
        if self._watch is not None:
            self._watch.said(self, text)
        self._go_on()

    def sleep(self, seconds: float) -> None:
        """Let time pass, unless the session is to stop."""
        if self._stop is None:
            time.sleep(seconds)
        else:
            self._stop.wait(seconds)
        self._go_on()

    def _go_on(self) -> None:
        if self._stop is not None and self._stop.is_set():
            raise Stopped

    def of(self, kind: type[StrictModel], candidate: int) -> StrictModel | None:
        """The last event of a kind that speaks of one candidate."""
        found = [e for e in self.events if isinstance(e, kind) and getattr(e, "candidate", None) == candidate]
        return found[-1] if found else None

    @property
    def rounds_done(self) -> int:
        return sum(isinstance(event, Round) for event in self.events)

    def left(self) -> list[tuple[int, int, int]]:
        """The repeats that are not whole: number, the round to go on with, and how many rounds are left in it."""
        length, done = self.plan.schedule.iterations, self.rounds_done
        found = []
        for repeat in range(self.plan.schedule.repeats):
            first = max(repeat * length, done)
            if first < (repeat + 1) * length:
                found.append((repeat, first, (repeat + 1) * length - first))
        return found

    def repeats(self, candidate: int) -> list[Repeat]:
        """The times of one candidate, in the stretches in which they were measured."""
        found: list[Repeat] = []
        for event in self.events:
            if isinstance(event, Began):
                found.append(Repeat(iterations_ms=[], **event.model_dump(exclude={"kind", "repeat"})))
            elif isinstance(event, Round) and (time := event.times_ms[candidate]) is not None:
                found[-1].iterations_ms.append(time)
        return [repeat for repeat in found if repeat.iterations_ms]

    def profile(self) -> Profile:
        """All that the session found; raises `DeviceError` where that is nothing but one failure or more."""
        records, failures = self._records(), self.failures()
        if not records and failures:
            raise DeviceError(failures[0].reason)
        return Profile(records=records, failures=failures, errors=self._missed())

    def _missed(self) -> list[str]:
        """The passes that failed last, where a later session did not make up for them."""
        found = []
        for number, planned in enumerate(self.plan.candidates):
            for what, kind in (("memory", MemoryFound), ("operators", OperatorsFound)):
                missed = [e for e in self.events if isinstance(e, Missed) and (e.candidate, e.what) == (number, what)]
                if missed and self.of(kind, number) is None:
                    name = f"{planned.target} of {planned.bundle} ({planned.role})"
                    found.append(f"{name}: the pass of its {what} failed, its times stand: {missed[-1].reason}")
        return found

    @property
    def hopeless(self) -> bool:
        """Whether nothing is left that could be measured."""
        return all(self.of(Failed, number) is not None for number in self._numbers())

    def lost(self, reason: str) -> list[Failure]:
        """What a device that is gone leaves: those that failed before, and all others as lost."""
        others = [n for n in self._numbers() if self.of(Failed, n) is None]
        return self.failures() + [self._failure(self.plan.candidates[n], reason, lost=True) for n in others]

    def failures(self) -> list[Failure]:
        """The candidates that cannot be measured."""
        failed = [self.of(Failed, number) for number in self._numbers()]
        return [
            self._failure(planned, event.reason, event.lost)
            for planned, event in zip(self.plan.candidates, failed, strict=True)
            if isinstance(event, Failed)
        ]

    def _failure(self, planned: Planned, reason: str, lost: bool) -> Failure:
        return Failure(
            **planned.model_dump(exclude={"artifact_bytes", "inputs", "obtained"}),
            session=self.plan.session,
            created=self.plan.created,
            device=self.plan.device,
            kind="lost" if lost else "failed",
            reason=reason,
        )

    def _records(self) -> list[ProfileRecord]:
        """Of every candidate that was loaded, has times and did not fail."""
        starts = [sum(isinstance(e, Loaded) and e.candidate == n for e in self.events) for n in self._numbers()]
        found = []
        for number, planned in enumerate(self.plan.candidates):
            loaded, repeats = self.of(Loaded, number), self.repeats(number)
            if not isinstance(loaded, Loaded) or not repeats or self.of(Failed, number) is not None:
                continue
            memory, operators = self.of(MemoryFound, number), self.of(OperatorsFound, number)
            placement = self.of(PlacementFound, number)
            found.append(
                ProfileRecord(
                    **planned.model_dump(exclude={"obtained"}),
                    protocol_version=self.plan.protocol_version,
                    session=self.plan.session,
                    created=self.plan.created,
                    device=self.plan.device,
                    runtime=loaded.runtime,
                    threads=self.plan.threads,
                    versions=self.plan.versions,
                    obtained=planned.obtained or self.plan.obtained,
                    latency=Latency(
                        load_ms=loaded.load_ms,
                        first_ms=loaded.first_ms,
                        warmup_ms=loaded.warmup_ms,
                        steady=protocol.is_steady(loaded.warmup_ms),
                        repeats=repeats,
                        batch=loaded.batch,
                    ),
                    memory=memory.memory if isinstance(memory, MemoryFound) else None,
                    operators=operators.operators if isinstance(operators, OperatorsFound) else [],
                    parity=loaded.parity,
                    interruptions=max(starts[number] - 1, 0),
                    placement=placement.placement if isinstance(placement, PlacementFound) else [],
                    nodes=operators.nodes if isinstance(operators, OperatorsFound) else {},
                )
            )
        return found

    def _numbers(self) -> range:
        return range(len(self.plan.candidates))
