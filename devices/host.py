"""Profile bundles on this machine: every runnable artifact and the PyTorch reference, interleaved in one session."""

from __future__ import annotations

import os
import platform
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil

from devices import memory, protocol
from devices.host_runtimes import RUNTIMES, Runtime, import_runtime, runtime_failures
from devices.records import Device, Latency, ProfileRecord
from toolkit.bundle import REFERENCE, SAMPLE, Artifact, Manifest, open_bundle, versions
from toolkit.errors import DeviceError, UserError
from toolkit.files import sha256, size_bytes
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


def profile_host(
    bundles: Sequence[Path], *, iterations: int = 20, threads: int | None = None, operators: bool = True
) -> list[ProfileRecord]:
    """Time every artifact of `bundles` that this host can run, and each bundle's PyTorch reference.

    Raises `CheckFailed` on a changed bundle, `DeviceError` where a runtime fails or an output is wrong.
    """
    if iterations < 1:
        raise UserError(f"--iterations {iterations}: at least 1")
    threads = threads or available_cores()
    if threads > available_cores():
        raise UserError(f"--threads {threads}: this machine has {available_cores()} cores; more threads only wait")
    device = describe_host()
    manifests = [(bundle, open_bundle(bundle)) for bundle in bundles]
    plans = [(b, m, target, path) for b, m in manifests for target, path in runnable(b, m)]
    total = len(plans) * (3 + int(operators)) + iterations
    with track("profile", total) as progress:
        candidates = []
        for number, (bundle, manifest, target, path) in enumerate(plans):
            progress.update(number, f"load {target} of {manifest.model.role}")
            candidates.append(load(bundle, manifest, target, path, threads))
        done = len(plans)
        timings = []
        for candidate in candidates:
            timings.append(protocol.warm_up(candidate))
            done += 1
            progress.update(done, "warm-up")
        protocol.interleave(
            candidates, timings, iterations, lambda n: progress.update(done + n, f"round {n}/{iterations}")
        )
        return _records(candidates, timings, device, threads, operators, progress, done + iterations)


def available_cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_host() -> Device:
    """This machine, as far as it tells."""
    clock = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    temperatures = [reading.current for readings in sensors.values() for reading in readings]
    return Device(
        kind="host",
        name=platform.node(),
        model=processor(),
        system=f"{platform.system()} {platform.release()}",
        cores=available_cores(),
        memory_bytes=psutil.virtual_memory().total,
        clock_mhz=round(clock.current, 1) if clock else None,
        temperature_c=max(temperatures) if temperatures else None,
        others_share=psutil.cpu_percent(interval=IDLE_SECOND) / 100,
    )


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


def _records(
    candidates: list[Candidate],
    timings: list[protocol.Timing],
    device: Device,
    threads: int,
    operators: bool,
    progress: Tracker,
    done: int,
) -> list[ProfileRecord]:
    session, created = uuid.uuid4().hex, datetime.now(UTC).isoformat(timespec="seconds")
    records = []
    for candidate, timing in zip(candidates, timings, strict=True):
        progress.update(done, f"memory of {candidate.target}")
        inputs = [info.name for info in signature(candidate.manifest).inputs]
        peak = memory.measure(candidate.kind, candidate.path, candidate.bundle / SAMPLE, inputs, threads)
        done += 1
        rows = []
        if operators:
            progress.update(done, f"operators of {candidate.target}")
            with runtime_failures(candidate.path, candidate.kind):
                rows = candidate.runtime.operators()
            done += 1
        records.append(
            ProfileRecord(
                protocol_version=protocol.VERSION,
                session=session,
                created=created,
                bundle=candidate.manifest.name,
                role=candidate.manifest.model.role,
                target=candidate.target,
                artifact_sha256=sha256(candidate.path),
                artifact_bytes=size_bytes(candidate.path),
                device=device,
                runtime=candidate.runtime.name,
                threads=threads,
                versions=versions(),
                obtained="measured",
                latency=Latency(
                    load_ms=candidate.load_ms,
                    first_ms=candidate.first_ms,
                    warmup_ms=timing.warmup_ms,
                    steady=timing.steady,
                    iterations_ms=timing.iterations_ms,
                ),
                memory=peak,
                operators=rows,
                parity=candidate.parity,
            )
        )
    progress.update(done, "done")
    return records


def processor() -> str:
    """This machine's processor by its own name."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
