"""The training task of optical flow: a student learns from the truth, from a frozen teacher, or from both."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from recipes.adversarial import Judged
from recipes.alignment import Alignment, tapped
from recipes.data.flow_sample import FlowSample
from recipes.flow_losses import agreement, lengths, pyramid_loss, smoothness
from recipes.flow_schema import CompactFlowSpec, FlowTeacherSpec
from recipes.schema import ObjectiveSpec, Recipe
from recipes.task import Losses, Task
from recipes.teachers.dis import Dis, FlowTeacher
from recipes.teachers.flow_student import FlowStudent
from recipes.teachers.raft import Raft
from toolkit import students
from toolkit.errors import UserError
from toolkit.students.compact_flow import FINEST, CompactFlow

PROBE_SIDE = 128  # of the images that feature heads are sized by


class FlowTask(Task):
    """`teacher` may be None where the objective asks for none."""

    def __init__(self, student: CompactFlow, teacher: FlowTeacher | None, objective: ObjectiveSpec) -> None:
        super().__init__()
        assert objective.flow is not None
        self.student: CompactFlow = student
        self.objective = objective
        self.teacher = teacher
        self.alignment = self._fit_heads() if objective.features else None

    def save(self, run: Path, student: nn.Module) -> None:
        assert isinstance(student, students.Student)
        students.save(student, run)

    def train(self, mode: bool = True) -> FlowTask:
        super().train(mode)
        if isinstance(self.teacher, nn.Module):
            self.teacher.eval()
        return self

    def forward(self, batch: FlowSample, judged: Judged | None = None) -> Losses:
        spec = self.objective.flow
        assert spec is not None
        names = [pair.student for pair in self.objective.features]
        with tapped(self.student, names) as ours:
            flows = self.student.flows(batch.image1, batch.image2)
        length = lengths(batch.flow)
        weight = (batch.valid & (length <= spec.max_flow)).float()
        weight = weight * torch.where(batch.visible, 1.0, spec.occluded)
        losses = {}
        if spec.weight:
            losses["flow"] = spec.weight * self._errors(flows, batch.flow, weight)
        if self.objective.distillation is not None:
            losses["distillation"] = self._distillation(batch, flows)
        if self.objective.smoothness is not None:
            unlabelled = ~batch.valid.flatten(1).any(dim=1)
            kinks = smoothness(flows[-1].float(), batch.image1.float() / 255, self.objective.smoothness.edge)
            losses["smoothness"] = self.objective.smoothness.weight * (kinks * unlabelled).mean()
        if self.alignment is not None:
            assert isinstance(self.teacher, FlowStudent)
            with torch.no_grad():
                theirs = self.teacher.features(batch.image1, batch.image2, [p.teacher for p in self.objective.features])
            losses["features"] = self.alignment(ours, theirs)
        return losses

    @torch.no_grad()
    def fault(self, batch: FlowSample) -> str | None:
        if not batch.flow.isfinite().all():
            return "the truth of a pair is not finite"
        if self.teacher is not None and not self.teacher.flow(batch.image1, batch.image2).isfinite().all():
            return "the teacher's flow of a pair is not finite: check its weights"
        return None

    def _errors(self, flows: list[torch.Tensor], target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        spec = self.objective.flow
        assert spec is not None
        steps = [*(FINEST * 2**level for level in reversed(range(self.student.config.levels))), 1]
        return pyramid_loss(flows, steps, target, weight, spec.gamma, spec.exponent)

    def _distillation(self, batch: FlowSample, flows: list[torch.Tensor]) -> torch.Tensor:
        spec, distillation = self.objective.flow, self.objective.distillation
        assert spec is not None
        assert distillation is not None
        assert self.teacher is not None
        with torch.no_grad():
            target = self.teacher.flow(batch.image1, batch.image2)
            known = lengths(target) <= spec.max_flow
            if distillation.consistent:
                known &= agreement(target, self.teacher.flow(batch.image2, batch.image1))
        return distillation.weight * self._errors(flows, target, known.float())

    @torch.no_grad()
    def _fit_heads(self) -> Alignment:
        """Heads sized by one pass over black images: block widths are facts of the networks, not of the recipe."""
        if not isinstance(self.teacher, FlowStudent):
            raise UserError("objective.features: only a teacher of kind student has features to align to")
        pairs = self.objective.features
        black = torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE, dtype=torch.uint8)
        theirs = self.teacher.features(black, black, [p.teacher for p in pairs])
        self.student.eval()  # black images must not enter the statistics of its batch norms
        with tapped(self.student, [p.student for p in pairs]) as ours:
            self.student.flows(black, black)
        return Alignment(pairs, ours, theirs)


def build_flow_task(recipe: Recipe) -> FlowTask:
    """The task that a recipe of a flow student describes; raises `UserError` where a part of it is not to be had."""
    assert isinstance(recipe.student, CompactFlowSpec)
    student = students.build(recipe.student.kind, recipe.student.preset, recipe.student.overrides)
    assert isinstance(student, CompactFlow)
    if recipe.student.start is not None:
        _take_weights(student, Path(recipe.student.start))
    teacher = None
    if recipe.teacher is not None:
        assert isinstance(recipe.teacher, FlowTeacherSpec)
        teacher = load_flow_teacher(recipe.teacher)
    return FlowTask(student, teacher, recipe.objective)


def load_flow_teacher(spec: FlowTeacherSpec) -> FlowTeacher:
    """A frozen teacher; raises `UserError` with the remedy where its weights are not to be had."""
    if spec.kind == "dis":
        return Dis(spec.preset)
    if spec.kind == "raft":
        return Raft(spec.name, None if spec.weights is None else Path(spec.weights).expanduser(), spec.updates)
    return FlowStudent(Path(spec.run).expanduser())


def _take_weights(student: CompactFlow, run: Path) -> None:
    start = students.load(run)
    if start.config != student.config:
        raise UserError(f"student.start: the student of {run} has another configuration; name one of this recipe's")
    student.load_state_dict(start.state_dict())
