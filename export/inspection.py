"""What stands between a model and its targets, before any training; or what a bundle's artifacts consist of.

`inspect_module` names everything that the lowering refuses, and everything that each target refuses of what can be
lowered. The model is not exported whole: delegates are planned by the back end's own partitioner, unusual operators are
converted one by one, and figures are estimated from shapes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.traceback import preserve_node_meta

from export.annotated_graph import annotated_graph
from export.device_fit import DeviceEstimate, estimates
from export.figures import Estimates, ModelFigures, figures
from export.lowering import LoweringError
from export.lowering.lower import VIDEO_RANK, exported, lower_in_part, program_of, to_frames
from export.lowering.refusal import WHOLE, layer, shapes_taken, source_line
from export.planning import Outside, Plan, Planner, Stopped, find_planner, origin
from export.targets import all_targets, find_target
from toolkit.bundle import open_bundle
from toolkit.device_facts import DeviceFacts
from toolkit.errors import UserError
from toolkit.files import write_atomic
from toolkit.parity import Parity
from toolkit.progress import track
from toolkit.schema import StrictModel

OUTSIDE = "cpu:"
MOST_NAMED = 5
MODEL = "the model"
LOWERED = "handheld_lowered"
#: How precisions begin that change the graph after what is planned here.
QUANTIZED = ("int", "pal", "w8")


class Obstacle(StrictModel):
    """One operator that is refused: where it stands, for which targets, why, and what to do about it."""

    targets: list[str]
    operator: str
    layer: str
    shapes: list[list[int | str]] = []
    source: str = ""
    reason: str
    remedy: str

    def named(self) -> str:
        """The operator with its layer."""
        return self.operator if self.layer == WHOLE else f"{self.operator} in layer '{self.layer}'"


class OffAccelerator(StrictModel):
    """An operator that runs, but not on the target's accelerator: how often, in which layers, where instead, and why.

    One that is not `certain` is only likely to leave it, and the share does not count it.
    """

    operator: str
    count: int
    layers: list[str]
    unit: str = "CPU"
    reason: str = ""
    certain: bool = True


class TargetPlan(StrictModel):
    """What becomes of the model for one target; `obstacles` counts those that stop it.

    `share` is that of operators on the accelerator, None where a back end has none, and where the model cannot be
    lowered whole. `delegates` are the pieces that it is cut into. `note` says what could not be found out.
    """

    target: str
    obstacles: int = 0
    how: Literal["planned"] = "planned"
    accelerator: str | None = None
    delegates: int | None = None
    share: float | None = None
    outside: list[OffAccelerator] = []
    note: str = ""

    @property
    def will_run(self) -> bool:
        """Whether nothing is known that stops it."""
        return self.obstacles == 0


class Inspection(StrictModel):
    """All that is known of a model ahead of an export; without estimates where it cannot even be captured."""

    model: str
    inputs: list[list[int]]
    obstacles: list[Obstacle]
    targets: list[TargetPlan]
    estimates: ModelFigures | None = None
    devices: list[DeviceEstimate] = []

    def refusal(self) -> UserError | None:
        """The error of an export that would be refused: the operators by name, with their layers."""
        if not self.obstacles:
            return None
        named = list(dict.fromkeys(obstacle.named() for obstacle in self.obstacles))
        more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
        first = self.obstacles[0]
        if first.operator == MODEL:
            return UserError(f"{self.model}: {first.reason}")
        return UserError(
            f"{self.model}: refused: {', '.join(named[:MOST_NAMED])}{more}. "
            f"The first, for {', '.join(first.targets)}: {first.reason}. {first.remedy}"
        )


class ArtifactFacts(StrictModel):
    """What the manifest of a bundle says of one artifact's graph."""

    target: str
    mode: str
    max_rank: int
    delegates: int | None
    delegated_share: float | None
    outside: dict[str, int]
    how: Literal["planned"] = "planned"
    estimates: Estimates
    parity: Parity


def inspect_module(
    module: nn.Module,
    inputs: Sequence[torch.Tensor],
    targets: Sequence[str] = (),
    name: str = "",
    graph: Path | None = None,
    devices: Sequence[DeviceFacts] = (),
) -> Inspection:
    """Everything that stops `module` from being exported to `targets` (all of them where none is named).

    `graph` is a file to write the lowered graph to, annotated, for Model Explorer; `devices` are those to estimate fit
    and latency on. Raises `UserError` only on unknown targets: what is wrong with the model stands in the result.
    """
    chosen = [find_target(target).name for target in dict.fromkeys(targets)] or sorted(all_targets())
    shapes = [list(x.shape) for x in inputs]
    found = Inspection(model=name or type(module).__name__, inputs=shapes, obstacles=[], targets=[])
    with track("inspect", len(chosen) + 2) as progress, torch.no_grad():
        progress.update(0, "capture")
        try:
            program = exported(module, inputs)
            progress.update(1, "lowering")
            lowered, errors = lower_in_part(program, inputs)
        except LoweringError as error:
            found.obstacles = [_refused(error, chosen)]
            found.targets = [TargetPlan(target=target, obstacles=1, note="not planned") for target in chosen]
            return found
        found.obstacles = _distinct(_refused(error, chosen) for error in errors)
        stopped = len(found.obstacles)
        frames = [to_frames(x) if x.ndim == VIDEO_RANK else x for x in inputs]
        with preserve_node_meta():  # so that every node of the lowered graph says what it was made for
            rank_4 = program_of(lowered, frames)
        planning = _Planning(rank_4, {node.name: node for node in program.graph.nodes}, whole=not errors)
        for number, target in enumerate(chosen):
            progress.update(number + 2, target)
            planned, obstacles = planning.of(target)
            found.targets.append(planned.model_copy(update={"obstacles": stopped + len(obstacles)}))
            found.obstacles = _shared([*found.obstacles, *obstacles])
        if errors:
            found.estimates = figures(module, inputs, program, layer)
        else:
            found.estimates = figures(module, frames, rank_4, planning.layer_of)
        running = [plan.target for plan in found.targets if plan.will_run]
        found.devices = estimates(found.estimates, running, devices)
        if graph is not None:
            write_atomic(graph, json.dumps(planning.graph(found.model, chosen)) + "\n")
        progress.update(len(chosen) + 2, "done")
    return found


def inspect_bundle(bundle: Path, targets: Sequence[str] = ()) -> list[ArtifactFacts]:
    """What stands in a bundle's manifest, for each artifact (or those of `targets`).

    Raises `CheckFailed` where the bundle was changed and `UserError` where `bundle` is none or lacks a target.
    """
    manifest = open_bundle(bundle)
    artifacts = [manifest.artifact(target) for target in dict.fromkeys(targets)] or manifest.artifacts
    return [
        ArtifactFacts(
            target=artifact.target,
            mode=artifact.mode,
            max_rank=artifact.graph.max_rank,
            delegates=artifact.graph.delegates,
            delegated_share=artifact.graph.delegated_share,
            outside={
                name.removeprefix(OUTSIDE): count
                for name, count in artifact.graph.operators.items()
                if name.startswith(OUTSIDE)
            },
            estimates=Estimates(
                params=artifact.graph.params,
                macs=artifact.graph.macs,
                peak_activation_bytes=artifact.graph.peak_activation_bytes,
            ),
            parity=artifact.parity,
        )
        for artifact in artifacts
    ]


class _Planning:
    """The lowered program, and what its planners made of it: targets of one back end are planned once."""

    def __init__(self, program: ExportedProgram, origins: Mapping[str, Node], whole: bool) -> None:
        self.program, self.origins, self.whole = program, origins, whole
        self._plans: dict[Planner, Plan | Exception] = {}
        for node in program.graph.nodes:  # torch carries it along through every decomposition
            node.meta["custom"] = {**(node.meta.get("custom") or {}), LOWERED: node.name}

    def layer_of(self, node: Node) -> str:
        """The layer of the model that a node of the lowered graph was made for."""
        return layer(_origin(node, self.origins))

    def graph(self, name: str, targets: Sequence[str]) -> dict[str, Any]:
        """The lowered graph with what was planned for the targets, for Model Explorer; of a part, what is refused."""
        placements: dict[str, dict[str, str]] = {}
        refused: dict[str, dict[str, str]] = {}
        for target in targets:
            planner = find_planner(target)
            plan = None if planner is None else self._made_by(planner)
            if isinstance(plan, Plan):
                refused[target] = {_lowered(stop.node): stop.reason for stop in plan.refused}
                if self.whole and plan.share is not None:
                    placements[target] = _leaving(plan.outside)
        return annotated_graph(name, self.program, lambda node: _origin(node, self.origins), placements, refused)

    def of(self, target: str) -> tuple[TargetPlan, list[Obstacle]]:
        """What one target makes of the program; of a part of one (not `whole`), only what it refuses."""
        planner = find_planner(target)
        if planner is None:
            return TargetPlan(target=target, note="nothing plans for this target: only `handheld export` tells"), []
        plan = self._made_by(planner)
        unplanned = TargetPlan(target=target, note="not planned: the model cannot be lowered whole")
        if isinstance(plan, Exception):
            reason = f"the converter fails: {' '.join(f'{type(plan).__name__}: {plan}'.split())[:200]}"
            if not self.whole:
                return TargetPlan(target=target, note=f"{unplanned.note}; of what can be, {reason}"), []
            remedy = "Export another target, or report this model"
            return TargetPlan(target=target, note=reason), [
                Obstacle(targets=[target], operator="the graph", layer=WHOLE, reason=reason, remedy=remedy)
            ]
        obstacles = _distinct(_stopped(target, stop, self.origins) for stop in plan.refused)
        if not self.whole:
            return unplanned, obstacles
        return _target_plan(target, plan, self.origins), obstacles

    def _made_by(self, planner: Planner) -> Plan | Exception:
        if planner not in self._plans:
            try:
                self._plans[planner] = planner(self.program)
            except Exception as error:  # noqa: BLE001  (other people's code, which raises what it likes)
                self._plans[planner] = error
        return self._plans[planner]


def _lowered(node: Node) -> str:
    """The name of the node of the lowered graph that a node of a planner's graph was made for."""
    return str((node.meta.get("custom") or {}).get(LOWERED, node.name))


def _leaving(rows: Sequence[Outside]) -> dict[str, str]:
    """Where each node of the lowered graph runs, and why; of one that became several operators, all of those."""
    said: dict[str, dict[str, None]] = {}
    for row in rows:
        where = f"{row.unit}: {row.operator}{'' if row.certain else '?'} {row.reason}"
        said.setdefault(_lowered(row.node), {})[where] = None
    return {name: "; ".join(every) for name, every in said.items()}


def _target_plan(target: str, plan: Plan, origins: Mapping[str, Node]) -> TargetPlan:
    notes, known = [plan.note], find_target(target)
    if known.keeps_states:
        notes.append("for --mode stream only")
    if known.adapt is not None:
        notes.append("for video decoders and optical flow only")
    if target.rpartition("-")[2].startswith(QUANTIZED):
        notes.append("planned before quantization")
    return TargetPlan(
        target=target,
        accelerator=plan.accelerator,
        delegates=plan.delegates,
        share=plan.share,
        outside=_off(plan.outside, origins),
        note="; ".join(note for note in notes if note),
    )


def _refused(error: LoweringError, targets: list[str]) -> Obstacle:
    """What the lowering refuses, it refuses for every target."""
    if error.refused is None:
        return Obstacle(targets=targets, operator=MODEL, layer=WHOLE, reason=str(error), remedy="")
    return Obstacle(targets=targets, **asdict(error.refused))


def _stopped(target: str, stop: Stopped, origins: Mapping[str, Node]) -> Obstacle:
    """What a target refuses, said of the operator of the model that the refused one was made for."""
    node = _origin(stop.node, origins)
    return Obstacle(
        targets=[target],
        operator=str(node.target),
        layer=layer(node),
        shapes=shapes_taken(node),
        source=source_line(node),
        reason=stop.reason,
        remedy=stop.remedy,
    )


def _origin(node: Node, origins: Mapping[str, Node]) -> Node:
    return origins.get(origin(node), node)


def _off(nodes: Sequence[Outside], origins: Mapping[str, Node]) -> list[OffAccelerator]:
    layers: dict[tuple[str, str, str, bool], list[str]] = {}
    for row in nodes:
        layers.setdefault((row.operator, row.unit, row.reason, row.certain), []).append(
            layer(_origin(row.node, origins))
        )
    found = [
        OffAccelerator(
            operator=name, count=len(at), layers=list(dict.fromkeys(at)), unit=unit, reason=reason, certain=certain
        )
        for (name, unit, reason, certain), at in layers.items()
    ]
    return sorted(found, key=lambda row: (not row.certain, -row.count))


def _shared(obstacles: Iterable[Obstacle]) -> list[Obstacle]:
    """What several targets refuse for the same reason is one obstacle of them all."""
    found: dict[str, Obstacle] = {}
    for obstacle in obstacles:
        said = obstacle.model_dump_json(exclude={"targets"})
        known = found.get(said)
        targets = obstacle.targets if known is None else list(dict.fromkeys([*known.targets, *obstacle.targets]))
        found[said] = obstacle.model_copy(update={"targets": targets})
    return list(found.values())


def _distinct(obstacles: Iterable[Obstacle]) -> list[Obstacle]:
    """Each obstacle once: a layer that is called twice is one, and so is an operator that is taken apart."""
    seen: dict[tuple[object, ...], Obstacle] = {}
    for obstacle in obstacles:
        seen.setdefault((obstacle.operator, obstacle.layer, obstacle.source, str(obstacle.shapes)), obstacle)
    return list(seen.values())
