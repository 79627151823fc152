"""Speed, size and accuracy of optical-flow students beside all baselines, in one run: `python -m benchmarks.flow`.

Accuracy: end-point error, Fl-all and more on scikit-image's motorcycle pair in full size, on 60 made-up pairs of
384x512 from pictures that no catalogued recipe trains on, and on every data set named with --data; of the student that
ships with Handheld, of every --run, of RAFT-small where its weights are, of DIS, Farnebäck's method and zero flow.
`identical` is the mean length of the flow between a frame and itself. Size: parameters, weights, and artifacts for
384x512. Speed: as `python -m benchmarks.flow_speed`, of students by their preset. Bars are asked of the student that
ships with Handheld or, where none does, of the first --run. Without --data it takes a few minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.markup import escape

from benchmarks import flow_speed, results_file
from benchmarks.bars import Bar, at_most, print_bars, print_goals
from benchmarks.flow_accuracy import (
    MADE_UP,
    Measured,
    PairSet,
    accuracy,
    data_set,
    made_up,
    methods,
    motorcycle,
    print_accuracy,
)
from benchmarks.flow_sizes import Size, print_sizes, sizes
from recipes.data.flow_layouts import MOTORCYCLE
from toolkit.cli.output import console, console_err
from toolkit.cli.runs import find_run
from toolkit.errors import HandheldError, UserError
from toolkit.files import check_writable
from toolkit.quiet import hush_libraries

LANDED = Path("asset:compact-flow-tiny")
DIS = "dis-medium"
MOST_EPE = {MOTORCYCLE: 8.0}  # pixels
MOST_OF_DIS = {MADE_UP: 1.5}  # times the error of DIS-medium
MOST_OF_FARNEBACK = 0.8  # times its error, on every set
MOST_MB = 5.0  # of the weights file


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where all bars hold, 1 where one fails, 2 on the user's mistakes."""
    options = parser().parse_args(arguments)
    hush_libraries()
    try:
        return run(options)
    except HandheldError as error:
        line = " ".join(str(error).split())
        console_err.print(f"[bold red]benchmarks.flow:[/] {escape(line)}", soft_wrap=True, highlight=False)
        return error.exit_code


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.flow", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = found.add_argument
    add("--run", action="append", type=Path, default=[], metavar="RUN", help="a run of optical flow; repeatable")
    layout = "a data set in its published folders, such as sintel:data/sintel:final; repeatable"
    add("--data", action="append", default=[], metavar="LAYOUT:FOLDER[:VARIANT]", help=layout)
    add("--pairs", type=positive, metavar="N", help="at most so many pairs of each --data, evenly spread")
    add("--raft-weights", type=Path, metavar="FILE", help="torchvision's of RAFT-small, if not in torch.hub's cache")
    add("--pictures", type=Path, metavar="FOLDER", help="draw the first pair of each set here")
    rounds = "of timing; 0 leaves speed out, and benchmarks/results/flow.json as it is"
    add("--rounds", type=int, default=flow_speed.ROUNDS, metavar="N", help=rounds)
    return found


def positive(text: str) -> int:
    """An option's value; `ValueError` where it is below 1."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def run(options: argparse.Namespace) -> int:
    """Everything that can be wrong with the options is found before anything is measured."""
    runs = students_of(options.run)
    by_name = methods(runs, options.raft_weights)
    sets = all_sets(options.data, options.pairs)
    if options.pictures is not None:
        check_pictures(options.pictures)
    measured = accuracy(sets, by_name, options.pictures)
    print_accuracy(measured)
    sized = sizes(runs)
    print_sizes(sized)
    found = accuracy_bars(sized[0], measured)
    if options.rounds > 0:
        found += speed(options.rounds, measured, sized)
    print_goals(goals(sized[0].method, measured))
    return print_bars(found)


def check_pictures(folder: Path) -> None:
    """Raises `UserError` where nothing can be written into `folder`."""
    try:
        check_writable(folder / f"{MOTORCYCLE}.png")
    except OSError as error:
        raise UserError(f"--pictures {folder}: {error.strerror}; name a folder you can write") from error


def students_of(given: Sequence[Path]) -> dict[str, Path]:
    """The run directories by the names they get in tables: the student that ships with Handheld first."""
    folders = []
    try:
        folders.append(find_run(LANDED)[0])
    except UserError as error:
        if not given:
            raise UserError(f"{LANDED}: does not ship with this version; name a student with --run RUN") from error
        console.print(f"{LANDED} does not ship with this version", highlight=False, markup=False)
    folders += [find_run(run)[0] for run in given]
    found: dict[str, Path] = {}
    for folder in folders:
        name, number = folder.resolve().name, 2
        while name in found:
            name, number = f"{folder.resolve().name} {number}", number + 1
        found[name] = folder
    return found


def all_sets(given: Sequence[str], pairs: int | None) -> list[PairSet]:
    """The two that need no download, and the user's; raises `UserError` where two have one name."""
    found = [motorcycle(), made_up()]
    for text in given:
        named = data_set(text, pairs)
        if any(other.name == named.name for other in found):
            raise UserError(f"--data {text}: {named.name} is named twice; name it once")
        found.append(named)
    return found


def speed(rounds: int, measured: Sequence[Measured], sized: Sequence[Size]) -> list[Bar]:
    """Measure, print, and write the rows of all parts."""
    with tempfile.TemporaryDirectory() as folder:
        rows = flow_speed.latencies(Path(folder), rounds)
    flow_speed.print_rows(rows, rounds)
    parts = {
        "accuracy": [one.row() for one in measured],
        "size": [size.row() for size in sized],
        "speed": [asdict(row) for row in rows],
    }
    results_file.write("flow", [{"part": part, **row} for part, found in parts.items() for row in found])
    return flow_speed.bars(rows)


def accuracy_bars(size: Size, measured: Sequence[Measured]) -> list[Bar]:
    """What is asked of the student with this size."""
    name = size.method
    found = [at_most(f"{name}: MB of weights", size.weights_bytes / 1e6, MOST_MB)]
    for data, epe in by_set(measured).items():
        if data in MOST_EPE:
            found.append(at_most(f"{name}, {data}: EPE, px", epe[name], MOST_EPE[data]))
        if data in MOST_OF_DIS:
            found.append(at_most(f"{name}, {data}: EPE over {DIS}'s", _ratio(epe[name], epe[DIS]), MOST_OF_DIS[data]))
        ratio = _ratio(epe[name], epe["farneback"])
        found.append(at_most(f"{name}, {data}: EPE over farneback's", ratio, MOST_OF_FARNEBACK))
    return found


def goals(name: str, measured: Sequence[Measured]) -> list[Bar]:
    """What is aimed at: to beat DIS-medium on every set."""
    ratios = {data: _ratio(epe[name], epe[DIS]) for data, epe in by_set(measured).items()}
    return [Bar(f"{name}, {data}: EPE over {DIS}'s", ratio, "< 1", ratio < 1) for data, ratio in ratios.items()]


def by_set(measured: Sequence[Measured]) -> dict[str, dict[str, float]]:
    """The end-point error by set and method."""
    found: dict[str, dict[str, float]] = {}
    for one in measured:
        found.setdefault(one.data, {})[one.method] = one.epe
    return found


def _ratio(epe: float, other: float) -> float:
    return epe / other if other else float("inf")


if __name__ == "__main__":
    sys.exit(main())
