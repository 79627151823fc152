"""Profile bundles on this machine: every runnable artifact and the PyTorch reference, interleaved in one session."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from devices import memory, protocol, sessions
from devices.bench import drive
from devices.host_runtimes import RUNTIMES, Runtime, check_backend, import_runtime, runtime_failures
from devices.parities import REFERENCE_TARGET, prove, sample, tolerance
from devices.records import Device, Memory, OperatorTime, Profile
from devices.requests import Request
from devices.sessions import Source
from toolkit.bundle import REFERENCE, SAMPLE, Manifest, artifact_path, open_bundle
from toolkit.errors import UserError
from toolkit.machine import processor
from toolkit.parity import Parity

IDLE_SECOND = 1.0
CRASHING = {"executorch"}  # whose runtime takes the process with it on a damaged file


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
    engine: Runtime
    inputs: list[np.ndarray]
    load_ms: float
    first_ms: float
    parity: Parity

    @property
    def runtime(self) -> str:
        return self.engine.name

    def __call__(self) -> list[np.ndarray]:
        with runtime_failures(self.path, self.kind):
            return self.engine()

    def measure(self) -> float:
        """Milliseconds of one call."""
        return protocol.timed(self)

    def operators(self) -> list[OperatorTime]:
        """As the runtime has it; raises `DeviceError` where it fails."""
        with runtime_failures(self.path, self.kind):
            return self.engine.operators()

    def close(self) -> None:
        """The runtime lets go of it with the last reference."""


class HostBench:
    """This machine, in this process."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._memories: dict[Path, Memory] = {}

    def load(self, source: Source) -> Candidate:
        if source.target.split("-")[0] in CRASHING:
            self._memories[source.path] = self.memory(source)  # first, and in a process of its own: it may crash
        return load(source.bundle, source.manifest, source.target, source.path, self.threads)

    def memory(self, source: Source) -> Memory:
        if source.path in self._memories:
            return self._memories[source.path]
        inputs = [info.name for info in source.manifest.signature.inputs]
        return memory.measure(source.target.split("-")[0], source.path, source.bundle / SAMPLE, inputs, self.threads)

    def temperature(self) -> float | None:
        return temperature()

    def clock_mhz(self) -> float | None:
        return clock_mhz()

    def recover(self) -> None:
        """This machine is never lost."""


def profile_host(bundles: Sequence[Path], request: Request) -> Profile:
    """Time every artifact of `bundles` that this host can run, and each bundle's PyTorch reference.

    One that its runtime cannot run, or that gives wrong numbers, is a failure of the profile. Raises `CheckFailed` on a
    changed bundle and `DeviceError` where nothing at all can be run.
    """
    if request.which is not None:
        raise UserError(f"--device host:{request.which}: this machine is just `host`")
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
        drive(session, sources, HostBench(threads))
        return session.profile()


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


def describe_host(idle: bool = True) -> Device:
    """This machine, as far as it tells. With `idle`, a second passes to see what other programs take of it."""
    return Device(
        kind="host",
        name=platform.node(),
        model=processor(),
        system=f"{platform.system()} {platform.release()}",
        cores=available_cores(),
        memory_bytes=psutil.virtual_memory().total,
        clock_mhz=clock_mhz(),
        temperature_c=temperature(),
        others_share=psutil.cpu_percent(interval=IDLE_SECOND) / 100 if idle else None,
    )


def temperature() -> float | None:
    """The hottest sensor of this machine, in degrees Celsius; None where it has none."""
    sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    return max((reading.current for readings in sensors.values() for reading in readings), default=None)


def clock_mhz() -> float | None:
    """The processors' mean clock at this moment; None where the system does not tell."""
    clock = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    return round(clock.current, 1) if clock else None


def runnable(bundle: Path, manifest: Manifest) -> list[tuple[str, Path]]:
    """Targets and files that this host's runtimes run: the PyTorch reference, then the artifacts in their order."""
    found = [(a.target, artifact_path(bundle, a)) for a in manifest.artifacts if a.target.split("-")[0] in RUNTIMES]
    return [(REFERENCE_TARGET, bundle / REFERENCE), *found]


def load(bundle: Path, manifest: Manifest, target: str, path: Path, threads: int) -> Candidate:
    """Load, run once, and compare with the sample: what is wrong is neither worth timing nor using.

    Raises `DeviceError` where the runtime fails or the output is wrong.
    """
    kind = target.split("-")[0]
    inputs, expected = (list(arrays.values()) for arrays in sample(bundle, manifest))
    loaded: list[Runtime] = []
    import_runtime(kind)
    check_backend(path, target)
    outputs: list[np.ndarray] = []
    with runtime_failures(path, kind):
        load_ms = protocol.timed(lambda: loaded.append(RUNTIMES[kind](path, inputs, threads)))
        first_ms = protocol.timed(lambda: outputs.extend(loaded[0]()))
    parity = prove(path, outputs, expected, tolerance(manifest, target), loaded[0].name)
    return Candidate(bundle, manifest, target, path, kind, loaded[0], inputs, load_ms, first_ms, parity)
