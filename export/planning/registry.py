"""Which function plans for which back end, and what a plan says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch.export import ExportedProgram
from torch.fx import Node

from export.lowering.lower import ORIGIN


@dataclass(frozen=True)
class Stopped:
    """A node that the back end refuses, why, and what to do about it."""

    node: Node
    reason: str
    remedy: str


def origin(node: Node) -> str:
    """The name of the model's node that a node of the lowered graph was made for; its own where that is unknown."""
    return str((node.meta.get("custom") or {}).get(ORIGIN, node.name))


@dataclass(frozen=True)
class Outside:
    """A node that runs, but not on the accelerator."""

    node: Node
    operator: str


@dataclass(frozen=True)
class Plan:
    """What a back end makes of a program; the share is that of operators inside its delegates."""

    refused: list[Stopped] = field(default_factory=list)
    outside: list[Outside] = field(default_factory=list)
    delegates: int | None = None
    delegated_share: float | None = None


Planner = Callable[[ExportedProgram], Plan]
_PLANNERS: dict[str, Planner] = {}


def plans(backend: str) -> Callable[[Planner], Planner]:
    """Register the planner of the targets `backend-PRECISION`."""

    def add(planner: Planner) -> Planner:
        _PLANNERS[backend] = planner
        return planner

    return add


def find_planner(target: str) -> Planner | None:
    """The planner of a target, None where its back end has none."""
    return _PLANNERS.get(target.rpartition("-")[0])
