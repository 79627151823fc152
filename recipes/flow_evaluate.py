"""How good a flow student is on held-out pairs, beside its teacher and methods that need no training.

Of several processes each scores its share of the pairs; figures are summed in the order of the pairs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn

from recipes.data.flow_layouts import FlowRecord, find_pairs, read_pair
from recipes.data.flow_sample import FlowSample
from recipes.data.synthetic_flow import SyntheticFlow
from recipes.evaluate import parameters
from recipes.flow_schema import HeldOutPairsSpec, HeldOutSceneSpec
from recipes.flow_task import FlowTask
from recipes.processes import gather_to_first, in_order
from recipes.schema import asset_path
from recipes.task import Validation
from recipes.teachers.dis import FlowTeacher, baseline
from toolkit.errors import UserError
from toolkit.evaluation import FlowEvaluation
from toolkit.flow_metrics import FlowMeter, FlowReport, FlowScores
from toolkit.flow_pictures import pair_pictures, write_png
from toolkit.progress import track
from toolkit.task import SMALLEST_SIDE

BASELINES = ("zero", "farneback", "dis-fast", "dis-medium")
SAMPLES_KEPT = 2

Method = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class HeldOutFlow:
    """Held-out pairs, of which each process keeps its share, and the task whose student is scored on them."""

    def __init__(self, task: FlowTask, spec: HeldOutSceneSpec | HeldOutPairsSpec, fabric: Fabric) -> None:
        self.task = task
        self.share = held_out_pairs(spec, fabric.global_rank, fabric.world_size)

    @torch.no_grad()
    def validate(self, fabric: Fabric, student: nn.Module) -> Validation:
        """The averaged student's errors over the pairs of all processes, in fp32, and a picture of the first pair."""
        scores = overall(self._report(fabric, functools.partial(of_network, student.eval())))
        return Validation(
            figures={"epe": scores.epe, "fl_percent": scores.fl_percent},
            text=f"EPE {scores.epe:.3f} px",
            score=-scores.epe,
            picture=functools.partial(self._draw, student) if fabric.is_global_zero else None,
        )

    @torch.no_grad()
    def evaluate(self, fabric: Fabric, student: nn.Module) -> tuple[FlowEvaluation, dict[str, torch.Tensor]]:
        """Figures of student, teacher and baselines over the pairs of all processes, and the first pairs' tensors.

        The tensors, which only the first process gets: `image1.N`, `image2.N` fp32 `(1, 3, H, W)` in [0, 1],
        `truth.N` and `student.N` fp32 `(2, H, W)`, `visible.N` and `valid.N` bool `(H, W)`.
        """
        methods: dict[str, Method] = {"student": functools.partial(of_network, student.eval())}
        if self.task.teacher is not None:
            methods["teacher"] = functools.partial(_of_teacher, self.task.teacher)
        methods |= {name: functools.partial(_of_teacher, baseline(name)) for name in BASELINES}
        reports: dict[str, FlowReport] = {}
        with track("evaluate", len(methods)) as progress:
            for number, (name, method) in enumerate(methods.items()):
                progress.update(number, name)
                reports[name] = self._report(fabric, method)
            progress.update(len(methods), "done")
        evaluation = FlowEvaluation(
            pairs=len(in_order(fabric, [1] * len(self.share))),
            student=reports["student"],
            teacher=reports.get("teacher"),
            baselines={name: reports[name] for name in BASELINES},
            student_params=parameters(student),
        )
        samples = gather_to_first(fabric, self._tensors(fabric, methods["student"]))
        return evaluation, {name: tensor for some in samples for name, tensor in some.items()}

    def _report(self, fabric: Fabric, method: Method) -> FlowReport:
        meters = []
        for pair in self.share:
            meter = FlowMeter()
            flow = method(pair.image1[None], pair.image2[None])[0].cpu()
            meter.add(flow, pair.flow, pair.valid, pair.visible)
            meters.append(meter)
        total = FlowMeter()
        for meter in in_order(fabric, meters):
            total.join(meter)
        return total.report()

    def _tensors(self, fabric: Fabric, method: Method) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = {}
        for place, pair in enumerate(self.share):
            number = fabric.global_rank + place * fabric.world_size
            if number < SAMPLES_KEPT:
                images = {"image1": pair.image1[None].float() / 255, "image2": pair.image2[None].float() / 255}
                flow = method(pair.image1[None], pair.image2[None])[0].float().cpu()
                masks = {"visible": pair.visible, "valid": pair.valid}
                found = {**images, "truth": pair.flow, "student": flow, **masks}
                tensors |= {f"{name}.{number}": tensor for name, tensor in found.items()}
        return tensors

    @torch.no_grad()
    def _draw(self, student: nn.Module, path: Path) -> None:
        """First frame and truth; below them the student's flow and where it is wrong."""
        pair = self.share[0]
        draw_pair(path, pair, of_network(student, pair.image1[None], pair.image2[None])[0].float().cpu())


@dataclass(frozen=True)
class HeldOutPair:
    """A pair by its name within the data; `read` gives it, and raises `UserError` where that cannot be."""

    name: str
    read: Callable[[], FlowSample]


def find_held_out(spec: HeldOutSceneSpec | HeldOutPairsSpec) -> list[HeldOutPair]:
    """The pairs that `spec` names, none of them read yet; raises `UserError` where the data are not to be had."""
    if isinstance(spec, HeldOutSceneSpec):
        scenes = SyntheticFlow(spec, spec.seed)
        return [
            HeldOutPair(f"scene {number}", functools.partial(_scene, scenes, number)) for number in range(spec.pairs)
        ]
    records = find_pairs(spec.layout, asset_path(spec.path), spec.split, spec.variant)
    count = min(spec.pairs or len(records), len(records))
    spread = (records[number * len(records) // count] for number in range(count))
    return [HeldOutPair(record.name, functools.partial(_recorded, record)) for record in spread]


def held_out_pairs(spec: HeldOutSceneSpec | HeldOutPairsSpec, rank: int = 0, world: int = 1) -> list[FlowSample]:
    """Every `world`-th pair from `rank` on, in memory.

    Raises `UserError` where there is none, and where the images of one are too small for a student.
    """
    return [pair.read() for pair in find_held_out(spec)[rank::world]]


def draw_pair(path: Path, pair: FlowSample, flow: torch.Tensor) -> None:
    """A PNG of the first frame and the truth, and below them `flow` `(2, H, W)` and where it is wrong."""
    write_png(path, pair_pictures(pair.image1, pair.flow, pair.valid, flow).rows())


def check_size(pair: FlowSample, where: str) -> FlowSample:
    """The same pair; raises `UserError` where its images are too small for a student."""
    height, width = pair.image1.shape[1:]
    if min(height, width) < SMALLEST_SIDE:
        raise UserError(f"{where}: images of {height}x{width}; flow takes {SMALLEST_SIDE}x{SMALLEST_SIDE} at least")
    return pair


def overall(report: FlowReport) -> FlowScores:
    """The figures over all pixels; raises `UserError` where the truth of none is known."""
    if report.all is None:
        raise UserError("data.validation: no pixel has a known truth; name other pairs")
    return report.all


def of_network(network: nn.Module, image1: torch.Tensor, image2: torch.Tensor) -> torch.Tensor:
    """A student's flow `(B, 2, H, W)` of images `(B, 3, H, W)` uint8, on the student's device."""
    device = next(network.parameters()).device
    flow = network(image1.to(device), image2.to(device))
    assert isinstance(flow, torch.Tensor)
    return flow


def _of_teacher(teacher: FlowTeacher, image1: torch.Tensor, image2: torch.Tensor) -> torch.Tensor:
    return teacher.flow(image1, image2)


def _scene(scenes: SyntheticFlow, number: int) -> FlowSample:
    return check_size(scenes[number], "data.validation")


def _recorded(record: FlowRecord) -> FlowSample:
    return check_size(read_pair(record), str(record.image1))
