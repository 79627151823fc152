"""What this machine and the runner app on an iPhone tell each other: jobs one way, events the other. Version 1.

The app is launched as `APP hello LAUNCH` or `APP PASS JOB LAUNCH [CANDIDATE]`. It works in the folder `FOLDER` of its
data container: `models/` holds models by their hash, `JOB-LAUNCH.json` is a job, `JOB-*` are its other files. What it
finds it appends to `JOB-PASS.jsonl`, a JSON object a line, each written before it goes on; `hello` and `clean` begin
`hello.jsonl` and `clean.jsonl` anew, the only files that stay. To a file that is there the app first adds the end of a
line, since an earlier launch may have broken off in one. A launch begins with `ready`, which repeats `LAUNCH`,
and ends with `ended`; one without `ended` broke off, and the last `step` says where.

| pass | what the app does |
|---|---|
| `hello` | says what it and the device are; removes what jobs of more than a week ago left |
| `prove` | loads every candidate and runs it once on the inputs, and writes the outputs to files |
| `measure` | loads, runs once, warms up, and times the rounds from `first_round` on |
| `memory` | loads and runs one candidate, the number at the end of the command, twice |
| `plan` | asks Core ML where it means to run each operator |
| `clean` | removes the job's files, and the models that it names unless `keep` |
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from devices import protocol
from devices.records import Placement, Unit
from toolkit.schema import StrictModel

PROTOCOL = 1
FOLDER = "Documents/handheld"
MODELS = "models"

Pass = Literal["hello", "prove", "measure", "memory", "plan", "clean"]
RuntimeName = Literal["coreml", "executorch"]


class Tensor(StrictModel):
    """An input: `file` lies in `FOLDER` and holds the values, little-endian, in row-major order."""

    name: str
    dtype: str
    shape: list[int]
    file: str


class JobCandidate(StrictModel):
    """One model to run: `model` is its file's name in `models/`, `bytes` that file's size.

    A Core ML package is an uncompressed tar of its folder. `stateful`: Core ML keeps its states, anew in each pass.
    `outputs` are their names, in the order in which they are written. `compute_units` is None for ExecuTorch, whose
    program was bound to its units when it was exported. `before` are inputs of calls that go ahead of the one on
    `inputs`, in their order: the steps of a stream whose states Core ML keeps.
    """

    candidate: int
    runtime: RuntimeName
    model: str
    bytes: int
    compute_units: Unit | None
    stateful: bool
    inputs: list[Tensor]
    before: list[list[Tensor]] = []
    outputs: list[str]


class Rules(StrictModel):
    """The constants of the protocol (`devices.protocol`), so that the app has none of its own."""

    window: int = protocol.WINDOW
    spread: float = protocol.SPREAD
    warmup_limit: int = protocol.WARMUP_LIMIT
    cooling_limit_s: float = protocol.COOLING_LIMIT_S
    cooling_step_s: float = protocol.COOLING_STEP_S
    pause_s: float = protocol.PAUSE_S
    memory_runs: int = 2


class Job(StrictModel):
    """What the app is to do. Round n of the session belongs to repeat n // `iterations`."""

    protocol: int = PROTOCOL
    job: str
    candidates: list[JobCandidate]
    total: int
    repeats: int
    iterations: int
    first_round: int
    rules: Rules = Rules()
    keep: bool = False


class _Told(BaseModel):
    """What the app writes: fields that are not known here are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Held(_Told):
    """A model that is on the device already."""

    name: str
    bytes: int


class Ready(_Told):
    event: Literal["ready"]
    protocol: int
    launch: str
    app: str
    system: str
    model: str
    cores: int | None = None
    memory_bytes: int | None = None
    thermal: str | None = None
    charging: bool | None = None
    low_power: bool | None = None
    runtimes: list[str] = []
    models: list[Held] = []


class Step(_Told):
    """What the app is about to do."""

    event: Literal["step"]
    candidate: int | None = None
    what: str


class OutputFile(_Told):
    name: str
    file: str
    dtype: Literal["float16", "float32", "int32"]
    shape: list[int]


class Proved(_Told):
    """`compile_ms` is the time to compile a Core ML package, where that was done in this launch."""

    event: Literal["proved"]
    candidate: int
    runtime: str
    load_ms: float
    first_ms: float
    compile_ms: float | None = None
    outputs: list[OutputFile]


class Warmed(_Told):
    event: Literal["warmed"]
    candidate: int
    warmup_ms: list[float]


class BeganRepeat(_Told):
    event: Literal["began"]
    repeat: int
    started: str
    waited_s: float
    cooled: bool
    thermal: str | None = None


class TimedRound(_Told):
    """`times_ms` has a place for every candidate of the session; None for those that this launch does not time."""

    event: Literal["round"]
    number: int
    times_ms: list[float | None]


class MemoryTaken(_Told):
    event: Literal["memory"]
    candidate: int
    baseline_bytes: int
    peak_bytes: int


class Placed(_Told):
    event: Literal["placed"]
    candidate: int
    placement: list[Placement]


class CandidateFailed(_Told):
    event: Literal["failed"]
    candidate: int
    stage: str
    message: str


class JobError(_Told):
    """The job as a whole cannot be done."""

    event: Literal["error"]
    message: str


class Ended(_Told):
    event: Literal["ended"]


Told = (
    Ready
    | Step
    | Proved
    | Warmed
    | BeganRepeat
    | TimedRound
    | MemoryTaken
    | Placed
    | CandidateFailed
    | JobError
    | Ended
)
_TOLD: TypeAdapter[Told] = TypeAdapter(Annotated[Told, Field(discriminator="event")])


def job_file(job: str, launch: str) -> str:
    """Where the app looks for its job, in `FOLDER`."""
    return f"{job}-{launch}.json"


def events_file(job: str, work: Pass) -> str:
    """Where the app writes what it finds in a pass, in `FOLDER`."""
    return f"{work}.jsonl" if work in ("hello", "clean") else f"{job}-{work}.jsonl"


def read_events(content: bytes, launch: str | None = None) -> list[Told]:
    """The events of a file, or those of one launch: from its `ready` on, to the next one's.

    A last line without its end is still being written. A line that is no event, or one that this release does not know,
    is passed over: what it told is missing and is asked for again.
    """
    found = list(_events(content))
    if launch is None:
        return found
    begins = [n for n, event in enumerate(found) if isinstance(event, Ready)]
    own = next((n for n in begins if getattr(found[n], "launch", None) == launch), None)
    if own is None:
        return []
    return found[own : next((n for n in begins if n > own), len(found))]


def _events(content: bytes) -> Iterator[Told]:
    for line in content.split(b"\n")[:-1]:
        try:
            yield _TOLD.validate_json(line)
        except ValidationError:
            continue


def pack(model: Path, into: Path) -> Path:
    """The one file that is copied to the device: a `.pte` as it is, a Core ML package as a tar of its folder."""
    if model.is_file():
        return model
    with tarfile.open(into, "w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(model.rglob("*")):
            if path.is_file():
                archive.add(path, arcname=path.relative_to(model).as_posix())
    return into
