"""Several artifacts at once, made by processes of their own (`export.worker`), as many as memory allows."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from torch import nn
from torch._ops import OpOverload
from torch.export import ExportedProgram

from export import handover
from export.handover import Material
from export.targets import Target
from export.worker import Answer, Failure, Job
from toolkit import errors
from toolkit.bundle import Artifact
from toolkit.errors import DeviceError, HandheldError
from toolkit.machine import available_bytes

SECONDS_BETWEEN_LOOKS = 0.1
#: A process of its own is assumed to pay from this size on: below, starting Python and torch takes longer.
WORTHWHILE_OPERATORS = 300
#: A model of so many modules is taken to become so many operators, before it is lowered.
WORTHWHILE_MODULES = 150
#: What a conversion is assumed to need at most: an interpreter with its libraries, the copies of the weights that
#: tracing and serializing make, and the activations of one call, PyTorch's and the artifact's.
BASE_BYTES, WEIGHT_COPIES, ACTIVATION_COPIES = 1 << 30, 12, 3
#: Prepares a worker's path before anything of ours is imported: it finds what the process that started it found. With
#: `-P` no module of the current folder, which may be a stranger's, comes before Python's own until then.
START = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from export import worker; worker.run()"
PREFIX = "handheld-export-"

Done = Callable[[Target, Artifact], None]


class WorkerTraceback(Exception):
    """Stands as the cause of an error that a worker had: its text is the traceback there."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@dataclass
class Process:
    """A process that makes artifacts, one after the other; `noise` is what it prints."""

    popen: subprocess.Popen[bytes]
    noise: Path

    @property
    def is_alive(self) -> bool:
        """Whether it can take another target."""
        return self.popen.poll() is None

    def end(self) -> None:
        """Kill it, whatever it does."""
        self.popen.kill()
        self.popen.communicate()


@dataclass
class Worker:
    """A process at the artifact of `target`; `answer` is where it will say how that went."""

    target: Target
    process: Process
    answer: Path


@dataclass
class Crew:
    """The workers of one export. `most` may run at once; each may need `bytes_each`. Those that are `idle` take the
    next target: a new process would import the libraries and read the material again."""

    material: Path
    bundle: Path
    most: int
    bytes_each: int
    idle: list[Process] = field(default_factory=list)
    running: list[Worker] = field(default_factory=list)

    def start(self, target: Target, message: bytes) -> None:
        """Begin with a target; `message` is its pickle."""
        folder, threads = self.material.parent, _threads(self.most)
        self.idle = [process for process in self.idle if process.is_alive]
        worker = Worker(
            target, self.idle.pop() if self.idle else _begun(folder, threads), folder / f"{target.name}.json"
        )
        job = Job(
            target=message.hex(), material=self.material, bundle=self.bundle, answer=worker.answer, threads=threads
        )
        stdin = worker.process.popen.stdin
        assert stdin is not None
        with suppress(BrokenPipeError):  # one that was killed this moment: `finished` says so
            stdin.write(job.model_dump_json().encode() + b"\n")
            stdin.flush()
        self.running.append(worker)

    def has_room(self) -> bool:
        """Whether another worker may start now: always the first one, then as many as memory is left for."""
        if not self.running:
            return True
        if len(self.running) >= self.most:
            return False
        # where there is an idle process, it would be the next to start
        busy = [*(worker.process for worker in self.running), *self.idle[-1:]]
        claimed = sum(max(0, self.bytes_each - _resident(process.popen.pid)) for process in busy)
        return available_bytes() - claimed >= (0 if self.idle else self.bytes_each)

    def finished(self) -> list[tuple[Target, Artifact]]:
        """Artifacts that came since the last call; raises the error of a worker that had one, or that died."""
        done = [worker for worker in self.running if worker.answer.is_file() or not worker.process.is_alive]
        self.running = [worker for worker in self.running if worker not in done]
        self.idle += [worker.process for worker in done]
        return [(worker.target, _answered(worker)) for worker in done]

    def end(self) -> None:
        """End all processes, in the middle of whatever they do."""
        for process in (*self.idle, *(worker.process for worker in self.running)):
            process.end()


@contextmanager
def early(targets: Sequence[Target], module: nn.Module, asked: int | None) -> Iterator[list[Process]]:
    """Processes that import the libraries while `module` is being lowered, which leaves cores free: as many as `jobs`
    will most likely say, and none where that is one. They end with the context, if they were not needed."""
    most = min(len(targets), asked or os.cpu_count() or 1)
    is_large = sum(1 for _ in module.modules()) >= WORTHWHILE_MODULES
    if most < 2 or not (is_large or asked) or available_bytes() < most * BASE_BYTES:
        yield []
        return
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        processes: list[Process] = []
        try:
            for _ in range(most):
                processes.append(_begun(Path(folder), _threads(most)))
            yield processes
        finally:
            for process in processes:
                process.end()


def _begun(folder: Path, threads: int) -> Process:
    """A process that waits for its first target, and leaves what it leaves in `folder`."""
    temporary = folder / "tmp"  # it goes with the folder, however the process ends
    temporary.mkdir(exist_ok=True)
    handle, noise = tempfile.mkstemp(suffix=".log", dir=folder)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TMPDIR": str(temporary)}
    with os.fdopen(handle, "wb") as log:
        popen = subprocess.Popen(
            [sys.executable, "-P", "-c", START, _path()],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    return Process(popen, Path(noise))


def _threads(most: int) -> int:
    """How many threads each of `most` processes computes with."""
    return max(1, (os.cpu_count() or 1) // most)


def make(
    targets: Sequence[Target],
    bundle: Path,
    material: Material,
    most: int,
    done: Done,
    said: Callable[[str], None],
    begun: Sequence[Process] = (),
) -> None:
    """Make the artifacts of `targets`, every one of which `portable` takes, in the folder `bundle`.

    Processes that were `begun` before are used first.

    `done` is called with every artifact, `said` with the names of those under way. The first error, and Ctrl-C, end all
    workers; errors are raised as they came up there. Raises `DeviceError` where a worker is killed.
    """
    # ExecuTorch's take longest by far: they begin first
    waiting = sorted(targets, key=lambda target: not target.name.startswith("executorch"))
    with _crew(bundle, material, min(most, len(waiting)), begun) as crew:
        traced = False
        while waiting or crew.running:
            while waiting and crew.has_room():
                target = waiting.pop(0)
                message = portable(target)
                assert message is not None
                crew.start(target, message)
                said(", ".join(worker.target.name for worker in crew.running))
            if not traced:  # the workers are at their conversions meanwhile
                traced = bool(material.call.reference)
            time.sleep(SECONDS_BETWEEN_LOOKS)
            for target, artifact in crew.finished():
                done(target, artifact)
                said(", ".join(worker.target.name for worker in crew.running))


@contextmanager
def _crew(bundle: Path, material: Material, most: int, begun: Sequence[Process]) -> Iterator[Crew]:
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        stored = Path(folder) / "material"
        stored.mkdir()
        handover.write(stored, material)
        crew = Crew(stored, bundle, most, bytes_needed(material), list(begun))
        try:
            yield crew
        finally:
            crew.end()


def jobs(material: Material, targets: Sequence[Target], asked: int | None) -> int:
    """How many processes to make `targets` with; 1 is this one. Without a number `asked` for: the cores, and this
    process alone where the model is so small that starting others takes longer than it saves.

    Operators that this process has and a worker would lack, as a user's module may bring, keep it in this one.
    """
    if not all(_is_torchs_own(call.program) for call in material.calls.values()):
        return 1
    if asked is not None:
        return min(asked, len(targets))
    operators = sum(node.op == "call_function" for node in material.call.program.graph.nodes)
    if operators < WORTHWHILE_OPERATORS:
        return 1
    return max(1, min(len(targets), os.cpu_count() or 1, available_bytes() // bytes_needed(material)))


def _is_torchs_own(program: ExportedProgram) -> bool:
    """Whether every operator is one that PyTorch has by itself."""
    operators = [node.target for node in program.graph.nodes if isinstance(node.target, OpOverload)]
    return {operator.namespace for operator in operators} <= {"aten", "prims"}


def bytes_needed(material: Material) -> int:
    """An estimate of the most memory that one conversion takes, from weights and activations of all sizes."""
    activations = max(material.estimates["peak_activation_bytes"], 0)
    copies = WEIGHT_COPIES + 2 * len(material.sizes)
    return BASE_BYTES + copies * material.weight_bytes + ACTIVATION_COPIES * activations


def portable(target: Target) -> bytes | None:
    """The target as a message to a worker; None where its functions are not of this package, as those of a target that
    was added at run time, which a worker would not know."""
    given = (target.convert, target.open, target.open_size, target.open_rounded, target.adapt)
    functions = [getattr(f, "func", f) for f in given if f is not None]
    if not all(str(getattr(function, "__module__", "")).startswith("export.") for function in functions):
        return None
    try:
        return pickle.dumps(target)
    except (pickle.PicklingError, AttributeError, TypeError):
        return None


def _path() -> str:
    return json.dumps([str(Path(entry).resolve()) for entry in sys.path])


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _answered(worker: Worker) -> Artifact:
    if not worker.answer.is_file():
        raise _died(worker)
    answer = Answer.model_validate_json(worker.answer.read_bytes())
    if answer.failure is not None:
        raise _raised(answer.failure) from WorkerTraceback(answer.failure.trace)
    assert answer.artifact is not None
    return Artifact.model_validate_json(answer.artifact)


def _raised(failure: Failure) -> Exception:
    """The worker's error, of its own class where that is one that a user meets; else it is a defect of ours."""
    if failure.kind == OSError.__name__:
        return OSError(*failure.arguments)
    kind = getattr(errors, failure.kind, None)
    if isinstance(kind, type) and issubclass(kind, HandheldError):
        return kind(*failure.arguments)
    return RuntimeError(f"{failure.kind}: {failure.arguments[0]}")


def _died(worker: Worker) -> DeviceError:
    """The error of a worker that left no answer."""
    code = worker.process.popen.returncode
    if code == -signal.SIGKILL:
        return DeviceError(
            f"{worker.target.name}: its conversion was killed, most likely for want of memory; "
            "export with --jobs 1, or for a smaller --shape"
        )
    try:
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
    except ValueError:
        how = f"with code {code}"
    last = worker.process.noise.read_text(errors="replace").strip().splitlines()[-1:]
    reason = f" ({last[0][:200]})" if last else ""
    return DeviceError(f"{worker.target.name}: its conversion ended {how}{reason}; export with --jobs 1")
