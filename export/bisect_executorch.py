"""What is wrong in an ExecuTorch program, whose delegates show no inner values.

First the file is compared with a fresh conversion of the same program, operator by operator and constant by constant:
this finds what was changed in the file. Where both are the same, the converter or the runtime is at fault; then ever
longer beginnings of the program are converted anew and run, until one differs from PyTorch.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.fx import Node

from export.bisect_walk import Culprit, layer_name, layer_of
from export.pte import Instruction, instructions
from export.targets import Conversion, Target
from toolkit.errors import CheckFailed, HandheldError
from toolkit.parity import Execution, compare

NOTHING = Instruction("nothing", {})


def locate_in_pte(target: Target, path: Path, conversion: Conversion, inputs: Sequence[np.ndarray]) -> Culprit | None:
    """The first operator of the file that is not that of a fresh conversion; else the first that is converted wrongly.

    None where neither shows a difference. Raises `CheckFailed` where that says nothing, as operators inside a delegate
    are not shown. A lower precision is not looked at bit by bit: every beginning of the program
    loses something, and each would be a conversion of minutes.
    """
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / path.name
        target.convert(conversion, fresh)
        given = instructions(path)
        found = _changed(given, instructions(fresh), conversion.program)
        hidden = next((one for one in given if one.is_opaque), None)
        if found is None and hidden is not None:
            weights = ", and its weights are those of a fresh conversion" if hidden.constants else ""
            raise CheckFailed(f"the operators inside a {hidden.operator} are not shown{weights}")
        if found is not None or target.tolerance.max_share is None:
            return found
        return _converted_wrongly(target, Path(folder) / f"part-{path.name}", conversion, inputs)


def _changed(
    actual: Sequence[Instruction], expected: Sequence[Instruction], program: ExportedProgram
) -> Culprit | None:
    layer = ""
    for number, (given, right) in enumerate(zip_longest(actual, expected, fillvalue=NOTHING)):
        own = _layer(right, program)
        layer = own or layer
        where = (f"in {own}" if own else f"after {layer}") if layer else ""
        node = f"operator {number}"
        if given.operator != right.operator:
            return Culprit(given.operator, where, node, right.operator, given.operator, what="the file has")
        if given.settings != right.settings or given.constants.keys() != right.constants.keys():
            keys = [key for key in right.settings if given.settings.get(key) != right.settings[key]]
            said = [str({key: one.settings.get(key) for key in keys}) for one in (right, given)]
            return Culprit(right.operator, where, node, said[0], said[1], what="the file has")
        for name, array in right.constants.items():
            found = _differing(array, given.constants[name])
            if found is not None:
                place, size = found
                values = [float(one[place]) if place < len(one) else math.nan for one in (array, given.constants[name])]
                scale = float(np.nanmax(np.abs(array.astype(np.float64)))) or 1.0
                return Culprit(
                    right.operator,
                    where,
                    node,
                    values[0],
                    values[1],
                    (place,),
                    size,
                    size / scale,
                    what=name,
                )
    return None


def _differing(right: np.ndarray, given: np.ndarray) -> tuple[int, float] | None:
    """Where two constants differ most, and by how much."""
    if right.shape != given.shape:
        return min(len(right), len(given)), math.inf
    same = (right == given) | (np.isnan(right) & np.isnan(given))
    if same.all():
        return None
    difference = np.abs(right.astype(np.float64) - given.astype(np.float64))
    difference = np.where(same, 0, np.nan_to_num(difference, nan=math.inf))
    return int(difference.argmax()), float(difference.max())


def _layer(instruction: Instruction, program: ExportedProgram) -> str:
    """The layer whose weights an instruction holds, in whatever order: XNNPACK puts channels last."""
    for constant in instruction.constants.values():
        if constant.dtype not in (np.float32, np.float16) or constant.size < 2:
            continue
        for placeholder, name in program.graph_signature.inputs_to_parameters.items():
            weight = program.state_dict[name]
            if weight.numel() == constant.size and layer_name(placeholder) is not None:
                own = weight.detach().float().numpy().ravel().astype(constant.dtype)
                if np.array_equal(np.sort(own), np.sort(constant)):
                    return layer_name(placeholder) or ""
    return ""


def _converted_wrongly(
    target: Target, path: Path, conversion: Conversion, inputs: Sequence[np.ndarray]
) -> Culprit | None:
    """By halving: the first node up to which a fresh conversion of the program is out of tolerance.

    Taken is that an error once made stays visible behind it, and that beginnings which cannot be converted are right.
    """
    program = conversion.program
    nodes = [node for node in program.graph.nodes if node.op == "call_function" and _is_float(node)]
    low, high = 0, len(nodes) - 1
    found: Culprit | None = None
    while low <= high:
        middle = (low + high) // 2
        culprit = _differs(target, path, conversion, inputs, nodes[middle])
        if culprit is not None:
            found, high = culprit, middle - 1
        else:
            low = middle + 1
    return found


def _is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _differs(
    target: Target, path: Path, conversion: Conversion, inputs: Sequence[np.ndarray], node: Node
) -> Culprit | None:
    """Whether the program up to `node` gives something else once it was converted."""
    tensors = [torch.from_numpy(array) for array in inputs]
    begun = _up_to(conversion.program, node.name)
    with torch.no_grad():
        part = torch.export.export(begun, tuple(tensors))
        (expected,) = part.module()(*tensors)
    names = [*conversion.names[: len(inputs)], "cut"]
    try:
        target.convert(replace(conversion, program=part, names=names, sizes={}), path)
        (actual,) = target.open(path).call(inputs)
    except (HandheldError, RuntimeError, ValueError):
        return None
    right = expected.numpy()
    if compare(Execution([actual], "executed", ""), [right], target.tolerance).passed or actual.shape != right.shape:
        return None
    difference = np.nan_to_num(np.abs(actual.astype(np.float64) - right), nan=math.inf)
    index = np.unravel_index(int(difference.argmax()), difference.shape)
    scale = float(np.abs(right).max()) or 1.0
    return Culprit(
        operator=str(node.target).removeprefix("aten."),
        layer=layer_of(node),
        node=node.name,
        expected=float(right[index]),
        actual=float(actual[index]),
        at_index=tuple(int(i) for i in index),
        max_abs=float(difference.max()),
        share=float(difference.max()) / scale,
        what="output of a fresh conversion up to it",
    )


def _up_to(program: ExportedProgram, name: str) -> torch.nn.Module:
    """The program's module, cut behind the node called `name`, which it gives."""
    module: Any = program.module()
    graph = module.graph
    chosen = next(node for node in graph.nodes if node.name == name)
    output = next(node for node in graph.nodes if node.op == "output")
    for node in [node for node in graph.nodes if node.op == "call_module" and node.target == "_guards_fn"]:
        graph.erase_node(node)
    output.args = ((chosen,),)
    graph.set_codegen(torch.fx.graph.CodeGen())
    for node in reversed(list(graph.nodes)):
        if node.op not in ("placeholder", "output") and not node.users:
            graph.erase_node(node)
    module.recompile()
    assert isinstance(module, torch.nn.Module)
    return module
