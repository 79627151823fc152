"""A session on an iPhone: passes of the runner app, what they tell made into the session's events."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from devices import parities, sessions
from devices.apple import jobs
from devices.apple.iphone_app import AppEnded, RunnerApp
from devices.apple.jobs import Job, JobCandidate, Pass, Proved, Told
from devices.bench import RECOVERIES, DeviceLost
from devices.records import Memory
from devices.sessions import Session, Source
from toolkit.errors import DeviceError
from toolkit.parity import Parity

WAIT_STEP_S = 5.0


class Measurement:
    """What is left of a session, on one phone. Calling it does all of that, and waits for a phone that was lost."""

    def __init__(
        self,
        session: Session,
        sources: Sequence[Source],
        app: RunnerApp,
        held: dict[str, int],
        wait_s: float,
        keep: bool,
    ) -> None:
        self.session, self.sources, self.app, self.held = session, sources, app, dict(held)
        self.wait_s, self.keep = wait_s, keep
        self.job = session.plan.session[:12]
        self._inputs: set[str] = set()
        self._proofs: dict[int, tuple[Proved, Parity]] = {}

    def __call__(self) -> None:
        """Raises `DeviceLost` where the phone stays away: the session can be resumed."""
        for attempt in range(RECOVERIES + 1):
            try:
                self._leftovers()
                self._all()
                return
            except DeviceLost as lost:
                if attempt == RECOVERIES:
                    raise self._gone(lost) from lost
                self.session.say(f"lost: {lost}; waiting for the device")
                self._recover(lost)

    def clean(self) -> None:
        """Remove from the phone what was copied to it and what the app wrote; models stay where `keep` says so."""
        with closing(self.app.run("clean", self._job(range(len(self.sources))))) as told:
            for _ in told:
                pass

    def _all(self) -> None:
        while self.session.left() and self._alive():
            before = (self.session.rounds_done, len(self._alive()))
            self._prove()
            self._measure()
            if before == (self.session.rounds_done, len(self._alive())):
                raise DeviceError(f"{self.app.phone.name}: the runner app told of no round; build and install it anew")
        for number in self._alive():
            self._memory(number)
        if self.session.plan.schedule.operators:
            self._plan()

    # what goes wrong

    def _alive(self) -> list[int]:
        return [n for n in range(len(self.sources)) if self.session.of(sessions.Failed, n) is None]

    def _fail(self, number: int, reason: str) -> None:
        self.session.add(sessions.Failed(candidate=number, reason=reason))

    def _gone(self, lost: DeviceLost) -> DeviceLost:
        done = f"{self.session.rounds_done} of {self.session.plan.schedule.rounds} rounds are in the store"
        return DeviceLost(f"{lost}; {done}, and --resume goes on from there", self.session.lost(str(lost)))

    def _recover(self, lost: DeviceLost) -> None:
        """Wait until the phone is within reach again; raises `DeviceLost` after `wait_s` seconds."""
        end = time.monotonic() + self.wait_s
        while True:
            if self.app.is_there():
                return
            if time.monotonic() > end:
                raise self._gone(lost) from lost
            time.sleep(min(WAIT_STEP_S, max(0.05, self.wait_s / 20)))

    def _leftovers(self) -> None:
        """What earlier launches found and could not be fetched then. Rounds that were finished are not lost."""
        if not self.session.left():
            return
        proved = [event for event in self.app.events("prove", self.job) if isinstance(event, Proved)]
        for number, event in {event.candidate: event for event in proved}.items():
            if number in self._alive() and number not in self._proofs:
                self._judge(event)
        rounds = _Rounds(self.session)
        for told in self.app.events("measure", self.job):
            if isinstance(told, jobs.Warmed) and self.session.of(sessions.Loaded, told.candidate) is None:
                self._loaded(told)
            rounds.take(told)

    # passes

    def _pass(
        self, work: Pass, numbers: Sequence[int], take: Callable[[Told], None], candidate: int | None = None
    ) -> None:
        """A pass over some candidates: `take` is given what the app tells, but for what it tells of others.

        A candidate that fails is noted. One at which the app breaks off is too, and the pass ends.
        """
        self._push(numbers)
        names = {number: self._named(number) for number in numbers}
        try:
            with closing(self.app.run(work, self._job(numbers), candidate)) as told:
                for event in told:
                    number: int | None = getattr(event, "candidate", None)
                    if number is not None and number not in names:
                        continue
                    if isinstance(event, jobs.Step):
                        self.session.say(
                            event.what if event.candidate is None else f"{event.what}: {names[event.candidate]}"
                        )
                    elif isinstance(event, jobs.CandidateFailed) and work != "plan":
                        self._fail(event.candidate, f"{names[event.candidate]}: {event.stage} failed ({event.message})")
                    take(event)
        except AppEnded as ended:
            if ended.candidate not in names:
                raise
            if work == "plan":
                self.session.say(f"no plan: {ended}")
                return
            self._fail(ended.candidate, f"{names[ended.candidate]}: {ended}")

    def _prove(self) -> None:
        """Load and run all that are alive, and compare their outputs; again without one at which the app broke off."""
        while waiting := [n for n in self._alive() if n not in self._proofs]:
            before = len(self._alive())
            self._pass("prove", waiting, lambda event: self._judge(event) if isinstance(event, Proved) else None)
            if len(self._alive()) == before and [n for n in self._alive() if n not in self._proofs] == waiting:
                raise DeviceError(f"{self.app.phone.name}: the runner app proved nothing; build and install it anew")

    def _judge(self, proved: Proved) -> None:
        """The outputs on the phone against the bundle's sample; a wrong one is not timed."""
        source = self.sources[proved.candidate]
        sample = parities.sample(source.bundle, source.manifest)
        expected = [sample.expected[info.name] for info in source.manifest.artifact(source.target).outputs]
        allowed = parities.tolerance(source.manifest, source.target)
        try:
            outputs = [_array(self.app.pull(output.file, _size(output)), output) for output in proved.outputs]
            parity = parities.prove(self._named(proved.candidate), outputs, expected, allowed, proved.runtime)
        except DeviceLost:
            raise
        except DeviceError as error:
            self._fail(proved.candidate, str(error))
            return
        self._proofs[proved.candidate] = (proved, parity)

    def _measure(self) -> None:
        numbers = self._alive()
        if not numbers:
            return
        rounds = _Rounds(self.session)

        def take(event: Told) -> None:
            if isinstance(event, jobs.Warmed):
                self._loaded(event)
            rounds.take(event)

        self._pass("measure", numbers, take)

    def _loaded(self, warmed: jobs.Warmed) -> None:
        if warmed.candidate not in self._proofs:
            return
        proved, parity = self._proofs[warmed.candidate]
        self.session.add(
            sessions.Loaded(
                candidate=warmed.candidate,
                runtime=proved.runtime,
                load_ms=proved.load_ms,
                first_ms=proved.first_ms,
                warmup_ms=warmed.warmup_ms,
                parity=parity,
            )
        )

    def _memory(self, number: int) -> None:
        if self.session.of(sessions.MemoryFound, number) is not None:
            return

        def take(event: Told) -> None:
            if isinstance(event, jobs.MemoryTaken):
                found = Memory(baseline_bytes=event.baseline_bytes, peak_bytes=event.peak_bytes)
                self.session.add(sessions.MemoryFound(candidate=number, memory=found))

        self._pass("memory", [number], take, number)

    def _plan(self) -> None:
        """Core ML's plan. Without one the figures are as good: it is not asked twice."""
        found = (n for n in self._alive() if self.session.of(sessions.PlacementFound, n) is None)
        numbers = [n for n in found if self.session.plan.candidates[n].unit is not None]

        def take(event: Told) -> None:
            if isinstance(event, jobs.Placed):
                self.session.add(sessions.PlacementFound(candidate=event.candidate, placement=event.placement))

        if numbers:
            self._pass("plan", numbers, take)

    # what is copied

    def _named(self, number: int) -> str:
        source = self.sources[number]
        units = f" on {source.unit}" if source.unit is not None else ""
        return f"{source.path}{units}"

    def _model(self, number: int) -> str:
        suffix = ".pte" if self.sources[number].path.is_file() else ".tar"
        return self.session.plan.candidates[number].artifact_sha256[:32] + suffix

    def _job(self, numbers: Sequence[int]) -> Job:
        schedule = self.session.plan.schedule
        return Job(
            job=self.job,
            candidates=[self._candidate(number) for number in numbers],
            total=len(self.sources),
            repeats=schedule.repeats,
            iterations=schedule.iterations,
            first_round=self.session.rounds_done,
            keep=self.keep,
        )

    def _candidate(self, number: int) -> JobCandidate:
        source = self.sources[number]
        artifact = source.manifest.artifact(source.target)
        return JobCandidate(
            candidate=number,
            runtime="coreml" if source.unit is not None else "executorch",
            model=self._model(number),
            bytes=self.held.get(self._model(number), 0),
            compute_units=source.unit,
            stateful=parities.keeps_states(artifact),
            inputs=self._tensors(source),
            before=[
                self._tensors(source, number) for number in range(len(parities.earlier_steps(source.bundle, artifact)))
            ],
            outputs=[info.name for info in artifact.outputs],
        )

    def _tensors(self, source: Source, step: int | None = None) -> list[jobs.Tensor]:
        """The inputs of the call that is compared and timed, or of an earlier step of a stream."""
        return [
            jobs.Tensor(
                name=info.name, dtype=info.dtype, shape=list(info.shape), file=self._input(source, info.name, step)
            )
            for info in source.manifest.artifact(source.target).inputs
        ]

    def _input(self, source: Source, name: str, step: int | None) -> str:
        at = "" if step is None else f"-{step}"
        return f"{self.job}-input-{source.place}-{name}{at}.bin"

    def _push(self, numbers: Sequence[int]) -> None:
        """Copy what these candidates need and the phone does not have."""
        with tempfile.TemporaryDirectory(prefix="handheld-iphone-") as name:
            folder = Path(name)
            for number in numbers:
                source, model = self.sources[number], self._model(number)
                if model not in self.held:
                    packed = jobs.pack(source.path, folder / model)
                    size = packed.stat().st_size
                    self.session.say(f"copying {source.target} ({size / 1e6:.0f} MB)")
                    self.app.push(packed, f"{jobs.MODELS}/{model}")
                    self.held[model] = size
                self._push_inputs(source, folder)

    def _push_inputs(self, source: Source, folder: Path) -> None:
        artifact = source.manifest.artifact(source.target)
        sample = parities.sample(source.bundle, source.manifest)
        self._push_arrays(source, sample.inputs, None, folder)
        for number, arrays in enumerate(parities.earlier_steps(source.bundle, artifact)):
            self._push_arrays(source, arrays, number, folder)

    def _push_arrays(self, source: Source, arrays: dict[str, np.ndarray], step: int | None, folder: Path) -> None:
        for info in source.manifest.artifact(source.target).inputs:
            name = self._input(source, info.name, step)
            if name not in self._inputs:
                path = folder / name
                path.write_bytes(np.ascontiguousarray(arrays[info.name]).astype(_dtype(info.dtype)).tobytes())
                self.app.push(path, name)
                self._inputs.add(name)


class _Rounds:
    """Rounds as the app tells them. Only the one that is next is taken: one that was missed is asked for again."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._began: sessions.Began | None = None

    def take(self, event: Told) -> None:
        if isinstance(event, jobs.BeganRepeat):
            self._began = sessions.Began(
                repeat=event.repeat,
                started=event.started,
                waited_s=event.waited_s,
                cooled=event.cooled,
                temperature_c=None,
                clock_mhz=None,
            )
        elif isinstance(event, jobs.TimedRound) and self._is_next(event):
            if self._began is not None:
                self._session.add(self._began)
                self._began = None
            self._session.add(sessions.Round(times_ms=event.times_ms))

    def _is_next(self, event: jobs.TimedRound) -> bool:
        timed = [number for number, time_ms in enumerate(event.times_ms) if time_ms is not None]
        known = all(self._session.of(sessions.Loaded, number) is not None for number in timed)
        whole = len(event.times_ms) == len(self._session.plan.candidates)
        began = self._began is not None or any(isinstance(e, sessions.Began) for e in self._session.events)
        return event.number == self._session.rounds_done and known and whole and began


@contextmanager
def cleaned(measurement: Measurement) -> Iterator[None]:
    """Clean the phone at the end, unless it was lost: then the session may be resumed, and needs what is there."""
    try:
        yield
    except DeviceLost:
        raise
    except BaseException:
        _clean(measurement)
        raise
    _clean(measurement)


def _clean(measurement: Measurement) -> None:
    try:
        measurement.clean()
    except DeviceError as error:
        measurement.session.say(f"not cleaned: {error}")


def _dtype(name: str) -> np.dtype[np.generic]:
    return np.dtype(name).newbyteorder("<")


def _array(content: bytes, output: jobs.OutputFile) -> np.ndarray:
    """An output that the app wrote; raises `DeviceError` where the file does not hold what was said of it."""
    if len(content) != _size(output):
        raise DeviceError(f"{output.file}: has {len(content)} bytes and should have {_size(output)}; it was not used")
    return np.frombuffer(content, _dtype(output.dtype)).reshape(output.shape)


def _size(output: jobs.OutputFile) -> int:
    return int(np.prod(output.shape)) * np.dtype(output.dtype).itemsize
