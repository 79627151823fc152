"""Evaluate a Core ML ML program on any machine, one MIL operator at a time, to check what was converted.

It checks the program's meaning and the effect of fp16 by rounding every floating-point result to the type that
the program gives it; it says nothing of Apple's runtime, of placement or of latency. Operators it does not know
(`export.mil_operators`, `export.mil_math`, `export.mil_places`) are refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import coremltools
import numpy as np
import torch
from coremltools.converters.mil.frontend.milproto.load import load as load_mil
from coremltools.converters.mil.mil import Function, Operation, Program, Var, types

import export.mil_math
import export.mil_places
import export.mil_quantized  # noqa: F401  (they make their operators known)
from export.mil_operators import BINARY, DTYPES, OPERATORS, UNARY, wide
from toolkit.errors import CheckFailed, unknown_name


def load(package: Path) -> Program:
    """The MIL program of an `.mlpackage`, as saved."""
    model = coremltools.models.MLModel(str(package), skip_model_load=True)
    spec = model.get_spec()
    program = load_mil(spec, spec.specificationVersion, model.weights_dir)
    assert isinstance(program, Program)
    return program


def main_function(program: Program) -> Function:
    """The function that is called unless another one is named."""
    return function_of(program, "main")


def function_of(program: Program, name: str) -> Function:
    """The program's function of this name; raises `UserError` with the known names."""
    if name not in program.functions:
        raise unknown_name("function", name, program.functions)
    return program.functions[name]


@torch.no_grad()
def evaluate(
    program: Program,
    inputs: Sequence[np.ndarray],
    states: dict[str, torch.Tensor] | None = None,
    watch: dict[str, np.ndarray | None] | None = None,
    name: str = "main",
) -> list[np.ndarray]:
    """Outputs of the program as fp32 arrays; raises `CheckFailed` on an operator that is not known here.

    `states` holds Core ML states by name from call to call; those that it lacks are zeros. The values named in `watch`
    are put there. `name` is the function's.
    """
    function = function_of(program, name)
    values: dict[Var, Any] = {}
    states = {} if states is None else states
    given = iter(inputs)
    for key, variable in function.inputs.items():
        if types.is_state(variable.sym_type):
            values[variable] = states.setdefault(key, torch.zeros(tuple(variable.shape)))
        else:
            values[variable] = torch.from_numpy(np.asarray(next(given)))
    for operation in function.operations:
        if operation.op_type == "const":
            values[operation.outputs[0]] = operation.val.val
        elif operation.op_type.startswith("constexpr_"):
            values[operation.outputs[0]] = operation.materialized_val_inference()
        elif operation.op_type == "read_state":
            values[operation.outputs[0]] = values[operation.inputs["input"]]
        elif operation.op_type == "coreml_update_state":
            held = values[operation.inputs["value"]]
            states[operation.inputs["state"].name] = values[operation.outputs[0]] = held
        else:
            _execute(operation, values)
        for variable in operation.outputs if watch else ():
            if watch is not None and variable.name in watch:
                watch[variable.name] = torch.as_tensor(values[variable]).numpy()
    return [values[output].float().numpy() for output in function.outputs]


def _execute(operation: Operation, values: dict[Var, Any]) -> None:
    name = operation.op_type
    given = {key: _value(item, values) for key, item in operation.inputs.items()}
    if name in UNARY:
        result: Any = UNARY[name](wide(given["x"]))
    elif name in BINARY:
        result = BINARY[name](wide(given["x"]), wide(given["y"]))
    elif name in OPERATORS:
        result = OPERATORS[name](given)
    else:
        raise CheckFailed(f"Core ML reference: MIL operator '{name}' is not known, so parity cannot be shown")
    for variable, tensor in zip(operation.outputs, result if isinstance(result, list) else [result], strict=True):
        rounded = tensor.to(_dtype(variable))
        if tuple(rounded.shape) != tuple(variable.shape):
            raise CheckFailed(
                f"Core ML reference: {name} '{variable.name}' gave {tuple(rounded.shape)}, not {variable.shape}"
            )
        values[variable] = rounded


def _dtype(variable: Var) -> torch.dtype:
    return DTYPES[types.builtin_to_string(variable.dtype)]


def _value(item: Any, values: dict[Var, Any]) -> Any:
    if item is None:
        return None
    if isinstance(item, list | tuple):
        return [_value(i, values) for i in item]
    return values.get(item, item.val)
