"""What does the profiler add to what it measures? `python -m benchmarks.overhead`

The student that ships with Handheld is profiled by `devices.profile`, with its store and its live view. Ahead of every
repeat the same runtimes are called as often in a bare loop, loaded by their own interfaces and with the same threads:
both are measured in one run and in turn.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.live import Live as Screen

import devices
import export
from benchmarks import results_file
from benchmarks.bars import at_most, print_bars
from devices import protocol, sessions
from devices.host import available_cores
from devices.live import TIMES_A_SECOND, Live
from devices.parities import sample
from devices.sessions import Session
from toolkit import reference
from toolkit.bundle import REFERENCE, read_manifest
from toolkit.cli.output import print_table
from toolkit.cli.runs import find_run
from toolkit.quiet import hush_libraries, native_stderr_hidden

STUDENT = Path("asset:turbo-vaed-tiny")
TARGETS = ["onnx-fp32", "executorch-xnnpack-fp32"]
REPEATS, ITERATIONS = 20, 10
MOST = 1.03


@dataclass(frozen=True)
class Row:
    """p50 in milliseconds of one target, by the profiler and in a bare loop of the same run."""

    target: str
    profiler_ms: float
    bare_ms: float

    @property
    def ratio(self) -> float:
        return self.profiler_ms / self.bare_ms


def bare_calls(bundle: Path, threads: int) -> dict[str, Callable[[], object]]:
    """Each target's runtime by its own interface."""
    from executorch.extension.pybindings import portable_lib

    manifest = read_manifest(bundle)
    arrays: list[np.ndarray] = list(sample(bundle, manifest).inputs.values())
    tensors = [torch.from_numpy(array) for array in arrays]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    path = str(bundle / manifest.artifact("onnx-fp32").path)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {value.name: array for value, array in zip(session.get_inputs(), arrays, strict=True)}
    with native_stderr_hidden():
        program = portable_lib._load_for_executorch(str(bundle / manifest.artifact(TARGETS[1]).path))
    program_in_torch = reference.load(bundle / REFERENCE)
    return {
        "reference": partial(_without_gradients, partial(program_in_torch, *tensors)),
        "onnx-fp32": partial(session.run, None, feed),
        "executorch-xnnpack-fp32": partial(program.run_method, "forward", tensors),
    }


def _without_gradients(call: Callable[[], object]) -> None:
    with torch.no_grad():
        call()


class BareLoop:
    """Looks on with the live view; before every repeat of the profiler it stops that and runs as many bare rounds."""

    def __init__(self, calls: dict[str, Callable[[], object]], view: Live, screen: Screen) -> None:
        self._calls, self._view, self._screen = calls, view, screen
        self.times: defaultdict[str, list[float]] = defaultdict(list)

    def said(self, session: Session, text: str) -> None:
        self._view.said(session, text)

    def seen(self, session: Session, event: sessions.Event | None) -> None:
        self._view.seen(session, event)
        if isinstance(event, sessions.Began):
            self._screen.stop()
            measures = [partial(protocol.timed, call) for call in self._calls.values()]
            for times in protocol.interleaved(measures, event.repeat * ITERATIONS, ITERATIONS):
                for target, time in zip(self._calls, times, strict=True):
                    self.times[target].append(time)
            self._screen.start()


def measure() -> list[Row]:
    """Both p50 of every target."""
    run, _ = find_run(STUDENT)
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere:
        bundle = Path(folder) / "bundle"
        export.export(export.from_run(run), TARGETS, bundle)
        view = Live()
        screen = Screen(view, console=Console(file=nowhere, force_terminal=True), refresh_per_second=TIMES_A_SECOND)
        bare = BareLoop(bare_calls(bundle, available_cores()), view, screen)
        store = f"sqlite:///{Path(folder) / 'profiles.db'}"
        with screen:
            found = devices.profile(
                [bundle], iterations=ITERATIONS, repeats=REPEATS, operators=False, store=store, watch=bare
            )
    return [Row(r.target, r.latency.p50, statistics.median(bare.times[r.target])) for r in found.records]


def main() -> int:
    hush_libraries()
    rows = measure()
    lines = [[row.target, f"{row.profiler_ms:.2f}", f"{row.bare_ms:.2f}", f"{row.ratio:.3f}"] for row in rows]
    title = f"{REPEATS} x {ITERATIONS} calls each, {available_cores()} threads, {results_file.processor()}"
    print_table(title, ["target", "profiler's p50, ms", "bare loop's p50, ms", "ratio"], lines)
    results_file.write("overhead", [{**asdict(row), "ratio": row.ratio} for row in rows])
    return print_bars([at_most(f"{row.target}: profiler over bare loop", row.ratio, MOST) for row in rows])


if __name__ == "__main__":
    sys.exit(main())
