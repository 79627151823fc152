"""Does the gate against slower models cry wolf, and does it see what is slower? `python -m benchmarks.gate`

A small convolutional model is compared `TRIALS` times with itself, and `TRIALS` times with itself slowed by 10 %: after
every call the same thread waits for another tenth of the time that the call took. Both by `handheld compare`'s own
protocol and statistics, with `--fail-if-slower 5%`, on this machine as it is, with all that disturbs it.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import results_file
from benchmarks.bars import at_least, at_most, print_bars
from devices import protocol
from devices.comparison import ratio_interval
from devices.host import available_cores
from devices.host_runtimes import OnnxRuntime
from toolkit.cli.output import print_table
from toolkit.progress import track
from toolkit.quiet import hush_libraries

TRIALS = 50
REPEATS, ITERATIONS = 3, 20  # what `handheld compare` does by default
LIMIT = 0.05
SLOWED = 0.10
MOST_FALSE, LEAST_CAUGHT = 2, 45
SIZE, CHANNELS, LAYERS = (96, 128), 24, 6


@dataclass(frozen=True)
class Trial:
    """One comparison: the ratio that was found, its 95 % interval, and whether the gate fell."""

    slowed: bool
    ratio: float
    low: float
    high: float
    fell: bool


def model(folder: Path) -> Path:
    """A stack of convolutions that takes a few milliseconds."""
    layers: list[torch.nn.Module] = [torch.nn.Conv2d(3, CHANNELS, 3, padding=1)]
    for _ in range(LAYERS):
        layers += [torch.nn.ReLU(), torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)]
    path = folder / "model.onnx"
    torch.onnx.export(torch.nn.Sequential(*layers).eval(), (torch.rand(1, 3, *SIZE),), str(path), dynamo=False)
    return path


def slowed(call: Callable[[], object]) -> Callable[[], None]:
    """The same call, and a tenth of its time more."""

    def both() -> None:
        start = time.perf_counter()
        call()
        end = time.perf_counter()
        until = end + SLOWED * (end - start)
        while time.perf_counter() < until:
            pass

    return both


def trial(base: Callable[[], object], new: Callable[[], object], is_slowed: bool) -> Trial:
    """One run of the protocol on two candidates."""
    measures = [partial(protocol.timed, call) for call in (base, new)]
    for measure in measures:
        protocol.warm_up(measure)
    pairs = []
    for repeat in range(REPEATS):
        rounds = protocol.interleaved(measures, repeat * ITERATIONS, ITERATIONS)
        pairs.append([(times[0], times[1]) for times in rounds])
    ratio, interval = ratio_interval(pairs)
    assert interval is not None
    return Trial(is_slowed, ratio, interval.low, interval.high, interval.low > 1 + LIMIT)


def main() -> int:
    hush_libraries()
    threads, image = available_cores(), np.random.default_rng(0).random((1, 3, *SIZE), np.float32)
    trials: list[Trial] = []
    with tempfile.TemporaryDirectory() as folder, track("gate", 2 * TRIALS) as progress:
        path = model(Path(folder))
        for number in range(TRIALS):
            for is_slowed in (False, True):
                base, new = (OnnxRuntime(path, [image], threads) for _ in range(2))
                trials.append(trial(base, slowed(new) if is_slowed else new, is_slowed))
                progress.update(len(trials), f"{number + 1} of {TRIALS} pairs")
    rows = [_row(is_slowed, trials) for is_slowed in (False, True)]
    columns = ["compared with", "gate fell", "median change", "widest interval"]
    print_table(f"{TRIALS} comparisons each, {threads} threads, {results_file.processor()}", columns, rows)
    results_file.write("gate", list(map(asdict, trials)))
    false = sum(t.fell for t in trials if not t.slowed)
    caught = sum(t.fell for t in trials if t.slowed)
    return print_bars(
        [
            at_most("false alarms", false, MOST_FALSE),
            at_least("caught", caught, LEAST_CAUGHT),
        ]
    )


def _row(is_slowed: bool, trials: list[Trial]) -> list[str]:
    chosen = [t for t in trials if t.slowed is is_slowed]
    change = statistics.median(t.ratio for t in chosen) - 1
    widest = max(t.high - t.low for t in chosen)
    name = "itself slowed by 10 %" if is_slowed else "itself"
    return [name, str(sum(t.fell for t in chosen)), f"{change:+.1%}", f"{100 * widest:.1f} points"]


if __name__ == "__main__":
    sys.exit(main())
