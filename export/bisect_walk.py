"""Which operator of an artifact is wrong: the first whose output leaves the tolerance although its inputs are right.

PyTorch's lowered program is computed node by node beside the values of the artifact's operators. Converters keep the
names of nodes; what they renamed is paired by order and shape. A pair proves itself by its values: where they agree,
PyTorch goes on with the artifact's value, so that every operator is judged on equal inputs and no rounding adds up.
Where they do not, the node is suspected, and PyTorch goes on both with its own value and with the artifact's. If the
next pair agrees with the former, the pair was none (a fused or renamed operator); if it agrees with the latter, the
suspect is the culprit.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.fx import Node

from toolkit.parity import Tolerance

BLOCK_BYTES = 2**28  # of an artifact's values that are held at once

_ROUNDED = re.compile(r"(_cast_fp\d+|_cast_float\d+)+$")  # what coremltools appends to names
#: A weight as torch.export calls it, of a lowered module with its place among the constants and the
#: form it was put in; of a bundle's reference, also with that program's own name for the model.
_WEIGHT = re.compile(r"^p_(?:constants_w\d+_)?(?:program_module_)?(.+?)_(?:weight|bias)(?:_.*)?$")


@dataclass(frozen=True)
class Value:
    """One value that an artifact's operators compute, by the names that stand in the file."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...] | None

    @property
    def key(self) -> str:
        """The name that PyTorch's node had."""
        return _ROUNDED.sub("", self.name)


class ValueReader(Protocol):
    """An artifact whose inner values can be read: `values` in the order in which they are computed."""

    values: list[Value]
    outputs: list[str]

    def read(self, names: Sequence[str]) -> Mapping[str, np.ndarray]:
        """These values for the inputs that it was opened with."""
        ...


@dataclass(frozen=True)
class Culprit:
    """An operator that is wrong: `operator` and `node` as the artifact calls them, `layer` as the model does.

    `expected` is PyTorch's value and `actual` the artifact's at `at_index`, where they differ most; `max_abs` is that
    difference and `share` what it is of PyTorch's largest value. `inputs_agree`: the inputs were the same, so the
    operator itself is wrong; otherwise no operator alone is, and this is the one that adds most. `what` says what was
    compared, the operator's output or a constant in the file, and `beside` are operators that no node could be paired
    with and that may be at fault as well.
    """

    operator: str
    layer: str
    node: str
    expected: float | str
    actual: float | str
    at_index: tuple[int, ...] = ()
    max_abs: float | None = None
    share: float | None = None
    inputs_agree: bool = True
    what: str = "output"
    beside: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f"{self.operator} '{self.node}'" + (f" ({self.layer})" if self.layer else "")
        if isinstance(self.expected, str) or isinstance(self.actual, str):
            return f"{where}: {self.what} {self.actual} instead of {self.expected}"
        place = f" at {list(self.at_index)}" if self.at_index else ""
        size = f", max |Δ| {self.max_abs:.1e}" if self.max_abs is not None else ""
        size += f" ({self.share:.1e} of scale)" if self.share is not None else ""
        others = f"; or what feeds it: {', '.join(self.beside)}" if self.beside else ""
        text = f"{where}: {self.what} {self.actual:.6g} instead of {self.expected:.6g}{place}{size}{others}"
        return text if self.inputs_agree else f"no operator alone is out of tolerance; most is lost in {text}"


@dataclass
class _Suspect:
    node: Node
    value: Value
    expected: torch.Tensor
    actual: np.ndarray
    by_name: bool


@dataclass
class _Pairs:
    """What of the artifact answers to which node, and whether by name."""

    of: dict[Node, Value] = field(default_factory=dict)
    by_name: set[Node] = field(default_factory=set)
    outputs: dict[Node, Value] = field(default_factory=dict)


def locate(
    program: ExportedProgram, artifact: ValueReader, inputs: Sequence[np.ndarray], tolerance: Tolerance
) -> Culprit | None:
    """The first wrong operator of an artifact that was made from `program`, for `inputs` in the program's order.

    None where every operator that could be paired gives what PyTorch gives.
    """
    with torch.no_grad():
        return _Walk(program, artifact, tolerance).walk(inputs)


class _Walk:
    """One walk through the program. `own` has what PyTorch computes, `forced` what it computes from the artifact's
    values; they are the same but behind suspects, and `behind` says which those are."""

    def __init__(self, program: ExportedProgram, artifact: ValueReader, tolerance: Tolerance) -> None:
        self.program, self.artifact, self.tolerance = program, artifact, tolerance
        self.nodes = list(program.graph.nodes)
        self.pairs = _pair(program, self.nodes, artifact)
        self.own: dict[Node, Any] = {}
        self.forced: dict[Node, Any] = {}
        self.behind: dict[Node, set[Node]] = {}
        self.suspects: dict[Node, _Suspect] = {}
        self.agreed: set[str] = set()
        self.most: tuple[float, _Suspect] | None = None
        self._values: dict[str, np.ndarray] = {}

    def walk(self, inputs: Sequence[np.ndarray]) -> Culprit | None:
        given = _given(self.program, inputs)
        last = {used: node for node in self.nodes for used in node.all_input_nodes}
        for node in self.nodes:
            if node.op == "placeholder":
                self.own[node] = self.forced[node] = given[node.name]
            elif node.op == "get_attr":
                self.own[node] = self.forced[node] = getattr(self.program.graph_module, str(node.target))
            elif node.op == "call_function":
                found = self._compute(node)
                if found is not None:
                    return found
            for used in node.all_input_nodes:
                if last[used] is node and node.op != "output":
                    self.own.pop(used, None)
                    self.forced.pop(used, None)
        return self._at_the_end()

    def _compute(self, node: Node) -> Culprit | None:
        behind: set[Node] = set().union(*(self.behind.get(used, set()) for used in node.all_input_nodes))
        self.own[node] = _called(node, self.own)
        self.forced[node] = _called(node, self.forced) if behind else self.own[node]
        self.behind[node] = behind
        value = self.pairs.of.get(node)
        if value is None or not isinstance(self.own[node], torch.Tensor):
            return None
        actual = self._read(value.name)
        suspect = _Suspect(node, value, self.forced[node], actual, node in self.pairs.by_name)
        off = _off(actual, self.own[node], self.tolerance)
        if off <= 1:
            if self.most is None or off > self.most[0]:
                self.most = off, suspect
            self.own[node] = self.forced[node] = _like(actual, self.own[node])
            self.behind[node] = set()
            self.agreed.add(value.name)
        elif behind and _off(actual, self.forced[node], self.tolerance) <= 1:
            return self._culprit([self.suspects[one] for one in self.nodes if one in behind])
        else:
            self.suspects[node] = suspect
            self.behind[node] = behind | {node}
            if actual.shape == tuple(self.own[node].shape):
                self.forced[node] = _like(actual, self.own[node])
        return None

    def _at_the_end(self) -> Culprit | None:
        """Outputs are what they are called: suspects behind a wrong one are not cleared by anything later."""
        for node, value in self.pairs.outputs.items():
            actual = self._read(value.name)
            if self.behind.get(node):
                if _off(actual, self.own[node], self.tolerance) > 1:
                    return self._culprit([self.suspects[one] for one in self.nodes if one in self.behind[node]])
            elif _off(actual, self.own[node], self.tolerance) > 1:
                return self._culprit([_Suspect(node, value, self.own[node], actual, True)])
        if self.most is not None and self.most[0] > 0:
            return self._culprit([self.most[1]], inputs_agree=False)
        return None

    def _culprit(self, suspects: Sequence[_Suspect], inputs_agree: bool = True) -> Culprit:
        named = [suspect for suspect in suspects if suspect.by_name]
        found = named[0] if named else suspects[-1]
        expected, actual = found.expected.double().numpy(), found.actual.astype(np.float64)
        beside = tuple(self._between(found.value)) if inputs_agree else ()
        where = found.value.operator, layer_of(found.node), found.value.name
        if expected.shape != actual.shape:
            return Culprit(*where, str(list(expected.shape)), str(list(actual.shape)), what="shape")
        difference = np.nan_to_num(np.abs(expected - actual), nan=math.inf)
        index = np.unravel_index(int(difference.argmax()), difference.shape) if difference.size else ()
        scale = float(np.abs(expected[np.isfinite(expected)]).max(initial=0)) or 1.0
        most = float(difference.max(initial=0))
        return Culprit(
            *where,
            expected=float(expected[index]),
            actual=float(actual[index]),
            at_index=tuple(int(i) for i in index),
            max_abs=most,
            share=most / scale,
            inputs_agree=inputs_agree,
            beside=beside,
        )

    def _between(self, value: Value) -> list[str]:
        """Operators before `value` that were paired with nothing, back to values that agree."""
        by_name = {one.name: one for one in self.artifact.values}
        paired = {one.name for one in self.pairs.of.values()}
        found: list[str] = []
        pending, seen = list(value.inputs), set(self.agreed)
        while pending:
            name = pending.pop(0)
            if name in seen or name not in by_name or name in paired:
                continue
            seen.add(name)
            found.append(f"{by_name[name].operator} '{name}'")
            pending += by_name[name].inputs
        return found

    def _read(self, name: str) -> np.ndarray:
        """A value of the artifact; the values after it are read along, as many as fit into a block."""
        if name not in self._values:
            wanted = {value.name for value in (*self.pairs.of.values(), *self.pairs.outputs.values())}
            order = [value for value in self.artifact.values if value.name in wanted]
            start = next(place for place, value in enumerate(order) if value.name == name)
            block: list[str] = []
            held = 0
            for value in order[start:]:
                held += 4 * math.prod(value.shape or (1,))
                if block and held > BLOCK_BYTES:
                    break
                block.append(value.name)
            self._values = dict(self.artifact.read(block))
        return self._values[name]


def _pair(program: ExportedProgram, nodes: Sequence[Node], artifact: ValueReader) -> _Pairs:
    """Nodes and values of one name; then, between two such pairs, the others by their order and shape."""
    pairs = _Pairs()
    by_key: dict[str, Value] = {}
    for value in artifact.values:
        by_key.setdefault(value.key, value)
    by_name = {value.name: value for value in artifact.values}
    made = {
        str(name): by_name[output]
        for name, output in zip(_outputs(program), artifact.outputs, strict=False)
        if output in by_name
    }
    computed = [node for node in nodes if node.op == "call_function" and isinstance(node.meta.get("val"), torch.Tensor)]
    for node in computed:
        named = by_key.get(node.name) or made.get(node.name)
        if node.name in made:
            pairs.outputs[node] = made[node.name]
        if named is not None and (named.shape is None or named.shape == tuple(node.meta["val"].shape)):
            pairs.of[node] = named
            pairs.by_name.add(node)
    place_of = {value.name: place for place, value in enumerate(artifact.values)}
    before = -1
    waiting: list[Node] = []
    for node in computed:
        if node not in pairs.of:
            waiting.append(node)
            continue
        place = place_of[pairs.of[node].name]
        if place > before:
            _pair_in_order(pairs, waiting, artifact.values[before + 1 : place])
            before = place
        waiting = []
    return pairs


def _pair_in_order(pairs: _Pairs, nodes: Iterable[Node], values: Sequence[Value]) -> None:
    taken = {value.name for value in pairs.of.values()}
    left = [value for value in values if value.name not in taken]
    for node in nodes:
        shape = tuple(node.meta["val"].shape)
        place = next((place for place, value in enumerate(left) if value.shape == shape), None)
        if place is not None:
            pairs.of[node] = left[place]
            left = left[place + 1 :]


def _outputs(program: ExportedProgram) -> list[str]:
    return [str(name) for name in program.graph_signature.user_outputs]


def _given(program: ExportedProgram, inputs: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
    """What every placeholder stands for."""
    signature = program.graph_signature
    held: dict[str, Any] = {**program.state_dict, **program.constants}
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names |= signature.inputs_to_lifted_tensor_constants
    given = {placeholder: held[name] for placeholder, name in names.items()}
    users = [str(name) for name in signature.user_inputs]
    return given | {name: torch.from_numpy(array) for name, array in zip(users, inputs, strict=True)}


def _called(node: Node, values: Mapping[Node, Any]) -> Any:
    args: Any = torch.fx.map_arg(node.args, lambda used: values[used])
    kwargs: Any = torch.fx.map_arg(node.kwargs, lambda used: values[used])
    if node.target is operator.getitem:
        return args[0][args[1]]
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _like(actual: np.ndarray, value: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.array(actual)).to(value.dtype)


def _off(actual: np.ndarray, expected: torch.Tensor, tolerance: Tolerance) -> float:
    """How far a value is off, in tolerances: above 1 it is out. Values that are not finite must be the same."""
    right, given = expected.double().numpy(), np.asarray(actual).astype(np.float64)
    if right.shape != given.shape:
        return math.inf
    known = np.isfinite(right)
    if not np.array_equal(right[~known], given[~known], equal_nan=True) or not np.isfinite(given[known]).all():
        return math.inf
    right, given = right[known], given[known]
    scale = float(np.abs(right).max(initial=0))
    if not np.any(right != given):
        return 0.0
    shares = []
    if tolerance.max_share is not None:
        shares.append(float(np.abs(right - given).max()) / (scale or 1e-30) / tolerance.max_share)
    if tolerance.min_psnr_db is not None:
        peak = float(right.max() - right.min()) or scale or 1e-30
        rms = math.sqrt(float(np.mean((right - given) ** 2)))
        shares.append(rms / peak * 10 ** (tolerance.min_psnr_db / 20))
    return max(shares)


def layer_of(node: Node) -> str:
    """`in LAYER` where a node takes a layer's weights, `after LAYER` of the nearest one before it; else empty."""
    pending, seen = [node], {node}
    while pending:
        current = pending.pop(0)
        for used in current.all_input_nodes:
            layer = layer_name(used.name) if used.op == "placeholder" else None
            if layer is not None:
                return f"in {layer}" if current is node else f"after {layer}"
            if used not in seen:
                seen.add(used)
                pending.append(used)
    return ""


def layer_name(placeholder: str) -> str | None:
    """A weight's layer: `p_constants_w3_conv_in_conv_weight_tap0` belongs to `conv_in_conv`; None of another input."""
    found = _WEIGHT.match(placeholder)
    return found.group(1) if found else None
