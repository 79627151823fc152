"""How far flows are from the truth: the pairs, the methods, and every method's figures on every set of pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.flow_sheets import write_sheet
from recipes.data.flow_layouts import LAYOUTS, MOTORCYCLE, find_pairs, read_pair
from recipes.data.flow_sample import FlowSample
from recipes.data.flow_specs import TexturesSpec
from recipes.data.synthetic_flow import SyntheticFlow
from recipes.flow_evaluate import check_size
from recipes.flow_schema import HeldOutSceneSpec
from recipes.teachers.dis import FlowTeacher, baseline
from recipes.teachers.flow_student import FlowStudent
from recipes.teachers.raft import Raft, cached_weights
from toolkit.cli.output import console, print_table
from toolkit.errors import UserError, unknown_name
from toolkit.flow_metrics import RANGES, FlowMeter, FlowReport, FlowScores
from toolkit.progress import track

RAFT = "raft_small"
BASELINES = ("dis-medium", "dis-fast", "farneback", "zero")
MADE_UP = "made-up"
#: Pictures of which no catalogued recipe trains, and a seed that none validates with.
SCENES = HeldOutSceneSpec(
    textures=TexturesSpec(sources=["skimage:astronaut,coffee,rocket"], side=512), size=(384, 512), seed=71, pairs=60
)
SPLITS = {"chairs": "validation", "things": "test"}  # of the others, all pairs with a truth are `train`
STILL = 8  # frames of each set, at most, that are also taken for both of a pair


@dataclass(frozen=True)
class PairSet:
    """Held-out pairs under a name: `read` gives one of `count` by its number."""

    name: str
    count: int
    read: Callable[[int], FlowSample]


@dataclass(frozen=True)
class Measured:
    """One method on one set; `identical_px` is the mean length of its flow between a frame and itself."""

    data: str
    pairs: int
    method: str
    report: FlowReport
    identical_px: float

    @property
    def epe(self) -> float:
        return _overall(self.data, self.report).epe

    def row(self) -> dict[str, Any]:
        """For a file of results."""
        head = {"data": self.data, "pairs": self.pairs, "method": self.method}
        return {**head, **self.report.model_dump(), "identical_px": self.identical_px}


def motorcycle() -> PairSet:
    """scikit-image's stereo pair, in full size."""
    records = find_pairs(MOTORCYCLE, Path())
    return PairSet(MOTORCYCLE, len(records), lambda number: read_pair(records[number]))


def made_up(spec: HeldOutSceneSpec = SCENES) -> PairSet:
    """The first pairs of the scene's seed."""
    scenes = SyntheticFlow(spec, spec.seed)
    return PairSet(MADE_UP, spec.pairs, scenes.__getitem__)


def data_set(given: str, pairs: int | None = None) -> PairSet:
    """The user's `LAYOUT:FOLDER[:VARIANT]`: at most `pairs` pairs of it, evenly spread.

    FlyingChairs gives its validation pairs, FlyingThings3D its test pairs. Raises `UserError` as `find_pairs` does.
    """
    layout, separator, rest = given.partition(":")
    known = [name for name in LAYOUTS if name != MOTORCYCLE]
    if not separator or not rest:
        raise UserError(f"--data {given}: expected LAYOUT:FOLDER[:VARIANT], for example sintel:data/sintel:final")
    if layout not in known:
        raise unknown_name("optical-flow data set", layout, known)
    folder, variant = Path(rest).expanduser(), None
    before, separator, after = rest.rpartition(":")
    if before and not folder.is_dir():
        folder, variant = Path(before).expanduser(), after
    records = find_pairs(layout, folder, SPLITS.get(layout, "train"), variant)
    count = min(pairs or len(records), len(records))
    variants = LAYOUTS[layout][2]
    name = f"{layout} {variant or variants[0]}" if variants else layout

    def read(number: int) -> FlowSample:
        record = records[number * len(records) // count]
        return check_size(read_pair(record), str(record.image1))

    return PairSet(name, count, read)


def methods(students: Mapping[str, Path], raft_weights: Path | None = None) -> dict[str, FlowTeacher]:
    """Every method by its name, the students of these run directories first.

    RAFT-small is among them where its weights are; a line says so where they are not. Raises `UserError` where a
    student or `raft_weights` is missing.
    """
    found: dict[str, FlowTeacher] = {name: FlowStudent(run) for name, run in students.items()}
    cached = cached_weights(RAFT)
    if raft_weights is not None or cached.is_file():
        found[RAFT] = Raft(RAFT, raft_weights)
    else:
        line = f"{RAFT} is left out of accuracy: {cached} is not there; name its weights with --raft-weights FILE"
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    return found | {name: baseline(name) for name in BASELINES}


def accuracy(
    sets: Sequence[PairSet], by_name: Mapping[str, FlowTeacher], pictures: Path | None = None
) -> list[Measured]:
    """The figures of every method on every set; each method runs once a pair.

    The first pair of each set is drawn into the folder `pictures`. Raises `UserError` where no pixel of a set has a
    known truth, and as reading a pair does.
    """
    return [found for pairs in sets for found in _on_set(pairs, by_name, pictures)]


@torch.no_grad()
def _on_set(pairs: PairSet, by_name: Mapping[str, FlowTeacher], pictures: Path | None) -> list[Measured]:
    meters = {name: FlowMeter() for name in by_name}
    still = dict.fromkeys(by_name, 0.0)
    frames = min(pairs.count, STILL)
    with track(pairs.name, pairs.count) as progress:
        for number in range(pairs.count):
            progress.update(number, "pairs")
            pair = pairs.read(number)
            image1, image2 = pair.image1[None], pair.image2[None]
            flows = {name: method.flow(image1, image2)[0] for name, method in by_name.items()}
            for name, flow in flows.items():
                meters[name].add(flow, pair.flow, pair.valid, pair.visible)
                if number < frames:
                    resting = by_name[name].flow(image1, image1)[0]
                    still[name] += float(torch.linalg.vector_norm(resting, dim=0).mean()) / frames
            if number == 0 and pictures is not None:
                write_sheet(pictures / f"{pairs.name.replace(' ', '-')}.png", pair, flows)
        progress.update(pairs.count, "done")
    found = [Measured(pairs.name, pairs.count, name, meters[name].report(), still[name]) for name in by_name]
    for measured in found:
        _overall(pairs.name, measured.report)
    return found


def print_accuracy(found: Sequence[Measured]) -> None:
    """A table for each set."""
    ranges = [f"{low:g}-{high:g} px" if math.isfinite(high) else f"{low:g}+ px" for low, high in RANGES.values()]
    columns = ["method", "EPE", "Fl-all %", "<= 1 px %", "<= 3 px %", "<= 5 px %", *ranges, "visible", "occluded"]
    for name in dict.fromkeys(measured.data for measured in found):
        rows = [measured for measured in found if measured.data == name]
        count = f"{rows[0].pairs} pair{'s' if rows[0].pairs > 1 else ''}"
        title = f"{name}, {count}: EPE in px, of all pixels, by displacement, visible, occluded; and identical frames"
        print_table(title, [*columns, "identical"], [_cells(row) for row in rows])


def _cells(measured: Measured) -> list[str]:
    report = measured.report
    overall = _overall(measured.data, report)
    shares = [overall.fl_percent, overall.within_1_percent, overall.within_3_percent, overall.within_5_percent]
    groups = [report.s0_10, report.s10_40, report.s40, report.visible, report.occluded]
    return [
        measured.method,
        f"{overall.epe:.2f}",
        *(f"{share:.1f}" for share in shares),
        *("–" if scores is None else f"{scores.epe:.2f}" for scores in groups),
        f"{measured.identical_px:.3f}",
    ]


def _overall(name: str, report: FlowReport) -> FlowScores:
    if report.all is None:
        raise UserError(f"{name}: no pixel has a known truth; name other pairs")
    return report.all
