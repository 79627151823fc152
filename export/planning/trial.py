"""Converting each operator of a program alone: what a converter knows by name it may still fail on.

Operators that differ in sizes only are tried once, and those that every model has are not, so this takes seconds for
a model of any size. Nothing of it is kept.
"""

from __future__ import annotations

import operator
import re
import tempfile
from collections.abc import Collection, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from export.lowering.lower import program_of
from export.lowering.nested import tensors_in
from export.lowering.packed import MAX_RANK
from export.lowering.refusal import SKIPPED
from export.planning.registry import Stopped, origin
from export.targets import Conversion, Convert
from toolkit.quiet import native_stderr_hidden

#: Operators that lowered graphs consist of, which each target's tests convert; on floats they are not tried again.
PROVED = {
    *("add", "sub", "mul", "div", "neg", "rsqrt", "relu", "sigmoid", "silu", "sum", "mean", "conv2d", "pixel_shuffle"),
    *("cat", "clone", "permute", "reshape", "select", "slice", "transpose", "unsqueeze", "view"),
}
ARTIFACT = "trial.mlpackage"  # coremltools wants this suffix; the others take any


def refused_alone(program: ExportedProgram, convert: Convert, known: Collection[Stopped], remedy: str) -> list[Stopped]:
    """Operators whose conversion fails, or leaves a rank above 4, other than the `known` ones."""
    names_known = {origin(stop.node) for stop in known}
    refused: list[Stopped] = []
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for culprit, small, names in _trials(program, names_known):
            with native_stderr_hidden(), redirect_stdout(StringIO()):
                reason = _failure(convert, small, Path(folder) / ARTIFACT, names)
            if reason:
                refused.append(Stopped(culprit, reason, remedy))
    return refused


def _failure(convert: Convert, program: ExportedProgram, path: Path, names: list[str]) -> str:
    try:
        rank = convert(Conversion(program, names), path).max_rank
    except Exception as error:  # noqa: BLE001  (other people's code, which raises what it likes)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        mismatch = re.search(r"mismatched dtypes: Operator: <EdgeOpOverload: ([\w.]+)>", reason)  # ExecuTorch's
        return f"{mismatch[1]} does not take these types" if mismatch else f"its conversion fails ({reason[:160]})"
    return f"its conversion leaves a tensor of rank {rank}" if rank > MAX_RANK else ""


def _trials(program: ExportedProgram, known: set[str]) -> Iterator[tuple[fx.Node, ExportedProgram, list[str]]]:
    """For every distinct operator: the node to name if it fails, a program of it, names of inputs and outputs."""
    traced = program.module()
    assert isinstance(traced, fx.GraphModule)
    fed: set[fx.Node] = set()  # what depends on the model's input
    tried = set()
    for node in traced.graph.nodes:
        if node.op == "placeholder" or not fed.isdisjoint(node.all_input_nodes):
            fed.add(node)
        results = tensors_in(node.meta.get("val"))
        if node.op != "call_function" or node not in fed or node.target is operator.getitem:
            continue
        if str(node.target) in SKIPPED or _is_complex(node) or not results or _is_proved(node) or _kind(node) in tried:
            continue
        tried.add(_kind(node))
        region = _Region(node, fed)
        if known.isdisjoint(origin(inner) for inner in region.inner):
            culprit = next((n for n in region.inner if _is_complex(n)), node)
            small = program_of(fx.GraphModule(traced, region.graph), region.examples)
            names = [f"x{n}" for n in range(len(region.examples))] + [f"y{n}" for n in range(len(results))]
            yield culprit, small, names


class _Region:
    """A node, and what it takes up to tensors that a model may take: of floats, and dependent on its input."""

    def __init__(self, node: fx.Node, fed: Collection[fx.Node]) -> None:
        self.graph = fx.Graph()
        self.examples: list[torch.Tensor] = []
        self.inner: list[fx.Node] = []
        self._fed = fed
        self._copies: dict[fx.Node, fx.Node] = {}
        copy = self._copy(node)
        if isinstance(node.meta["val"], torch.Tensor):
            self.graph.output((copy,))
        else:
            count = len(tensors_in(node.meta["val"]))
            self.graph.output(tuple(self.graph.call_function(operator.getitem, (copy, n)) for n in range(count)))

    def _bring(self, node: fx.Node) -> fx.Node:
        value = node.meta.get("val")
        if node in self._copies:
            return self._copies[node]
        if node.op == "placeholder" or (
            node in self._fed and isinstance(value, torch.Tensor) and value.dtype == torch.float32
        ):
            assert isinstance(value, torch.Tensor)
            self._copies[node] = self.graph.placeholder(f"x{len(self.examples)}")
            self.examples.append(torch.empty(value.shape, dtype=value.dtype))
            return self._copies[node]
        return self._copy(node)

    def _copy(self, node: fx.Node) -> fx.Node:
        for used in node.all_input_nodes:
            self._bring(used)
        self.inner.append(node)
        self._copies[node] = self.graph.node_copy(node, self._bring)
        return self._copies[node]


def _is_complex(node: fx.Node) -> bool:
    return any(tensor.is_complex() for tensor in tensors_in(node.meta.get("val")))


def _is_proved(node: fx.Node) -> bool:
    values = [node.meta.get("val"), *(used.meta.get("val") for used in node.all_input_nodes)]
    name = str(node.target).removeprefix("aten.").split(".")[0]
    return name in PROVED and all(tensor.dtype == torch.float32 for tensor in tensors_in(values))


def _kind(node: fx.Node) -> tuple[Any, ...]:
    """What operators that are converted alike have in common: types and ranks, not sizes."""
    tensors = [tensor for used in node.all_input_nodes for tensor in tensors_in(used.meta.get("val"))]
    plain = [type(arg) for arg in (*node.args, *node.kwargs.values()) if not isinstance(arg, fx.Node)]
    return (str(node.target), *((tensor.dtype, tensor.ndim) for tensor in tensors), *plain, *node.kwargs)
