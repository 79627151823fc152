"""What every artifact of a bundle is made from, and how it goes from one process to another: as a folder of files."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from export.calls import Call

MAIN = "main"
PROGRAM, REST = "program.pt2", "rest.pickle"
#: Fields of a call that do not go as they are: programs have a format of their own.
PROGRAMS = ("lowered", "program", "trace")


@dataclass(frozen=True)
class Material:
    """The main call, the same model's calls of other sizes by name, and figures of the graph; with a budget in dB, what
    artifacts of lower precision are to reach by layers that keep the higher one."""

    call: Call
    estimates: dict[str, int]
    sizes: Mapping[str, Call] = field(default_factory=dict)
    budget_db: float | None = None

    @property
    def calls(self) -> dict[str, Call]:
        """All calls by name, the main one first."""
        return {MAIN: self.call, **self.sizes}

    @property
    def weight_bytes(self) -> int:
        """Bytes of the main program's weights."""
        return sum(tensor.numel() * tensor.element_size() for _, tensor in weights(self.call.program))


def rest(call: Call) -> dict[str, Any]:
    """All of a call but its programs, by the names of its fields: arrays, and what the manifest says."""
    return {each.name: getattr(call, each.name) for each in fields(call) if each.name not in PROGRAMS}


def weights(program: ExportedProgram) -> list[tuple[str, torch.Tensor]]:
    """The tensors that a program holds, in the order of their names."""
    held = {**program.state_dict, **program.constants}
    return sorted((name, tensor) for name, tensor in held.items() if isinstance(tensor, torch.Tensor))


def write(folder: Path, material: Material) -> None:
    """Write the material into `folder`, without PyTorch's own programs, which only the bundle needs."""
    (folder / REST).write_bytes(pickle.dumps((list(material.sizes), material.estimates, material.budget_db)))
    for name, call in material.calls.items():
        place = folder / name
        place.mkdir()
        torch.export.save(call.program, place / PROGRAM)
        (place / REST).write_bytes(pickle.dumps(rest(call)))


def read(folder: Path) -> Material:
    """The material that `write` left in `folder`."""
    sizes, estimates, budget_db = pickle.loads((folder / REST).read_bytes())
    return Material(
        _read_call(folder / MAIN), estimates, {name: _read_call(folder / name) for name in sizes}, budget_db
    )


def _read_call(place: Path) -> Call:
    program = torch.export.load(place / PROGRAM)

    def not_here() -> ExportedProgram:
        raise RuntimeError("PyTorch's own program stays in the process that traces it")

    return Call(lowered=program.module(), program=program, trace=not_here, **pickle.loads((place / REST).read_bytes()))
