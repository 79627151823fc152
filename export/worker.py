"""A process that makes artifacts, one after the other: what `export.workers` starts.

Each line of its standard input is a job; where that closes, it ends. For a job it reads the material that
`export.handover` wrote, writes the artifact into the bundle's folder, and leaves in a file either the artifact's entry
of the manifest or the error that it ended with.
"""

from __future__ import annotations

import errno
import functools
import os
import pickle
import queue
import shutil
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit import errors
from toolkit.errors import HandheldError
from toolkit.schema import StrictModel

if TYPE_CHECKING:
    from export.handover import Material


class Job(StrictModel):
    """What a worker is told. `target` is a pickle of it, in hexadecimal."""

    target: str
    material: Path
    bundle: Path
    answer: Path
    threads: int


class Failure(StrictModel):
    """An error as it goes from a worker to the process that started it.

    `kind` is its class, of `toolkit.errors` the nearest; `arguments` are its own; `trace` is the traceback, for -vv.
    """

    kind: str
    arguments: list[str | int | None]
    trace: str


class Answer(StrictModel):
    """What a worker leaves: the artifact's entry as JSON, or its error."""

    artifact: str | None = None
    failure: Failure | None = None


def run() -> None:
    """The whole life of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the one who started this ends it
    jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    while True:
        do(jobs.get())


def do(job: Job) -> None:
    """Make an artifact, and leave the answer."""
    try:
        answer = Answer(artifact=_made(job))
    except Exception as error:  # noqa: BLE001  (raised again in the process that started this one)
        answer = Answer(failure=_told(error))
    unfinished = job.answer.with_suffix(".part")
    unfinished.write_text(answer.model_dump_json(), encoding="utf-8")
    unfinished.replace(job.answer)


def _listen(jobs: queue.SimpleQueue[Job]) -> None:
    """Pass the jobs on. The input closes when the process that started this one is done, and also however it dies."""
    for line in sys.stdin.buffer:
        jobs.put(Job.model_validate_json(line))
    os._exit(0)  # what the libraries would tidy up at the end takes time, and goes wrong in some


def _made(job: Job) -> str:
    import torch

    from export.pipeline import write_artifact
    from toolkit.quiet import hush_libraries

    hush_libraries()
    torch.set_num_threads(job.threads)
    target = pickle.loads(bytes.fromhex(job.target))
    material = _read(job.material)
    with torch.no_grad():
        return write_artifact(target, job.bundle, material).model_dump_json()


@functools.cache
def _read(folder: Path) -> Material:
    """The material, once for all jobs."""
    from export import handover

    return handover.read(folder)


def _told(error: Exception) -> Failure:
    kind = type(error).__name__
    arguments: list[str | int | None] = [str(error)]
    if isinstance(error, HandheldError):
        kind = next(base.__name__ for base in type(error).__mro__ if base.__module__ == errors.__name__)
    elif isinstance(error, shutil.Error) and isinstance(error.args[0], list):  # of many files; the first says why
        named, _, why = error.args[0][0]
        kind, arguments = OSError.__name__, [errno.EIO, str(why), str(named)]
    elif isinstance(error, OSError) and error.errno is not None:
        named = None if error.filename is None else str(error.filename)
        kind, arguments = OSError.__name__, [error.errno, error.strerror, named]
    return Failure(kind=kind, arguments=arguments, trace=traceback.format_exc())
