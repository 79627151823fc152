"""Weights and other tensors that do not depend on the input: computed, cut and laid out ahead of the graph."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx import Node

from export.lowering.nested import map_nested
from export.lowering.packed import Atom, Dim, Packed, new_dim, rearrange
from export.lowering.refusal import SKIPPED

#: Operators that take of their input its shape and type only.
SHAPE_ONLY = {
    "aten.zeros_like.default",
    "aten.ones_like.default",
    "aten.full_like.default",
    "aten.new_zeros.default",
    "aten.new_ones.default",
    "aten.new_full.default",
}
Keep = Callable[[str, Callable[[], torch.Tensor]], torch.Tensor]


@dataclass(frozen=True)
class Weight:
    """A tensor that is known before any input is, by its name in the lowered module."""

    name: str
    tensor: torch.Tensor
    #: The one value that all elements have, where they do.
    value: float | None = None

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor) -> Weight:
        """A weight looked at: whether it is one value everywhere."""
        first = tensor.flatten()[:1]
        uniform = first.numel() > 0 and bool((tensor == first).all())
        return cls(name, tensor.detach(), first.item() if uniform else None)

    @cached_property
    def array(self) -> np.ndarray:
        """Its numbers for Python to read: first read on the first walk, since no later one may look at data."""
        return self.tensor.numpy()


class Constant(Packed):
    """A weight as a packed value: whatever layout an operator asks for is made ahead of the graph.

    `keep(name, make)` is the lowered module's store: it makes a constant once and finds it by name ever after.
    """

    def __init__(self, keep: Keep, weight: Weight, source: Sequence[Dim], axes: Sequence[Dim], dims: Sequence[Dim]):
        super().__init__(weight.tensor, axes, dims)
        self._keep, self._weight, self._source = keep, weight, list(source)

    @classmethod
    def whole(cls, keep: Keep, weight: Weight) -> Constant:
        """The weight in its own shape; one that has the same value everywhere is stored as that value alone."""
        tensor = weight.tensor
        dims = [new_dim(size) for size in tensor.shape]
        if weight.value is not None:
            return cls(keep, weight, [], [], dims)
        flat = tuple(atom for dim in dims for atom in dim)
        return cls(keep, weight, [flat], [flat], dims)

    @property
    def storage(self) -> torch.Tensor:
        source, axes, weight = self._source, self.axes, self._weight
        number = {atom: str(place) for place, atom in enumerate(atom for axis in source for atom in axis)}
        layout = "_".join("".join(f"{number.get(atom, 'r')}x{atom.size}" for atom in axis) or "1" for axis in axes)

        def laid_out() -> torch.Tensor:
            flat = weight.tensor.flatten()
            return rearrange(flat if source else flat[0], source, axes)

        return self._keep(f"{weight.name}_as_{layout}", laid_out)

    @property
    def value(self) -> float | None:
        """The one value that all its elements have, or None."""
        return self._weight.value if not self.stored else None

    def described(self, axes: Sequence[Dim], dims: Sequence[Dim]) -> Packed:
        return Constant(self._keep, self._weight, self._source, axes, dims)

    def relabelled(self, axes: Sequence[Dim], dims: Sequence[Dim]) -> Packed:
        return Packed(self.storage, axes, dims)

    def refined(self, parts: dict[Atom, Dim]) -> Packed:
        found = super().refined(parts)
        assert isinstance(found, Constant)
        found._source = [tuple(part for atom in axis for part in parts.get(atom, (atom,))) for axis in self._source]
        return found

    def arranged(self, axes: Sequence[Dim]) -> Packed:
        return Constant(self._keep, self._weight, self._source, axes, self.dims)


def known_ahead(traced: nn.Module, nodes: Sequence[Node]) -> dict[Node, Any]:
    """What does not depend on the inputs: weights, and everything computed from weights and numbers alone."""
    known: dict[Node, Any] = {}
    for number, node in enumerate(nodes):
        if node.op == "get_attr":  # numbered, since "a.b_c" and "a_b.c" would otherwise become one
            known[node] = Weight.of(f"w{number}_{node.target}", fetch(traced, str(node.target)))
        elif (
            node.op == "call_function" and _is_computable(node) and all(used in known for used in node.all_input_nodes)
        ):
            known[node] = _computed(node, known, f"k{number}_{node.name}")
    return known


def _blank(node: Node) -> torch.Tensor:
    like: torch.Tensor = node.all_input_nodes[0].meta["val"]
    assert callable(node.target)
    made: torch.Tensor = node.target(torch.empty(tuple(like.shape), dtype=like.dtype), *node.args[1:], **node.kwargs)
    return made


def _computed(node: Node, known: dict[Node, Any], name: str) -> Any:
    def bare(item: Any) -> Any:
        return item.tensor if isinstance(item, Weight) else item

    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda used: map_nested(known[used], bare))
    assert callable(node.target)
    number = itertools.count()

    def weight(item: Any) -> Any:
        return Weight.of(f"{name}_{next(number)}", item) if isinstance(item, torch.Tensor) else item

    return map_nested(node.target(*args, **kwargs), weight)


def _is_computable(node: Node) -> bool:
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return node.target is operator.getitem
    random = torch.Tag.nondeterministic_seeded in node.target.tags
    return not random and not node.target._schema.is_mutable and str(node.target) not in SKIPPED


def fetch(module: nn.Module, target: str) -> torch.Tensor:
    value: Any = module
    for part in target.split("."):
        value = getattr(value, part)
    assert isinstance(value, torch.Tensor)
    return value.detach()
