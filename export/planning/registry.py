"""Which function plans for which back end, and what a plan says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from weakref import WeakKeyDictionary

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
    """A node that runs, but not on the accelerator: on which `unit`, and why.

    A rule that is not `certain` is only likely to be right, and does not count against the accelerator's share.
    """

    node: Node
    operator: str
    unit: str = "CPU"
    reason: str = ""
    certain: bool = True


@dataclass(frozen=True)
class Plan:
    """What a back end makes of a program.

    `accelerator` is where operators run that are not `outside`, None where the back end has none; `share` is that of
    operators on it, and `delegates` the number of pieces, where the back end cuts the graph into pieces. `note` says
    what could not be found out.
    """

    refused: list[Stopped] = field(default_factory=list)
    outside: list[Outside] = field(default_factory=list)
    accelerator: str | None = None
    delegates: int | None = None
    share: float | None = None
    note: str = ""


Planner = Callable[[ExportedProgram], Plan]
_PLANNERS: dict[str, Planner] = {}


def once(planner: Planner) -> Planner:
    """A planner that remembers what it made of a program for as long as that program lives."""
    made: WeakKeyDictionary[ExportedProgram, Plan] = WeakKeyDictionary()

    @wraps(planner)
    def remembered(program: ExportedProgram) -> Plan:
        if program not in made:
            made[program] = planner(program)
        return made[program]

    return remembered


def plans(*prefixes: str) -> Callable[[Planner], Planner]:
    """Register the planner of the targets whose names begin with one of `prefixes`, such as `coreml`."""

    def add(planner: Planner) -> Planner:
        _PLANNERS.update(dict.fromkeys(prefixes, planner))
        return planner

    return add


def find_planner(target: str) -> Planner | None:
    """The planner with the longest prefix of a target's name, word by word; None where its back end has none."""
    words = target.split("-")
    names = ["-".join(words[:count]) for count in range(len(words), 0, -1)]
    return next((_PLANNERS[name] for name in names if name in _PLANNERS), None)
