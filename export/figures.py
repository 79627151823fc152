"""A model's figures ahead of an export, estimated from shapes: what it computes, holds and moves, and where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Node

from export import facts
from export.lowering.refusal import depends_on_data
from toolkit.schema import StrictModel

#: Layers to name: those with most MACs, and with none, those that move most.
TOP = 8


class Estimates(StrictModel):
    """Figures computed from shapes; peak activations are None where shapes depend on the data."""

    how: Literal["estimated"] = "estimated"
    params: int
    macs: int
    peak_activation_bytes: int | None


class LayerFigures(StrictModel):
    """One layer of the model: its MACs, the bytes that it reads and writes, and operations a byte."""

    layer: str
    macs: int
    moved_bytes: int

    @property
    def intensity(self) -> float:
        """Operations, two a MAC, for each byte moved."""
        return 2 * self.macs / self.moved_bytes if self.moved_bytes else 0.0


class LargestTensor(StrictModel):
    """The largest result of any operator."""

    operator: str
    layer: str
    shape: list[int]
    bytes: int


class ModelFigures(Estimates):
    """All figures of a model, in fp32 where nothing else is said.

    `moved_bytes` are those that all operators read and write, weights among them, if none is fused with another;
    `weight_bytes` are those of all weights in each precision that targets have.
    """

    moved_bytes: int | None = None
    weight_bytes: dict[str, int] = {}
    largest_tensor: LargestTensor | None = None
    layers: list[LayerFigures] = []

    @property
    def intensity(self) -> float | None:
        """Operations, two a MAC, for each byte moved."""
        return 2 * self.macs / self.moved_bytes if self.moved_bytes else None


def figures(
    module: nn.Module, inputs: Sequence[torch.Tensor], program: ExportedProgram, layer_of: Callable[[Node], str]
) -> ModelFigures:
    """The figures of `program`, whose nodes `layer_of` names the layers of; the parameters are those of `module`.

    Where a shape depends on the data, `module` is run on `inputs` to count its MACs, and nothing else is known.
    """
    if any(depends_on_data(node.meta.get("val")) for node in program.graph.nodes):
        return ModelFigures(params=facts.params(module), macs=facts.macs(module, inputs), peak_activation_bytes=None)
    work = facts.work(program)
    return ModelFigures(
        params=facts.params(module),
        macs=sum(item.macs for item in work),
        peak_activation_bytes=facts.peak_activation_bytes(program),
        moved_bytes=sum(item.moved_bytes for item in work),
        weight_bytes=facts.weight_bytes(program),
        largest_tensor=_largest(work, layer_of),
        layers=_layers(work, layer_of),
    )


def _largest(work: Sequence[facts.Work], layer_of: Callable[[Node], str]) -> LargestTensor | None:
    item = max(work, key=lambda item: item.result_bytes, default=None)
    if item is None or item.result is None:
        return None
    operator, shape = facts.name_of(item.node), [int(size) for size in item.result.shape]
    return LargestTensor(operator=operator, layer=layer_of(item.node), shape=shape, bytes=item.result_bytes)


def _layers(work: Sequence[facts.Work], layer_of: Callable[[Node], str]) -> list[LayerFigures]:
    macs: dict[str, int] = {}
    moved: dict[str, int] = {}
    for item in work:
        name = layer_of(item.node)
        macs[name] = macs.get(name, 0) + item.macs
        moved[name] = moved.get(name, 0) + item.moved_bytes
    order = sorted(macs, key=lambda name: (-macs[name], -moved[name]))
    return [LayerFigures(layer=name, macs=macs[name], moved_bytes=moved[name]) for name in order[:TOP]]
