"""Inner values of a Core ML program, by the reference evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from coremltools.converters.mil.mil import types

from export import mil_reference
from export.bisect_walk import Value


class MilValues:
    """The values of the package at `path` for `inputs`, in the order of its program's inputs, states last."""

    def __init__(self, path: Path, inputs: Sequence[np.ndarray]) -> None:
        self._program = mil_reference.load(path)
        function = mil_reference.main_function(self._program)
        self.values = [
            Value(result.name, op.op_type, _inputs(op), tuple(int(side) for side in result.shape))
            for op in function.operations
            if op.op_type != "const" and not op.op_type.startswith("constexpr_")
            for result in op.outputs
            if not types.is_state(result.sym_type)
        ]
        self.outputs = [output.name for output in function.outputs]
        kept = [name for name, variable in function.inputs.items() if types.is_state(variable.sym_type)]
        count = len(function.inputs) - len(kept)
        self._inputs = list(inputs[:count])
        self._states = dict(zip(kept, inputs[count:], strict=True))

    def read(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """These values."""
        watch: dict[str, np.ndarray | None] = dict.fromkeys(names)
        states = {name: torch.from_numpy(array.copy()) for name, array in self._states.items()}
        mil_reference.evaluate(self._program, self._inputs, states, watch)
        return {name: array for name, array in watch.items() if array is not None}


def _inputs(op: object) -> tuple[str, ...]:
    found: list[str] = []
    for given in op.inputs.values():  # type: ignore[attr-defined]
        found += [item.name for item in (given if isinstance(given, list | tuple) else [given]) if item is not None]
    return tuple(found)
