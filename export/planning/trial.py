"""Trying each operator of a program alone: what a converter knows by name it may still fail on, or get wrong.

Each is converted, and run where its runtime runs here, on the values that it meets in the program's own example.
Operators that differ in sizes only are tried once, and those that every model has are not, so this takes seconds for
a model of any size. Nothing of it is kept.
"""

from __future__ import annotations

import operator
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram

from export.lowering.lower import program_of
from export.lowering.nested import tensors_in
from export.lowering.packed import MAX_RANK
from export.lowering.refusal import SKIPPED
from export.planning.registry import Stopped, origin
from export.targets import Conversion, Target, find_target
from toolkit.parity import Execution, Tolerance, compare
from toolkit.quiet import native_stderr_hidden

#: Operators that lowered graphs consist of, which each target's tests convert; on floats they are not tried again.
PROVED = {
    *("add", "sub", "mul", "div", "neg", "rsqrt", "relu", "sigmoid", "silu", "sum", "mean", "conv2d", "pixel_shuffle"),
    *("cat", "clone", "permute", "reshape", "select", "slice", "transpose", "unsqueeze", "view"),
}
#: Further off than this is another function, not the rounding of a precision.
WRONG = Tolerance(max_share=1e-2)
ARTIFACT = "trial.mlpackage"  # coremltools wants this suffix; the others take any


def refused_alone(
    program: ExportedProgram,
    target_name: str,
    known: Collection[Stopped],
    remedy: str,
    only: Collection[str] | None = None,
) -> list[Stopped]:
    """Operators that a target cannot do, other than the `known` ones: whose conversion fails, or leaves a rank above 4,
    or whose artifact fails or is wrong on the values that they meet in the program's own example.

    `only` are origins to try, all where None.
    """
    target, refused = find_target(target_name), []
    trials = list(_trials(program, {origin(stop.node) for stop in known}, only))
    values = _values(program, {node for trial in trials for node in trial.region.fed_by}) if trials else {}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for trial in trials:
            with native_stderr_hidden(), redirect_stdout(StringIO()):
                reason = _failure(trial, target, Path(folder) / ARTIFACT, values)
            if reason:
                refused.append(Stopped(trial.culprit, reason, remedy))
    return refused


def _failure(trial: _Trial, target: Target, path: Path, values: Mapping[fx.Node, torch.Tensor]) -> str:
    region = trial.region
    examples = [values[node] for node in region.fed_by]
    program = program_of(fx.GraphModule(trial.root, region.graph), examples)
    names = [f"x{n}" for n in range(len(examples))] + [f"y{n}" for n in range(region.results)]
    try:
        rank = target.convert(Conversion(program, names, [[x.numpy() for x in examples]]), path).max_rank
    except Exception as error:  # noqa: BLE001  (other people's code, which raises what it likes)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        mismatch = re.search(r"mismatched dtypes: Operator: <EdgeOpOverload: ([\w.]+)>", reason)  # ExecuTorch's
        return f"{mismatch[1]} does not take these types" if mismatch else f"its conversion fails ({reason[:160]})"
    if rank > MAX_RANK:
        return f"its conversion leaves a tensor of rank {rank}"
    return _difference(program, examples, target, path)


def _difference(program: ExportedProgram, examples: Sequence[torch.Tensor], target: Target, path: Path) -> str:
    """Why an artifact of one operator will not do: it does not run, or it is another function than PyTorch's."""
    expected = [tensor.numpy() for tensor in tensors_in(program.module()(*examples))]
    try:
        session = target.open(path)
        outputs = session.call([example.numpy() for example in examples])
    except Exception as error:  # noqa: BLE001
        return f"it fails when it is run ({' '.join(str(error).split())[:160]})"
    if not all(np.isfinite(array).all() for array in expected):
        return ""
    found = compare(Execution(outputs, session.how, session.runtime), expected, WRONG)
    if found.passed:
        return ""
    if found.share is None:
        return "its result is misshapen or not finite when it is run"
    return f"its result is another than PyTorch's: max |Δ| {found.share:.0e} of scale"


def _values(program: ExportedProgram, wanted: Collection[fx.Node]) -> dict[fx.Node, torch.Tensor]:
    """What the nodes called as the `wanted` ones give on the program's own example."""
    names = {node.name: node for node in wanted}
    kept: dict[fx.Node, torch.Tensor] = {}

    class Keeping(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n.name in names:
                kept[names[n.name]] = result.clone(memory_format=torch.contiguous_format)
            return result

    module = program.module()
    assert isinstance(module, fx.GraphModule)
    with torch.no_grad():
        Keeping(module).run(*program.example_inputs[0])
    return kept


@dataclass(frozen=True)
class _Trial:
    """The node to name if it fails, and what is tried: an operator with what it needs; weights are `root`'s."""

    culprit: fx.Node
    region: _Region
    root: fx.GraphModule


def _trials(program: ExportedProgram, known: set[str], only: Collection[str] | None) -> Iterator[_Trial]:
    """Every distinct operator, once."""
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
        if only is not None and origin(node) not in only:
            continue
        if str(node.target) in SKIPPED or _is_complex(node) or not results or _is_proved(node) or _kind(node) in tried:
            continue
        tried.add(_kind(node))
        region = _Region(node, fed)
        if known.isdisjoint(origin(inner) for inner in region.inner):
            yield _Trial(next((n for n in region.inner if _is_complex(n)), node), region, traced)


class _Region:
    """A node, and what it takes up to tensors that a model may take: of floats, and dependent on its input."""

    def __init__(self, node: fx.Node, fed: Collection[fx.Node]) -> None:
        self.graph = fx.Graph()
        self.fed_by: list[fx.Node] = []
        self.inner: list[fx.Node] = []
        self._fed = fed
        self._copies: dict[fx.Node, fx.Node] = {}
        used = _used(node)
        self.results = len(used)
        copy = self._copy(node)
        if isinstance(node.meta["val"], torch.Tensor):
            if node.meta["val"].dtype == torch.bfloat16:  # which numpy has not, so no runtime gives it out
                copy = self.graph.call_function(torch.ops.aten.to.dtype, (copy, torch.float32))
            self.graph.output((copy,))
        else:
            self.graph.output(tuple(self.graph.call_function(operator.getitem, (copy, n)) for n in used))

    def _bring(self, node: fx.Node) -> fx.Node:
        value = node.meta.get("val")
        if node in self._copies:
            return self._copies[node]
        if node.op == "placeholder" or (
            node in self._fed and isinstance(value, torch.Tensor) and value.dtype == torch.float32
        ):
            assert isinstance(value, torch.Tensor)
            self._copies[node] = self.graph.placeholder(f"x{len(self.fed_by)}")
            self.fed_by.append(node)
            return self._copies[node]
        return self._copy(node)

    def _copy(self, node: fx.Node) -> fx.Node:
        for used in node.all_input_nodes:
            self._bring(used)
        self.inner.append(node)
        self._copies[node] = self.graph.node_copy(node, self._bring)
        return self._copies[node]


def _used(node: fx.Node) -> list[int]:
    """The places of those results that the program uses; all where it uses none. Converters may lack the others."""
    taken = [user for user in node.users if user.target is operator.getitem and user.users]
    found = {int(user.args[1]) for user in taken}  # type: ignore[arg-type]
    return sorted(found) or list(range(len(tensors_in(node.meta["val"]))))


def _is_complex(node: fx.Node) -> bool:
    return any(tensor.is_complex() for tensor in tensors_in(node.meta.get("val")))


def _is_proved(node: fx.Node) -> bool:
    values = [node.meta.get("val"), *(used.meta.get("val") for used in node.all_input_nodes)]
    name = str(node.target).removeprefix("aten.").split(".")[0]
    return name in PROVED and all(tensor.dtype == torch.float32 for tensor in tensors_in(values))


def _kind(node: fx.Node) -> tuple[Any, ...]:
    """What operators that are converted alike have in common: types, ranks and settings, not sizes."""
    tensors = [tensor for used in node.all_input_nodes for tensor in tensors_in(used.meta.get("val"))]
    settings = [_setting(arg) for arg in (*node.args, *node.kwargs.values()) if not isinstance(arg, fx.Node)]
    return (
        str(node.target),
        *_used(node),
        *((tensor.dtype, tensor.ndim) for tensor in tensors),
        *settings,
        *node.kwargs,
    )


def _setting(argument: Any) -> Any:
    """Modes, flags and axes as they are; of sizes and numbers only the type, and of lists the length."""
    if isinstance(argument, str | bool) or (isinstance(argument, int) and abs(argument) <= MAX_RANK):
        return argument
    return (type(argument), len(argument)) if isinstance(argument, list | tuple) else type(argument)
