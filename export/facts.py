"""Figures computed from a graph's shapes, before anything runs: parameters, MACs, memory, and bytes that move."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils.flop_counter import FlopCounterMode

from export.lowering.nested import tensors_in

#: Operators that only say the same numbers in another shape: no runtime that we export to copies for them, since all
#: of their tensors are contiguous. Slices, transposes and expansions are views in PyTorch alone.
RESHAPES = {
    *("alias", "detach", "flatten", "lift_fresh_copy", "reshape", "_reshape_alias", "squeeze", "unflatten"),
    *("unsqueeze", "view", "_unsafe_view", "view_copy", "squeeze_copy", "unsqueeze_copy"),
}
#: Bytes a weight takes in the precisions that targets have; palettes' tables and the scales of blocks are not counted.
WEIGHT_BYTES = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0, "pal8": 1.0, "pal6": 0.75, "pal4": 0.5, "int4": 0.5}
MOVES_NOTHING = {"getitem", "_assert_tensor_metadata", "_assert_scalar"}


@dataclass(frozen=True)
class Work:
    """What one call of a graph's operator costs: its MACs, the bytes that it reads and writes, and its result."""

    node: Node
    macs: int
    moved_bytes: int
    result: torch.Tensor | None

    @property
    def result_bytes(self) -> int:
        """Bytes of the result; of several tensors, of the largest."""
        return 0 if self.result is None else bytes_of([self.result])


def params(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


@torch.no_grad()
def macs(module: nn.Module, inputs: Sequence[torch.Tensor]) -> int:
    """Multiply-accumulates of convolutions and matrix products in one call."""
    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    return int(counter.get_total_flops()) // 2


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of contiguous tensors of these shapes and types."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@torch.no_grad()
def work(program: ExportedProgram) -> list[Work]:
    """What each operator of a graph costs, in the graph's order; no operator is taken to be fused with another.

    An operator reads each of its tensors once, weights among them, and writes its results once. One that only reshapes
    moves nothing. Nothing is computed: the figures follow from the shapes that the graph notes.
    """
    found = []
    for node in program.graph.nodes:
        if node.op != "call_function" or name_of(node) in MOVES_NOTHING:
            continue
        results = tensors_in(node.meta.get("val"))
        taken = {used: tensors_in(used.meta.get("val")) for used in node.all_input_nodes}
        moved = 0 if name_of(node) in RESHAPES else bytes_of(results) + sum(map(bytes_of, taken.values()))
        largest = max(results, key=lambda tensor: bytes_of([tensor]), default=None)
        found.append(Work(node, _macs_of(node), moved, largest))
    return found


def weight_count(program: ExportedProgram) -> int:
    """How many numbers an artifact of the graph holds: weights that the graph uses, each once, and its constants."""
    signature = program.graph_signature
    held = {*signature.inputs_to_parameters, *signature.inputs_to_buffers, *signature.inputs_to_lifted_tensor_constants}
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in held and node.users]
    return sum(tensor.numel() for node in nodes for tensor in tensors_in(node.meta.get("val")))


def weight_bytes(program: ExportedProgram) -> dict[str, int]:
    """Bytes of all weights in each precision, as if all of them had it."""
    count = weight_count(program)
    return {precision: round(count * size) for precision, size in WEIGHT_BYTES.items()}


def peak_activation_bytes(program: ExportedProgram) -> int:
    """The most bytes of inputs and intermediate tensors alive at once if every tensor dies after its last use.

    What only reshapes a tensor shares its memory, and keeps it alive. No operator works in place, and nothing is lost
    to gaps: the least that a memory planner can do without fusing operators.
    """
    inputs = set(program.graph_signature.user_inputs)
    owner: dict[Node, Node] = {}
    size: dict[Node, int] = {}
    last: dict[Node, int] = {}
    for place, node in enumerate(program.graph.nodes):
        for used in node.all_input_nodes:
            last[owner.get(used, used)] = place
        if node.op == "call_function" and name_of(node) in RESHAPES | {"getitem"}:
            source = node.all_input_nodes[0] if node.all_input_nodes else node
            owner[node] = owner.get(source, source)
        elif node.op == "call_function" or node.name in inputs:
            size[node] = bytes_of(tensors_in(node.meta.get("val")))
    dying: dict[int, list[Node]] = {}
    for node in size:
        dying.setdefault(last.get(node, -1), []).append(node)
    alive = peak = 0
    for place, node in enumerate(program.graph.nodes):
        alive += size.get(node, 0)
        peak = max(peak, alive)
        alive -= sum(size[dead] for dead in dying.get(place, []))
    return peak


def name_of(node: Node) -> str:
    """An operator's name without its namespace and overload."""
    if isinstance(node.target, OpOverload):
        return node.target.name().split("::")[-1].split(".")[0]
    return str(getattr(node.target, "__name__", node.target))


def _macs_of(node: Node) -> int:
    """Counted by torch's own formulas, on the tensors without numbers that the graph notes."""
    if not isinstance(node.target, OpOverload) or torch.Tag.pointwise in node.target.tags or name_of(node) in RESHAPES:
        return 0
    if len(tensors_in([used.meta.get("val") for used in node.all_input_nodes])) < 2:
        return 0  # a convolution or a product takes two tensors
    values: Any = map_arg((node.args, node.kwargs), lambda used: used.meta["val"])
    with FlopCounterMode(display=False) as counter:
        node.target(*values[0], **values[1])
    return int(counter.get_total_flops()) // 2
