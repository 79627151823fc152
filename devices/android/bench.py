"""An Android device as a bench: native runners in its shell, one for each candidate."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from devices.android import native_runner
from devices.android.adb import Phone
from devices.android.files import Depot
from devices.android.native_runner import NativeRunner, OutputFile
from devices.android.runner_files import RuntimeName, installed_runner, runner_files
from devices.android.state import Clocks, clock_mhz, temperature
from devices.host_runtimes import OPERATOR_RUNS, RUNTIME_ERRORS, read_etdump, read_onnxruntime_profile
from devices.parities import prove, sample, tolerance
from devices.records import Memory, Obtained, OperatorTime
from devices.sessions import Source
from toolkit.errors import DeviceError
from toolkit.parity import Parity

#: Which runner runs a target, by the target's first word.
RUNNERS: dict[str, RuntimeName] = {"executorch": "executorch", "onnx": "onnxruntime", "ort": "onnxruntime"}


def runtime_of(target: str) -> RuntimeName | None:
    """The runtime that a target is for; None where no native runner has it, or the target is for Apple's devices."""
    words = target.split("-")
    return None if "coreml" in words else RUNNERS.get(words[0])


@dataclass(frozen=True)
class Staged:
    """A candidate's files on the device: the runner's folder and program, and its whole command line.

    `scratch` is the folder for what the runtime writes by itself.
    """

    folder: str
    program: str
    arguments: list[str]
    scratch: str

    def command(self, *options: str) -> str:
        """For the device's shell. The runner's libraries lie beside it.

        The runner takes the shell's place, so that the signal of a connection that closes reaches it.
        """
        words = [f"{self.folder}/{self.program}", *self.arguments, *options]
        return f"export LD_LIBRARY_PATH={self.folder} TMPDIR={self.scratch}; exec {shlex.join(words)}"


class AndroidCandidate:
    """A runner that has loaded an artifact and waits for commands."""

    def __init__(
        self,
        runner: NativeRunner,
        ready: native_runner.Ready,
        first_ms: float,
        parity: Parity,
        operators: Callable[[], list[OperatorTime]],
        end: Callable[[], None],
    ) -> None:
        self._runner, self._operators, self._end = runner, operators, end
        self.runtime, self.load_ms, self.first_ms, self.parity = ready.runtime, ready.load_ms, first_ms, parity

    def measure(self) -> float:
        """One call to wake the clocks that sank while others ran, then the timed one."""
        return self._runner.run(1)

    def operators(self) -> list[OperatorTime]:
        return self._operators()

    def close(self) -> None:
        self._end()


class AndroidBench:
    """A phone for one session. `wait_s` and `stopped` bound the wait for it where it is lost."""

    def __init__(
        self,
        phone: Phone,
        abi: str,
        depot: Depot,
        clocks: Clocks,
        threads: int,
        obtained: Obtained,
        wait_s: float,
        stopped: Callable[[], bool],
    ) -> None:
        self._phone, self._abi, self._depot, self._clocks = phone, abi, depot, clocks
        self._threads, self._obtained, self._wait_s, self._stopped = threads, obtained, wait_s, stopped

    def load(self, source: Source) -> AndroidCandidate:
        staged = self._stage(source)
        with ExitStack() as stack:  # what was started ends where a step fails; else when the candidate is closed
            runner = stack.enter_context(self._started(source, staged))
            ready = runner.ready()
            first_ms = runner.run(0)
            parity = self._prove(source, self._outputs(runner, source), ready.runtime)
            return AndroidCandidate(
                runner, ready, first_ms, parity, lambda: self._operator_times(source, staged), stack.pop_all().close
            )

    def memory(self, source: Source) -> Memory:
        with self._started(source, self._stage(source), "--memory") as runner:
            return runner.memory()

    def temperature(self) -> float | None:
        return temperature(self._phone)

    def clock_mhz(self) -> float | None:
        return clock_mhz(self._phone)

    def recover(self) -> None:
        self._phone.wait(self._wait_s, self._stopped)
        self._clocks.hold_again(self._stopped)

    def _stage(self, source: Source) -> Staged:
        """Bring a candidate's files to the device, those that are not there."""
        runtime = runtime_of(source.target)
        program = installed_runner(self._abi, runtime) if runtime is not None else None
        if program is None:
            raise DeviceError(f"{source.path}: no runner for {source.target} on {self._abi}")
        folder = self._depot.place(runner_files(program), mode=0o700)
        model = f"{self._depot.place([source.path])}/{source.path.name}"
        inputs = self._place_inputs(source)
        words = native_runner.arguments(model, inputs, self._threads)
        return Staged(folder, program.name, words, self._depot.scratch_folder())

    def _place_inputs(self, source: Source) -> list[tuple[str, Sequence[int], str]]:
        """The sample's inputs as raw files: dtype, shape and path on the device."""
        given = sample(source.bundle, source.manifest).inputs
        found: list[tuple[str, Sequence[int], str]] = []
        with tempfile.TemporaryDirectory() as folder:
            for number, array in enumerate(given.values()):
                path = Path(folder) / f"input{number}.bin"
                path.write_bytes(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())
                found.append((array.dtype.name, array.shape, f"{self._depot.place([path])}/{path.name}"))
        return found

    @contextmanager
    def _started(self, source: Source, staged: Staged, *options: str) -> Iterator[NativeRunner]:
        """A runner of a candidate; at the end of the block it has ended, or its connection is closed, which ends it."""
        what = f"{source.path}: {runtime_of(source.target)} could not run it on {self._phone.name}"
        with self._phone.stream(staged.command(*options)) as lines:
            runner = NativeRunner(lines, what, self._phone.check)
            yield runner
            with contextlib.suppress(DeviceError):  # closing the connection ends it as well
                runner.quit()

    def _outputs(self, runner: NativeRunner, source: Source) -> list[np.ndarray]:
        files = runner.outputs(self._depot.scratch("output"))
        try:
            return [self._pulled(file, source) for file in files]
        finally:
            self._depot.remove([file.path for file in files])

    def _pulled(self, file: OutputFile, source: Source) -> np.ndarray:
        content = io.BytesIO()
        self._phone.pull(file.path, content)
        try:
            return np.frombuffer(content.getvalue(), np.dtype(file.dtype).newbyteorder("<")).reshape(file.shape)
        except (TypeError, ValueError) as error:
            raise DeviceError(
                f"{source.path}: the runner's output {file.path} is not what it says ({error})"
            ) from error

    def _prove(self, source: Source, outputs: Sequence[np.ndarray], runtime: str) -> Parity:
        expected = list(sample(source.bundle, source.manifest).expected.values())
        allowed = tolerance(source.manifest, source.target)
        return prove(source.path, outputs, expected, allowed, runtime, self._phone.name)

    def _operator_times(self, source: Source, staged: Staged) -> list[OperatorTime]:
        """By the runtime's own profile, in a process of its own: tracing slows what it measures."""
        path = self._depot.scratch("trace")
        with self._started(source, staged, "--trace") as runner:
            runner.ready()
            runner.run(OPERATOR_RUNS)
            written = runner.trace(path)
            content = io.BytesIO()
            try:
                self._phone.pull(written, content)
            finally:
                self._depot.remove([written])
        found = _read_trace(source, content.getvalue())
        is_vulkan = "vulkan" in source.target.split("-")
        return [
            row.model_copy(
                update={
                    "obtained": self._obtained,
                    "unit": "Vulkan" if is_vulkan and row.unit == "XNNPACK" else row.unit,
                }
            )
            for row in found
        ]


def _read_trace(source: Source, content: bytes) -> list[OperatorTime]:
    try:
        if runtime_of(source.target) == "onnxruntime":
            return read_onnxruntime_profile(json.loads(content))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "etdump.etdp"
            path.write_bytes(content)
            return read_etdump(path)
    except RUNTIME_ERRORS as error:
        raise DeviceError(f"{source.path}: the runner's profile cannot be read ({error})") from error
