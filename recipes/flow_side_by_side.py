"""The student of a finished flow run beside its teacher and methods without training, pair by pair."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from recipes.data.flow_layouts import LAYOUTS, MOTORCYCLE
from recipes.data.flow_sample import FlowSample
from recipes.evaluate import parameters
from recipes.evaluation_folder import FOLDER, check_folder, evaluation_folder, pictures
from recipes.flow_evaluate import BASELINES, HeldOutPair, Method, draw_pair, find_held_out, of_network
from recipes.flow_schema import FlowTeacherSpec, HeldOutPairsSpec, HeldOutSceneSpec
from recipes.flow_task import load_flow_teacher
from recipes.rundir import read_recipe
from recipes.schema import Recipe
from recipes.teachers.dis import FlowTeacher, baseline
from recipes.teachers.raft import Raft
from toolkit import students
from toolkit.bundle import provenance
from toolkit.errors import UserError
from toolkit.files import sha256
from toolkit.flow_metrics import FlowMeter
from toolkit.flow_side_by_side import (
    STUDENT,
    TEACHER,
    FlowMethod,
    FlowSideBySide,
    PairErrors,
    epe_interval,
    markdown,
    order,
)
from toolkit.progress import Tracker, track
from toolkit.schema import validate
from toolkit.students import WEIGHTS_FILE

NETWORK = "raft_small"
HELD_OUT_SPLITS = {"chairs": "validation", "things": "test"}  # of other data sets, `train` alone has a truth

Spec = HeldOutSceneSpec | HeldOutPairsSpec


@dataclass(frozen=True)
class Source:
    """Something that gives flow; `params` is None where it has none."""

    method: Method
    params: int | None


def evaluate_flow(
    run: Path, *, data: str | None = None, pairs: int | None = None, output: Path | None = None, command: str = ""
) -> FlowSideBySide:
    """Score the student of `run`, its teacher and the baselines on the run's held-out pairs, or on `data`.

    `data` is `motorcycle` or `LAYOUT:FOLDER[:VARIANT]`; at most `pairs` pairs are taken, evenly spread. A teacher or a
    RAFT whose weights are not to be had is left out, and the result says so. Writes `evaluation.json`,
    `evaluation.md`, `worst.png` and `median.png` into `output` (default `RUN/evaluation`), all of them or none. Holds
    one pair in memory, or the pictures that scenes are made of. Raises `UserError` where the run has no finished
    student, and where data do not fit.
    """
    recipe = read_recipe(run)
    spec, described = _spec(run, recipe, data, pairs)
    student = students.load(run)
    folder = output or run / FOLDER
    check_folder(folder)
    found = find_held_out(spec)
    sources, left_out = _sources(student, recipe.teacher)
    with track("evaluate", len(found) * len(sources) + 2) as progress:  # two pairs once more, for their pictures
        errors, meters = _score(found, sources, progress)
        if not any(pair.pixels for pair in errors):
            raise UserError(f"{described}: no pixel has a known truth; name other pairs with --data")
        result = FlowSideBySide(
            run=recipe.name,
            data=described,
            pairs=errors,
            methods={
                name: FlowMethod(
                    params=source.params, report=meters[name].report(), interval=epe_interval(errors, name)
                )
                for name, source in sources.items()
            },
            left_out=left_out,
            student_sha256=sha256(run / WEIGHTS_FILE),
            provenance=provenance(command, run / "recipe.yaml", "torchvision", "opencv-python-headless"),
        )
        with evaluation_folder(folder, result, markdown(result)) as temporary:
            for number, names in pictures(order(errors)).items():
                pair = found[number].read()
                flow = _flow(sources[STUDENT].method, pair)
                for name in names:
                    draw_pair(temporary / name, pair, flow)
        progress.update(progress.total)
    return result


def parse_data(text: str) -> HeldOutPairsSpec:
    """The pairs that `motorcycle` or `LAYOUT:FOLDER[:VARIANT]` names, of the split that is kept from training.

    What follows the last colon is the variant, unless the folder has that name. Raises `UserError` that names the
    layouts for anything else.
    """
    layout, separator, rest = text.partition(":")
    if layout not in LAYOUTS or bool(rest) != (layout != MOTORCYCLE) or bool(separator) != bool(rest):
        folders = ", ".join(sorted(LAYOUTS.keys() - {MOTORCYCLE}))
        raise UserError(
            f"--data {text}: expected {MOTORCYCLE} or LAYOUT:FOLDER[:VARIANT], where LAYOUT is one of {folders}"
        )
    folder, variant = rest, None
    if ":" in rest and not Path(rest).expanduser().is_dir():
        folder, _, variant = rest.rpartition(":")
    split = HELD_OUT_SPLITS.get(layout, "train")
    fields = {"layout": layout, "path": folder, "variant": variant, "split": split}
    return validate(HeldOutPairsSpec, fields, f"--data {text}")


def _spec(run: Path, recipe: Recipe, data: str | None, pairs: int | None) -> tuple[Spec, str]:
    """The pairs to score and how to call them."""
    own = recipe.data.validation
    if not isinstance(own, HeldOutSceneSpec | HeldOutPairsSpec):
        raise UserError(f"{run}: a run of videos; evaluate it with recipes.evaluate_run")
    spec: Spec = own if data is None else parse_data(data)
    if data is not None:
        described = data
    elif isinstance(own, HeldOutSceneSpec):
        described = f"made-up scenes of seed {own.seed}"
    else:
        described = ":".join(part for part in (own.layout, own.path, own.variant) if part)
    if pairs is not None:
        spec = spec.model_copy(update={"pairs": min(pairs, spec.pairs or pairs)})
    return spec, described


def _sources(student: students.Student, spec: object) -> tuple[dict[str, Source], list[str]]:
    """The student, its teacher and the baselines by name; and a line for each of them that is not to be had."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sources = {STUDENT: Source(functools.partial(of_network, student.to(device)), parameters(student))}
    left_out: list[str] = []

    def add(name: str, load: Callable[[], FlowTeacher]) -> None:
        try:
            teacher = load()
        except UserError as error:
            left_out.append(f"{name} left out: {error}")
            return
        if isinstance(teacher, nn.Module):
            teacher.to(device)
        params = parameters(teacher) if isinstance(teacher, nn.Module) else None
        sources[name] = Source(teacher.flow, params)

    if isinstance(spec, FlowTeacherSpec):
        add(TEACHER, functools.partial(load_flow_teacher, spec))
    for name in BASELINES:
        add(name, functools.partial(baseline, name))
    add(NETWORK, functools.partial(Raft, NETWORK))
    return sources, left_out


def _score(
    found: Sequence[HeldOutPair], sources: dict[str, Source], progress: Tracker
) -> tuple[list[PairErrors], dict[str, FlowMeter]]:
    """Each pair's errors, and the figures of each method over all of them."""
    totals = {name: FlowMeter() for name in sources}
    errors = []
    for place, source_pair in enumerate(found):
        pair = source_pair.read()
        epe: dict[str, float] = {}
        pixels = 0
        for number, (name, source) in enumerate(sources.items()):
            progress.update(place * len(sources) + number, name)
            meter = FlowMeter()
            meter.add(_flow(source.method, pair), pair.flow, pair.valid, pair.visible)
            totals[name].join(meter)
            scores = meter.report().all
            if scores is not None:
                epe[name], pixels = scores.epe, scores.pixels
        height, width = pair.image1.shape[1:]
        errors.append(PairErrors(name=source_pair.name, size=(height, width), pixels=pixels, epe=epe))
    return errors, totals


@torch.no_grad()
def _flow(method: Method, pair: FlowSample) -> torch.Tensor:
    return method(pair.image1[None], pair.image2[None])[0].float().cpu()
