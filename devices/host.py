"""Profile bundles on this machine: every runnable artifact and the PyTorch reference, interleaved in one session."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from devices import memory, protocol, sessions
from devices.host_runtimes import RUNTIMES, Runtime, import_runtime, runtime_failures
from devices.records import Device, OperatorTime, Profile
from devices.requests import Request
from devices.sessions import Session, Source
from toolkit.bundle import REFERENCE, SAMPLE, Artifact, Manifest, open_bundle
from toolkit.errors import DeviceError, UserError
from toolkit.parity import Execution, Parity, Tolerance, compare
from toolkit.progress import Tracker, track

REFERENCE_TARGET = "reference"
IDLE_SECOND = 1.0
REFERENCE_TOLERANCE = Tolerance(max_share=1e-4)


@dataclass
class Candidate:
    """One thing to run, loaded. It reads `inputs` anew at every call: write other values into them.

    A call raises `DeviceError` where the runtime fails.
    """

    bundle: Path
    manifest: Manifest
    target: str
    path: Path
    kind: str
    runtime: Runtime
    inputs: list[np.ndarray]
    load_ms: float
    first_ms: float
    parity: Parity

    def __call__(self) -> list[np.ndarray]:
        with runtime_failures(self.path, self.kind):
            return self.runtime()

    def operators(self) -> list[OperatorTime]:
        """As the runtime has it; raises `DeviceError` where it fails."""
        with runtime_failures(self.path, self.kind):
            return self.runtime.operators()

    def loaded(self, number: int, warmup_ms: list[float]) -> sessions.Loaded:
        """What a session notes of it."""
        return sessions.Loaded(
            candidate=number,
            runtime=self.runtime.name,
            load_ms=self.load_ms,
            first_ms=self.first_ms,
            warmup_ms=warmup_ms,
            parity=self.parity,
        )


def profile_host(bundles: Sequence[Path], request: Request) -> Profile:
    """Time every artifact of `bundles` that this host can run, and each bundle's PyTorch reference.

    One that its runtime cannot run, or that gives wrong numbers, is a failure of the profile. Raises `CheckFailed` on a
    changed bundle and `DeviceError` where nothing at all can be run.
    """
    threads = request.threads or available_cores()
    if threads > available_cores():
        raise UserError(f"--threads {threads}: this machine has {available_cores()} cores; more threads only wait")
    manifests = [(bundle, open_bundle(bundle)) for bundle in bundles]
    sources = [
        Source(place, bundle, manifest, target, path)
        for place, (bundle, manifest) in enumerate(manifests)
        for target, path in runnable(bundle, manifest)
    ]
    plan = sessions.plan(describe_host(), sources, threads, request.schedule)
    with request.journal.session(plan, request.resume) as session, pinned(threads):
        total = len(sources) * (4 + int(request.schedule.operators)) + request.schedule.rounds
        with track("profile", total) as progress:
            _Run(session, sources, threads, progress)()
        return session.profile()


class _Gone(Exception):
    """A candidate failed within a round."""


class _Run:
    """What is left of a session: a resumed one loads and warms up anew, for it runs in another process."""

    def __init__(
        self,
        session: Session,
        sources: Sequence[Source],
        threads: int,
        progress: Tracker,
    ) -> None:
        self.session, self.sources, self.threads, self.progress = session, sources, threads, progress
        self.candidates: dict[int, Candidate] = {}
        self.done = 0

    def __call__(self) -> None:
        rounds = self.session.left()
        if rounds:
            self._each("load", self._load)
            self._each("warm up", self._warm_up)
        self._step("rounds", self.session.rounds_done)
        for repeat, first, count in rounds:
            if self.candidates:
                self._measure(repeat, first, count)
        self._each("memory of", self._memory)
        if self.session.plan.schedule.operators:
            self._each("operators of", self._operators)
        self.progress.update(self.progress.total, "done")

    def _step(self, what: str, steps: int = 1) -> None:
        self.done += steps
        self.progress.update(self.done, what)

    def _each(self, what: str, act: Callable[[int], None]) -> None:
        """Do something with every candidate that has not failed; one that fails now is left out from here on."""
        for number, source in enumerate(self.sources):
            self._step(f"{what} {source.target} of {source.manifest.model.role}")
            if self.session.of(sessions.Failed, number) is None:
                with self._noted(number):
                    act(number)

    @contextmanager
    def _noted(self, number: int) -> Iterator[None]:
        try:
            yield
        except DeviceError as error:
            self.session.add(sessions.Failed(candidate=number, reason=str(error)))
            self.candidates.pop(number, None)

    def _load(self, number: int) -> None:
        self.candidates[number] = load(*self.sources[number][1:], self.threads)

    def _warm_up(self, number: int) -> None:
        candidate = self.candidates[number]
        self.session.add(candidate.loaded(number, protocol.warm_up(candidate)))

    def _measure(self, repeat: int, first: int, rounds: int) -> None:
        waited, cooled = 0.0, True
        if repeat:
            waited, cooled = protocol.cool_down(temperature, self.session.plan.device.temperature_c)
        self.session.add(
            sessions.Began(
                repeat=repeat,
                started=sessions.now(),
                waited_s=waited,
                cooled=cooled,
                temperature_c=temperature(),
                clock_mhz=clock_mhz(),
            )
        )
        end = first + rounds
        while self.session.rounds_done < end and self.candidates:
            with contextlib.suppress(_Gone):  # the others go on
                self._rounds(self.session.rounds_done, end)

    def _rounds(self, first: int, end: int) -> None:
        numbers = list(self.candidates)
        calls = [partial(self._call, number) for number in numbers]
        for times in protocol.interleaved(calls, first, end - first):
            found = dict(zip(numbers, times, strict=True))
            self.session.add(sessions.Round(times_ms=[found.get(number) for number in range(len(self.sources))]))
            self._step(f"round {self.session.rounds_done}/{self.session.plan.schedule.rounds}")

    def _call(self, number: int) -> None:
        candidate = self.candidates[number]
        with self._noted(number):
            candidate()
            return
        raise _Gone

    def _memory(self, number: int) -> None:
        _, bundle, manifest, target, path = self.sources[number]
        if self.session.of(sessions.MemoryFound, number) is None:
            inputs = [info.name for info in signature(manifest).inputs]
            peak = memory.measure(target.split("-")[0], path, bundle / SAMPLE, inputs, self.threads)
            self.session.add(sessions.MemoryFound(candidate=number, memory=peak))

    def _operators(self, number: int) -> None:
        if self.session.of(sessions.OperatorsFound, number) is None:
            loaded = self.candidates.get(number) or load(*self.sources[number][1:], self.threads)
            self.session.add(sessions.OperatorsFound(candidate=number, operators=loaded.operators()))


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Keep this process to as many processors as it has threads, where the system allows it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def available_cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_host() -> Device:
    """This machine, as far as it tells."""
    return Device(
        kind="host",
        name=platform.node(),
        model=processor(),
        system=f"{platform.system()} {platform.release()}",
        cores=available_cores(),
        memory_bytes=psutil.virtual_memory().total,
        clock_mhz=clock_mhz(),
        temperature_c=temperature(),
        others_share=psutil.cpu_percent(interval=IDLE_SECOND) / 100,
    )


def temperature() -> float | None:
    """The hottest sensor of this machine, in degrees Celsius; None where it has none."""
    sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    return max((reading.current for readings in sensors.values() for reading in readings), default=None)


def clock_mhz() -> float | None:
    """The processors' mean clock at this moment; None where the system does not tell."""
    clock = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    return round(clock.current, 1) if clock else None


def signature(manifest: Manifest) -> Artifact:
    """The artifact whose inputs and outputs are those of the bundle's reference: one that does not hide its states."""
    return max(manifest.artifacts, key=lambda artifact: len(artifact.inputs))


def runnable(bundle: Path, manifest: Manifest) -> list[tuple[str, Path]]:
    """Targets and files that this host's runtimes run: the PyTorch reference, then the artifacts in their order."""
    found = [(a.target, bundle / a.path) for a in manifest.artifacts if a.target.split("-")[0] in RUNTIMES]
    return [(REFERENCE_TARGET, bundle / REFERENCE), *found]


def load(bundle: Path, manifest: Manifest, target: str, path: Path, threads: int) -> Candidate:
    """Load, run once, and compare with the sample: what is wrong is neither worth timing nor using.

    Raises `DeviceError` where the runtime fails or the output is wrong.
    """
    kind = target.split("-")[0]
    described = signature(manifest)
    with np.load(bundle / SAMPLE) as sample:
        inputs = [sample[info.name] for info in described.inputs]
        expected = [sample[info.name] for info in described.outputs]
    loaded: list[Runtime] = []
    import_runtime(kind)
    outputs: list[np.ndarray] = []
    with runtime_failures(path, kind):
        load_ms = protocol.timed(lambda: loaded.append(RUNTIMES[kind](path, inputs, threads)))
        first_ms = protocol.timed(lambda: outputs.extend(loaded[0]()))
    tolerance = REFERENCE_TOLERANCE if target == REFERENCE_TARGET else manifest.artifact(target).parity.tolerance
    parity = compare(Execution(outputs, "executed", loaded[0].name), expected, tolerance)
    if not parity.passed:
        raise DeviceError(f"{path}: wrong output on this machine ({parity}); it was not used")
    return Candidate(bundle, manifest, target, path, kind, loaded[0], inputs, load_ms, first_ms, parity)


def processor() -> str:
    """This machine's processor by its own name."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
