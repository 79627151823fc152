"""The host's side of a native runner: commands to it, a line each, and its events, each a line of JSON.

What they say to each other is in `devices/runners/android/README.md`.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from devices.bench import DeviceLost
from devices.records import Memory
from toolkit.errors import DeviceError

PROTOCOL = 1
LOAD_S = 300.0
RUN_S = 300.0
ANSWER_S = 60.0
QUIT_S = 10.0
QUOTED = 160

Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Lines(Protocol):
    """A program's output and input by lines.

    `log` is the end of what it wrote to standard error; where they are `mixed`, that comes within the output.
    """

    mixed: bool

    @property
    def code(self) -> int | None: ...
    @property
    def log(self) -> str: ...
    def write(self, line: str) -> None: ...
    def read_line(self, timeout_s: float) -> str | None:
        """None where the program has ended; raises `TimeoutError`."""
        ...


class Said(BaseModel):
    """An event. Runners of a later release may say more."""

    model_config = ConfigDict(extra="ignore", strict=True)


class Ready(Said):
    event: Literal["ready"]
    protocol: int
    runtime: str
    threads: int
    load_ms: Milliseconds
    details: dict[str, str] = {}


class Ran(Said):
    event: Literal["ran"]
    ms: Milliseconds


class OutputFile(Said):
    path: str
    dtype: str
    shape: list[int]


class Outputs(Said):
    event: Literal["outputs"]
    files: list[OutputFile]


class Traced(Said):
    event: Literal["traced"]
    path: str


class MemoryTaken(Said):
    event: Literal["memory"]
    baseline_bytes: int
    peak_bytes: int


Event = TypeVar("Event", bound=Said)


class NativeRunner:
    """A runner under way. `what` begins every error: the artifact and where it runs.

    Every method raises `DeviceError` where the runner fails, answers nonsense or does not answer. Before that,
    `check_device` raises `DeviceLost` where the whole device does not answer: then the runner is not to blame.
    """

    def __init__(self, lines: Lines, what: str, check_device: Callable[[], None] = lambda: None) -> None:
        self._lines, self._what, self._check_device = lines, what, check_device
        self._answers = True

    def ready(self) -> Ready:
        """Wait until the artifact is loaded."""
        found = self._expect(Ready, LOAD_S)
        if found.protocol != PROTOCOL:
            raise DeviceError(
                f"{self._what}: the runner speaks protocol {found.protocol}, and this release {PROTOCOL}; "
                "build the runners anew"
            )
        return found

    def run(self, untimed: int) -> float:
        """Milliseconds of one inference, after `untimed` others."""
        self._lines.write(f"run {untimed}")
        return self._expect(Ran, RUN_S * (untimed + 1)).ms

    def outputs(self, prefix: str) -> list[OutputFile]:
        """The last inference's outputs, in files of the device that begin with `prefix`."""
        self._lines.write(f"outputs {prefix}")
        return self._expect(Outputs, ANSWER_S).files

    def trace(self, path: str) -> str:
        """Write the profile of all inferences; the file's path on the device."""
        self._lines.write(f"trace {path}")
        return self._expect(Traced, ANSWER_S).path

    def memory(self) -> Memory:
        """What a runner in its memory pass found."""
        found = self._expect(MemoryTaken, LOAD_S)
        return Memory(baseline_bytes=found.baseline_bytes, peak_bytes=found.peak_bytes)

    def quit(self) -> None:
        """Ask it to end, and wait for that; one that failed before is not waited for."""
        if not self._answers or self._lines.code is not None:
            return
        self._lines.write("quit")
        deadline = time.monotonic() + QUIT_S
        while self._line(deadline, QUIT_S) is not None:
            pass

    def _expect(self, kind: type[Event], timeout_s: float) -> Event:
        try:
            return self._event(kind, timeout_s)
        except DeviceLost:
            raise
        except DeviceError:
            self._check_device()
            raise

    def _event(self, kind: type[Event], timeout_s: float) -> Event:
        self._answers = False  # until it does
        deadline = time.monotonic() + timeout_s
        line = self._line(deadline, timeout_s)
        while line is not None and self._lines.mixed and not line.startswith("{"):
            line = self._line(deadline, timeout_s)
        if line is None:
            raise DeviceError(f"{self._what}: the runner ended {self._ending()}")
        try:
            content = json.loads(line)
            if isinstance(content, dict) and content.get("event") == "error":
                raise DeviceError(f"{self._what}: {_failure(content)}")
            found = kind.model_validate(content)
        except (ValueError, ValidationError) as error:
            raise DeviceError(f"{self._what}: the runner gave no event but '{_short(line)}'{self._tail()}") from error
        self._answers = True
        return found

    def _line(self, deadline: float, timeout_s: float) -> str | None:
        """The next line; `timeout_s` is the whole wait that ends at `deadline`."""
        try:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            return self._lines.read_line(left)
        except TimeoutError as error:
            raise DeviceError(
                f"{self._what}: the runner gave no answer within {timeout_s:.0f} s and was ended{self._tail()}"
            ) from error

    def _ending(self) -> str:
        code = self._lines.code
        if code is None:
            return f"early{self._tail()}"
        if code - 128 in set(signal.Signals):
            name = signal.Signals(code - 128).name
            hint = ", probably out of memory" if name == "SIGKILL" else ""
            return f"by {name}{hint}{self._tail()}"
        return f"with exit code {code}{self._tail()}"

    def _tail(self) -> str:
        """The last line of its log."""
        lines = [line for line in self._lines.log.splitlines() if line.strip()]
        return f" ({_short(lines[-1])})" if lines else ""


def _failure(content: dict[str, Any]) -> str:
    return f"{content.get('stage', 'unknown stage')} failed: {_short(str(content.get('message', 'no message')))}"


def _short(text: str) -> str:
    return " ".join(text.split())[:QUOTED]


def arguments(model: str, inputs: Sequence[tuple[str, Sequence[int], str]], threads: int, *options: str) -> list[str]:
    """A runner's command line; `inputs` are dtype, shape and file of each."""
    found = [model]
    for dtype, shape, path in inputs:
        found += ["--input", f"{dtype}:{'x'.join(map(str, shape))}:{path}"]
    return [*found, "--threads", str(threads), *options]
