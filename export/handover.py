"""What every artifact of a bundle is made from, and how it goes from one process to another: as a folder of files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.export import ExportedProgram

from export.calls import Call
from toolkit.bundle import TensorInfo
from toolkit.schema import StrictModel
from toolkit.streaming import StreamFacts
from toolkit.tiling import Tiling

MAIN = "main"


@dataclass(frozen=True)
class Material:
    """The main call, the same model's calls of other sizes by name, and figures of the graph."""

    call: Call
    estimates: dict[str, int]
    sizes: Mapping[str, Call] = field(default_factory=dict)

    @property
    def calls(self) -> dict[str, Call]:
        """All calls by name, the main one first."""
        return {MAIN: self.call, **self.sizes}

    @property
    def weight_bytes(self) -> int:
        """Bytes of the main program's weights."""
        return sum(tensor.numel() * tensor.element_size() for _, tensor in weights(self.call.program))


class Signature(StrictModel):
    """All of a call that is neither program nor array."""

    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    states: list[TensorInfo]
    stream: StreamFacts | None
    tiling: Tiling | None
    estimates: dict[str, int]


def signature(call: Call, estimates: Mapping[str, int]) -> Signature:
    """The call's, as it is stored and hashed."""
    return Signature(
        inputs=call.inputs,
        outputs=call.outputs,
        states=call.states,
        stream=call.stream,
        tiling=call.tiling,
        estimates=dict(estimates),
    )


def arrays(call: Call) -> dict[str, np.ndarray]:
    """The sample and the inputs to calibrate on, by names of their own."""
    found = {f"sample {name}": array for name, array in call.sample.items()}
    for number, inputs in enumerate(call.calibration):
        found |= {f"calibration {number} {place}": array for place, array in enumerate(inputs)}
    return found


def weights(program: ExportedProgram) -> list[tuple[str, torch.Tensor]]:
    """The tensors that a program holds, in the order of their names."""
    held = {**program.state_dict, **program.constants}
    return sorted((name, tensor) for name, tensor in held.items() if isinstance(tensor, torch.Tensor))


def write(folder: Path, material: Material) -> None:
    """Write the material into `folder`."""
    for number, (name, call) in enumerate(material.calls.items()):
        place = folder / f"{number:03d} {name}"  # reading keeps the order
        place.mkdir()
        torch.export.save(call.program, place / "program.pt2")
        np.savez(place / "arrays.npz", **arrays(call))  # type: ignore[arg-type]
        (place / "signature.json").write_text(signature(call, material.estimates).model_dump_json(), encoding="utf-8")


def read(folder: Path) -> Material:
    """The material that `write` left in `folder`."""
    calls = {place.name[4:]: _read_call(place) for place in sorted(folder.iterdir())}
    main, estimates = calls.pop(MAIN)
    return Material(main, estimates, {name: call for name, (call, _) in calls.items()})


def _read_call(place: Path) -> tuple[Call, dict[str, int]]:
    program = torch.export.load(place / "program.pt2")
    facts = Signature.model_validate_json((place / "signature.json").read_bytes())
    sample: dict[str, np.ndarray] = {}
    calibration: dict[int, list[np.ndarray]] = {}
    with np.load(place / "arrays.npz") as stored:
        for key in stored.files:  # in the order in which they were written
            kind, _, name = key.partition(" ")
            if kind == "sample":
                sample[name] = stored[key]
            else:
                calibration.setdefault(int(name.split()[0]), []).append(stored[key])
    call = Call(
        lowered=program.module(),
        program=program,
        inputs=facts.inputs,
        outputs=facts.outputs,
        sample=sample,
        states=facts.states,
        stream=facts.stream,
        tiling=facts.tiling,
        calibration=list(calibration.values()),
    )
    return call, facts.estimates
