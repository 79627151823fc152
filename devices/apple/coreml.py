"""Core ML on this Mac, through coremltools: compile, load, call, and ask where it means to run what."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from devices.records import Placement, Unit

#: coremltools' names of the compute units.
UNITS: dict[Unit, str] = {
    "all": "ALL",
    "cpuOnly": "CPU_ONLY",
    "cpuAndGPU": "CPU_AND_GPU",
    "cpuAndNeuralEngine": "CPU_AND_NE",
}
#: What a device of Core ML's is called here, by coremltools' class for it.
DEVICES = {
    "MLCPUComputeDevice": "CPU",
    "MLGPUComputeDevice": "GPU",
    "MLNeuralEngineComputeDevice": "Neural Engine",
}
UNKNOWN = "unknown"


class Model(Protocol):
    """A compiled model that is loaded, as coremltools has it."""

    def predict(self, data: dict[str, Any], state: Any = None) -> dict[str, Any]: ...
    def make_state(self) -> Any: ...


class Backend(Protocol):
    """What is asked of Core ML. Its functions raise `RuntimeError` and the like where it fails."""

    name: str

    def compile(self, package: Path, into: Path) -> Path:
        """A package made into the `.mlmodelc` folder that apps load."""
        ...

    def load(self, compiled: Path, units: Unit) -> Model: ...
    def plan(self, compiled: Path, units: Unit) -> list[Placement]: ...


class CoreMLTools:
    """The real one; its methods work on macOS only."""

    def __init__(self) -> None:
        self.name = f"Core ML of macOS {platform.mac_ver()[0]}"

    def compile(self, package: Path, into: Path) -> Path:
        from coremltools.models.utils import compile_model

        return Path(compile_model(str(package), str(into / f"{package.stem}.mlmodelc")))

    def load(self, compiled: Path, units: Unit) -> Model:
        import coremltools

        return coremltools.models.CompiledMLModel(str(compiled), coremltools.ComputeUnit[UNITS[units]])

    def plan(self, compiled: Path, units: Unit) -> list[Placement]:
        import coremltools
        from coremltools.models.compute_plan import MLComputePlan

        return read_plan(MLComputePlan.load_from_path(str(compiled), coremltools.ComputeUnit[UNITS[units]]))


class Planned(NamedTuple):
    """One operator of a compute plan."""

    kind: str
    unit: str
    supported: tuple[str, ...]
    cost: float | None


def read_plan(plan: Any) -> list[Placement]:
    """A `MLComputePlan` by kinds of operators and their units; empty for a model that is no program."""
    program = plan.model_structure.program
    if program is None:
        return []
    return gathered(found for function in program.functions.values() for found in _planned(plan, function.block))


def gathered(planned: Iterable[Planned]) -> list[Placement]:
    """Operators of one kind that are meant for one unit together; the costliest first."""
    groups: defaultdict[tuple[str, str, tuple[str, ...]], list[float | None]] = defaultdict(list)
    for operator in planned:
        groups[operator[:3]].append(operator.cost)
    found = [
        Placement(kind=kind, unit=unit, supported=list(supported), operators=len(costs), cost_share=_sum(costs))
        for (kind, unit, supported), costs in groups.items()
    ]
    return sorted(found, key=lambda row: (-(row.cost_share or 0), row.kind, row.unit))


def _planned(plan: Any, block: Any) -> Iterator[Planned]:
    for operation in block.operations:
        kind = operation.operator_name.rsplit(".", 1)[-1]
        if kind != "const":
            usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
            cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
            unit = _unit(usage.preferred_compute_device) if usage is not None else UNKNOWN
            supported = tuple(sorted(map(_unit, usage.supported_compute_devices))) if usage is not None else ()
            yield Planned(kind, unit, supported, cost.weight if cost is not None else None)
        for inner in operation.blocks:
            yield from _planned(plan, inner)


def _unit(device: Any) -> str:
    return DEVICES.get(type(device).__name__, UNKNOWN)


def _sum(costs: Sequence[float | None]) -> float | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None
