"""Profile bundles on this Mac: Core ML artifacts by coremltools, for each choice of compute units.

`python -m devices.apple.mac MODEL UNITS SAMPLE STATEFUL INPUT...` is the memory pass, in a process of its own.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from devices import memory, parities, protocol, sessions
from devices.apple.coreml import UNITS, Backend, CoreMLTools, Model
from devices.bench import drive
from devices.host import describe_host
from devices.host_runtimes import runtime_failures
from devices.records import Device, Memory, OperatorTime, Profile
from devices.requests import Request
from devices.sessions import Session, Source
from toolkit.bundle import SAMPLE, artifact_path, open_bundle
from toolkit.children import command_of
from toolkit.errors import DeviceError, UserError
from toolkit.parity import Parity
from toolkit.sample import read_arrays

SYSCTL_TIMEOUT_S = 10.0
MEMORY_RUNS = 2

MemoryPass = Callable[[Source, Path], Memory]


@dataclass
class Candidate:
    """A Core ML model that is loaded, with its inputs; a call raises `DeviceError` where Core ML fails."""

    path: Path
    runtime: str
    model: Model
    feed: dict[str, np.ndarray]
    state: Any
    load_ms: float
    first_ms: float
    parity: Parity

    def measure(self) -> float:
        """Milliseconds of one call of coremltools' `predict`, its copies of inputs and outputs included."""
        with runtime_failures(self.path, "coreml"):
            return protocol.timed(lambda: predict(self.model, self.feed, self.state))

    def operators(self) -> list[OperatorTime]:
        """None: Core ML times no operators. Where it means to run them is the record's `placement`."""
        return []

    def close(self) -> None:
        """Core ML lets go of it with the last reference."""


class MacBench:
    """This Mac, in this process. Packages are compiled once, into `folder`."""

    def __init__(self, backend: Backend, folder: Path, memory_pass: MemoryPass) -> None:
        self.backend, self.folder, self.memory_pass = backend, folder, memory_pass
        self._compiled: dict[Path, Path] = {}

    def compiled(self, source: Source) -> Path:
        """The artifact as apps load it; raises `DeviceError` where Core ML refuses it."""
        if source.path not in self._compiled:
            into = Path(tempfile.mkdtemp(dir=self.folder))
            with runtime_failures(source.path, "coreml"):
                self._compiled[source.path] = self.backend.compile(source.path, into)
        return self._compiled[source.path]

    def load(self, source: Source) -> Candidate:
        compiled, artifact = self.compiled(source), source.manifest.artifact(source.target)
        sample = parities.sample(source.bundle, source.manifest)
        feed = {info.name: sample.inputs[info.name].astype(info.dtype) for info in artifact.inputs}
        loaded: list[Model] = []
        outputs: dict[str, Any] = {}
        assert source.unit is not None
        units = source.unit

        def call(given: dict[str, np.ndarray]) -> float:
            return protocol.timed(lambda: outputs.update(predict(loaded[0], given, state)))

        with runtime_failures(source.path, "coreml"):
            load_ms = protocol.timed(lambda: loaded.append(self.backend.load(compiled, units)))
            state = loaded[0].make_state() if parities.keeps_states(artifact) else None
            first_ms, *_ = [call(given) for given in (*parities.earlier_steps(source.bundle, artifact), feed)]
        parity = self._prove(source, outputs)
        return Candidate(source.path, self.backend.name, loaded[0], feed, state, load_ms, first_ms, parity)

    def _prove(self, source: Source, outputs: dict[str, Any]) -> Parity:
        names = [info.name for info in source.manifest.artifact(source.target).outputs]
        missing = [name for name in names if name not in outputs]
        if missing:
            raise DeviceError(f"{source.path}: has no output called {', '.join(missing)}; export again")
        expected = parities.sample(source.bundle, source.manifest).expected
        return parities.prove(
            f"{source.path} on {source.unit}",
            [np.asarray(outputs[name], np.float32) for name in names],
            [expected[name] for name in names],
            parities.tolerance(source.manifest, source.target),
            self.backend.name,
        )

    def memory(self, source: Source) -> Memory:
        return self.memory_pass(source, self.compiled(source))

    def temperature(self) -> float | None:
        """macOS does not tell it."""
        return None

    def clock_mhz(self) -> float | None:
        """macOS does not tell it."""
        return None

    def recover(self) -> None:
        """This machine is never lost."""


def profile_mac(bundles: Sequence[Path], request: Request, backend: Backend | None = None) -> Profile:
    """Time every Core ML artifact of `bundles` on this Mac, once for each of `request.compute_units`.

    Raises `UserError` on a machine that is no Mac and on bundles without a Core ML artifact, `CheckFailed` on a changed
    bundle, `DeviceError` where nothing can be run. `backend` stands in for coremltools.
    """
    if request.which is not None:
        raise UserError(f"--device mac:{request.which}: this machine is just `mac`")
    if backend is None and not is_mac():
        raise UserError("--device mac: this machine is no Mac, and Core ML runs on Apple's only; use `host` here")
    manifests = [(bundle, open_bundle(bundle)) for bundle in bundles]
    sources = [
        Source(place, bundle, manifest, artifact.target, artifact_path(bundle, artifact), units)
        for place, (bundle, manifest) in enumerate(manifests)
        for artifact in manifest.artifacts
        if artifact.target.startswith("coreml-") and not artifact.has_pictures
        for units in request.compute_units
    ]
    if not sources:
        raise UserError("--device mac: no bundle holds a Core ML artifact; export with --target coreml-fp16")
    plan = sessions.plan(describe_mac(), sources, None, request.schedule)
    with (
        request.journal.session(plan, request.resume) as session,
        tempfile.TemporaryDirectory(prefix="handheld-coreml-") as folder,
    ):
        bench = MacBench(backend or CoreMLTools(), Path(folder), measure_memory)
        drive(session, sources, bench)
        if request.schedule.operators:
            add_placements(session, sources, bench)
        return session.profile()


def add_placements(session: Session, sources: Sequence[Source], bench: MacBench) -> None:
    """Core ML's plan of every candidate that was measured. The figures stand without it."""
    for number, source in enumerate(sources):
        done = session.of(sessions.Failed, number) or session.of(sessions.PlacementFound, number)
        if done is not None or source.unit is None:
            continue
        try:
            with runtime_failures(source.path, "coreml"):
                placement = bench.backend.plan(bench.compiled(source), source.unit)
        except DeviceError as error:
            session.say(f"no plan: {error}")
            continue
        session.add(sessions.PlacementFound(candidate=number, placement=placement))


def predict(model: Model, feed: dict[str, np.ndarray], state: Any) -> dict[str, Any]:
    return model.predict(feed) if state is None else model.predict(feed, state)


def is_mac() -> bool:
    """Whether this machine runs macOS."""
    return sys.platform == "darwin"


def describe_mac(idle: bool = True) -> Device:
    """This machine as a device of Core ML's."""
    host = describe_host(idle)
    system = f"macOS {platform.mac_ver()[0]}" if is_mac() else host.system
    return host.model_copy(update={"kind": "apple", "model": _processor() or host.model, "system": system})


def _processor() -> str:
    try:
        done = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, timeout=SYSCTL_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def measure_memory(source: Source, compiled: Path) -> Memory:
    """Peak memory of a process that loads and runs a compiled model; raises `DeviceError` where it fails."""
    artifact = source.manifest.artifact(source.target)
    stateful = "stateful" if parities.keeps_states(artifact) else "stateless"
    words = [str(compiled), str(source.unit), str(source.bundle / SAMPLE), stateful]
    inputs = [f"{info.name}:{info.dtype}" for info in artifact.inputs]
    return memory.of_command([*command_of("devices.apple.mac"), *words, *inputs], source.path)


def main(compiled: str, units: str, sample: str, stateful: str, *inputs: str) -> None:
    import coremltools  # noqa: F401  an app links its runtime, it does not import it

    arrays = read_arrays(Path(sample))
    feed = {name: arrays[name].astype(dtype) for name, _, dtype in (entry.partition(":") for entry in inputs)}
    chosen = next(name for name in UNITS if name == units)

    def load_and_run() -> None:
        model = CoreMLTools().load(Path(compiled), chosen)
        state = model.make_state() if stateful == "stateful" else None
        for _ in range(MEMORY_RUNS):
            predict(model, feed, state)

    print(memory.peak_of(load_and_run).model_dump_json())


if __name__ == "__main__":
    main(*sys.argv[1:])
