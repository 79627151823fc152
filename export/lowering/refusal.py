"""Refusing by name: which operator, of which layer and line, on what shapes, and what to do about it."""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.fx import Node

from export.lowering.nested import tensors_in
from export.lowering.packed import MAX_RANK
from toolkit.errors import UserError

#: Calls in an exported graph that only check.
SKIPPED = {"aten._assert_tensor_metadata.default", "aten._assert_scalar.default", "_guards_fn"}
#: What stands for the path of the outermost module, which has none.
WHOLE = "the model itself"
LOWER = str(Path(__file__).with_name("lower.py"))


@dataclass(frozen=True)
class Refused:
    """What was refused, part by part: the operator, the shapes it takes, its layer, its line, why, and what to do."""

    operator: str
    shapes: list[list[int | str]]
    layer: str
    source: str
    reason: str
    remedy: str


class LoweringError(UserError):
    """What cannot be said at rank 4 yet; the message names the operator and its layer, `refused` has them apart."""

    def __init__(self, message: str, refused: Refused | None = None) -> None:
        super().__init__(message)
        self.refused = refused


REMEDY = (
    "Rewrite the layer with supported operators, or add a handler in export/lowering/handlers/ (see CONTRIBUTING.md)"
)


def refusal(node: Node, reason: str) -> LoweringError:
    """An error that says which operator of which layer stopped the lowering, and what to do about it."""
    shapes, source = shapes_taken(node), source_line(node)
    where = f"layer '{layer(node)}'" + (f" at {source}" if source else "")
    shown = ", ".join(f"[{', '.join(map(str, shape))}]" for shape in shapes)
    message = f"lowering: {node.target} on [{shown}] {reason} at rank {MAX_RANK}, in {where}. {REMEDY}"
    why = reason.removesuffix(",") if reason.endswith(",") else f"{reason} at rank {MAX_RANK}"
    return LoweringError(message, Refused(str(node.target), shapes, layer(node), source, why, REMEDY))


def uncapturable(module: nn.Module, error: Exception) -> LoweringError:
    """An error that says in which layer `torch.export` gave up, and why."""
    reason = f"torch.export cannot capture {type(module).__name__}: {_first_line(error)}"
    remedy = "Make shapes and branches independent of the data, or give the export the part of the model that is"
    path, source = _last_layer(module, error), _last_line(error)
    inner = module if path == WHOLE else module.get_submodule(path)
    where = f", in layer '{path}'" + (f" at {source}" if source else "")
    return LoweringError(
        f"{reason}{where}. {remedy}", Refused(f"{type(inner).__name__}.forward", [], path, source, reason, remedy)
    )


def depends_on_data(value: object) -> bool:
    """Whether a node's result is, or has a shape, that only the data decides."""
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return True
    return any(not isinstance(size, int) for tensor in tensors_in(value) for size in tensor.shape)


def shapes_taken(node: Node) -> list[list[int | str]]:
    """The shapes of a node's tensors; a size that depends on the data is its symbol."""
    tensors = [tensor for used in node.all_input_nodes for tensor in tensors_in(used.meta.get("val"))]
    return [[size if isinstance(size, int) else str(size) for size in tensor.shape] for tensor in tensors]


def layer(node: Node) -> str:
    """The path of the module that a node came from."""
    paths = [str(path) for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]
    return paths[-1] if paths else WHOLE


def source_line(node: Node) -> str:
    """The line of Python that a node came from, outside of torch's own modules where there is one; or ""."""
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines() if "File " in line]
    lines = [line for line in lines if f"{os.sep}torch{os.sep}nn{os.sep}" not in line] or lines
    return lines[-1].removeprefix("File ") if lines else ""


def _first_line(error: Exception) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    line = line.split("  (Size-like symbols")[0].split(" (unhinted")[0].rstrip(". ")
    if isinstance(error, LookupError | AssertionError) or not line:
        line = f"{type(error).__name__}: {line}" if line else type(error).__name__
    return line[:300]


def _last_layer(module: nn.Module, error: Exception) -> str:
    """The innermost layer whose call an exception came out of."""
    paths = {id(child): path for path, child in module.named_modules()}
    frames = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    called = [paths[id(owner)] for owner in frames if id(owner) in paths]
    return (called[-1] if called else "") or WHOLE


def _last_line(error: Exception) -> str:
    """The innermost line of Python outside of torch that an exception came out of."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if f"{os.sep}torch{os.sep}" not in frame.filename and frame.filename != LOWER
    ]
    return f'"{frames[-1].filename}", line {frames[-1].lineno}, in {frames[-1].name}' if frames else ""
