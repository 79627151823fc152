"""Devices that are driven call by call: load, prove, warm up, time in rounds, and what follows.

A profiler writes a `Bench` for its kind of device; `drive` does to it what the protocol (`devices.protocol`) asks for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal, Protocol

from devices import protocol, sessions
from devices.records import Failure, Memory, OperatorTime
from devices.sessions import Session, Source
from toolkit.errors import DeviceError, UserError
from toolkit.parity import Parity

#: How often a lost device is waited for in one session.
RECOVERIES = 3


class DeviceLost(DeviceError):
    """The connection to a device is gone. `failures` are the candidates that were not measured to their end."""

    def __init__(self, message: str, failures: Sequence[Failure] = ()) -> None:
        super().__init__(message)
        self.failures = list(failures)


class Candidate(Protocol):
    """An artifact that a device has loaded, run once and proved on its sample.

    Every method raises `DeviceError` where the runtime fails and `DeviceLost` where the device is gone.
    """

    @property
    def runtime(self) -> str: ...
    @property
    def load_ms(self) -> float: ...
    @property
    def first_ms(self) -> float: ...
    @property
    def parity(self) -> Parity: ...
    def measure(self) -> float:
        """Milliseconds of one inference, by the device's own clock."""
        ...

    def operators(self) -> list[OperatorTime]:
        """Empty where the runtime tells nothing of its operators."""
        ...

    def close(self) -> None: ...


class Bench(Protocol):
    """A device under way. Every method raises `DeviceLost` where the device is gone."""

    def load(self, source: Source) -> Candidate:
        """Raises `DeviceError` where the artifact cannot be loaded or run, or its output is wrong."""
        ...

    def memory(self, source: Source) -> Memory | None:
        """From a process of its own; None where the device does not tell. Raises `DeviceError` where that fails."""
        ...

    def temperature(self) -> float | None:
        """Degrees Celsius."""
        ...

    def clock_mhz(self) -> float | None: ...
    def recover(self) -> None:
        """After `DeviceLost`: wait, not for ever, until the device is back; raises `DeviceLost` where it stays away."""
        ...


def drive(session: Session, sources: Sequence[Source], bench: Bench) -> None:
    """Do what is left of a session, and close what was loaded.

    A candidate that fails is noted and left out; the others go on. A device that is lost is waited for
    `RECOVERIES` times at most, and what was measured before stays. Raises `DeviceLost` where it stays away: the session
    can be resumed.
    """
    for attempt in range(RECOVERIES + 1):
        run = _Run(session, sources, bench)
        try:
            run()
            return
        except DeviceLost as lost:
            run.close()
            if attempt == RECOVERIES:
                raise _gone(session, lost) from lost
            session.say(f"lost: {lost}; waiting for the device")
            try:
                bench.recover()
            except DeviceLost as gone:
                raise _gone(session, gone) from gone
        finally:
            run.close()


def _gone(session: Session, lost: DeviceLost) -> DeviceLost:
    safe = f"{session.rounds_done} of {session.plan.schedule.rounds} rounds are in the store"
    return DeviceLost(f"{lost}; {safe}, and --resume goes on from there", session.lost(str(lost)))


class _Gone(Exception):
    """A candidate failed within a round."""


class _Run:
    """What is left of a session: a resumed one loads and warms up anew, for it runs in other processes."""

    def __init__(self, session: Session, sources: Sequence[Source], bench: Bench) -> None:
        self.session, self.sources, self.bench = session, sources, bench
        self.candidates: dict[int, Candidate] = {}

    def __call__(self) -> None:
        rounds = self.session.left()
        if rounds:
            self._each("loading", self._load)
            self._each("warming up", self._warm_up)
        for repeat, first, count in rounds:
            if self.candidates:
                self._measure(repeat, first, count)
        self._after("memory", self._memory)
        if self.session.plan.schedule.operators:
            self._after("operators", self._operators)

    def close(self) -> None:
        """Close every candidate; one that is gone already does not matter."""
        for candidate in self.candidates.values():
            with contextlib.suppress(DeviceError):
                candidate.close()
        self.candidates.clear()

    def _each(self, what: str, act: Callable[[int], None]) -> None:
        """Do something with every candidate that has not failed; one that fails now is left out from here on."""
        for number, source in enumerate(self.sources):
            if self.session.of(sessions.Failed, number) is None:
                self.session.say(f"{what} {source.target} of {source.manifest.model.role}")
                with self._noted(number):
                    act(number)

    def _after(self, what: Literal["memory", "operators"], act: Callable[[int], None]) -> None:
        """A pass behind the rounds: where it fails, what was timed stands without it."""
        for number, source in enumerate(self.sources):
            if self.session.of(sessions.Failed, number) is None:
                self.session.say(f"{what} of {source.target} of {source.manifest.model.role}")
                try:
                    act(number)
                except DeviceLost:
                    raise
                except DeviceError as error:
                    self.session.add(sessions.Missed(candidate=number, what=what, reason=str(error)))

    @contextmanager
    def _noted(self, number: int) -> Iterator[None]:
        try:
            yield
        except DeviceLost:
            raise
        except DeviceError as error:
            self.session.add(sessions.Failed(candidate=number, reason=str(error)))
            failed = self.candidates.pop(number, None)
            if failed is not None:
                with contextlib.suppress(DeviceError):
                    failed.close()

    def _load(self, number: int) -> None:
        self.candidates[number] = self.bench.load(self.sources[number])

    def _warm_up(self, number: int) -> None:
        candidate = self.candidates[number]
        before = self.session.of(sessions.Loaded, number)
        if isinstance(before, sessions.Loaded) and before.runtime != candidate.runtime:
            raise UserError(
                f"--resume: the session began with {before.runtime}, and now it is {candidate.runtime}; "
                "measure anew, without --resume"
            )
        warmup_ms = protocol.warm_up(candidate.measure)
        self.session.add(
            sessions.Loaded(
                candidate=number,
                runtime=candidate.runtime,
                load_ms=candidate.load_ms,
                first_ms=candidate.first_ms,
                warmup_ms=warmup_ms,
                parity=candidate.parity,
            )
        )

    def _measure(self, repeat: int, first: int, rounds: int) -> None:
        waited: float = 0.0
        cooled: bool | None = True  # the first repeat begins as the session does
        if self.session.rounds_done:
            self.session.say("letting the device cool")
            start = self.session.plan.device.temperature_c
            waited, cooled = protocol.cool_down(self.bench.temperature, start, sleep=self.session.sleep)
        self.session.add(
            sessions.Began(
                repeat=repeat,
                started=sessions.now(),
                waited_s=waited,
                cooled=cooled,
                temperature_c=self.bench.temperature(),
                clock_mhz=self.bench.clock_mhz(),
            )
        )
        end = first + rounds
        while self.session.rounds_done < end and self.candidates:
            with contextlib.suppress(_Gone):  # the others go on
                self._rounds(self.session.rounds_done, end)

    def _rounds(self, first: int, end: int) -> None:
        numbers = list(self.candidates)
        measures = [partial(self._call, number) for number in numbers]
        for times in protocol.interleaved(measures, first, end - first):
            found = dict(zip(numbers, times, strict=True))
            self.session.add(sessions.Round(times_ms=[found.get(number) for number in range(len(self.sources))]))

    def _call(self, number: int) -> float:
        with self._noted(number):
            return self.candidates[number].measure()
        raise _Gone

    def _memory(self, number: int) -> None:
        if self.session.of(sessions.MemoryFound, number) is None:
            found = self.bench.memory(self.sources[number])
            if found is not None:
                self.session.add(sessions.MemoryFound(candidate=number, memory=found))

    def _operators(self, number: int) -> None:
        if self.session.of(sessions.OperatorsFound, number) is None:
            if number not in self.candidates:
                self._load(number)
            self.session.add(sessions.OperatorsFound(candidate=number, operators=self.candidates[number].operators()))
