"""Re-trace a video model so that no tensor of its graph has a rank above 4, with the same numbers.

`lower` exports the module with `torch.export`, then walks that graph with values whose storage never exceeds
rank 4 (`export.lowering.packed`), one small handler an operator (`export.lowering.handlers`). The result is a
module again: run it, or give it to any exporter. What has no handler is refused by name.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Node

from export.lowering import handlers
from export.lowering.packed import MAX_RANK, Packed, Unrepresentable
from toolkit.errors import UserError

VIDEO_RANK = 5
SKIPPED = {"aten._assert_tensor_metadata.default", "_guards_fn"}


class LoweringError(UserError):
    """An operator that cannot be said at rank 4 yet; the message names it and the layer it came from."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a lowered module: its shape there, and whether it is a video's frames `(T, C, H, W)`."""

    shape: tuple[int, ...]
    frames: bool


@dataclass(frozen=True)
class Weight:
    """A parameter or constant of the original module, by its name there."""

    name: str
    tensor: torch.Tensor


class LoweredModule(nn.Module):
    """The lowered model: frames `(T, C, H, W)` where the original takes or gives videos `(1, C, T, H, W)`.

    Holds only the weights that its graph uses, already split into taps.
    """

    def __init__(self, program: ExportedProgram, example_inputs: Sequence[torch.Tensor]) -> None:
        super().__init__()
        traced = program.module()
        self._nodes = list(traced.graph.nodes)
        targets = dict.fromkeys(str(node.target) for node in self._nodes if node.op == "get_attr")
        self._weights = {  # numbered, since "a.b_c" and "a_b.c" would otherwise become one
            target: Weight(f"w{number}_{target.replace('.', '_')}", _fetch(traced, target))
            for number, target in enumerate(targets)
        }
        self._video_inputs = [example.ndim == VIDEO_RANK for example in example_inputs]
        self._video_outputs: list[bool] = []
        self.constants = nn.ParameterDict()
        self._frozen = False
        self.inputs: list[TensorSpec] = []
        frames = [to_frames(example) if example.ndim == VIDEO_RANK else example for example in example_inputs]
        with torch.no_grad():
            outputs = self(*frames)
        self._frozen = True
        results = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        self.inputs = [TensorSpec(tuple(f.shape), v) for f, v in zip(frames, self._video_inputs, strict=True)]
        self.outputs = [TensorSpec(tuple(r.shape), v) for r, v in zip(results, self._video_outputs, strict=True)]

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Raises `LoweringError` on inputs of another shape than it was lowered for: shapes are part of the graph."""
        for given, spec in zip(inputs, self.inputs, strict=False):
            if tuple(given.shape) != spec.shape:
                raise LoweringError(f"lowered for an input of {list(spec.shape)}, not {list(given.shape)}")
        return Lowering(self).run(inputs)


class Lowering:
    """One walk over the graph: the environment of values, and the constants that handlers ask for."""

    def __init__(self, module: LoweredModule) -> None:
        self.module = module
        self.values: dict[Node, Any] = {}

    def constant(self, name: str, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The lowered module's own constant: made on the first walk, looked up by name ever after."""
        constants = self.module.constants
        if name not in constants:
            assert not self.module._frozen, f"constant {name} appeared after lowering"
            constants[name] = nn.Parameter(make().detach().clone(), requires_grad=False)
        found = constants[name]
        assert isinstance(found, torch.Tensor)
        return found

    def run(self, inputs: Sequence[torch.Tensor]) -> Any:
        pending = iter(zip(inputs, self.module._video_inputs, strict=True))
        for node in self.module._nodes:
            if node.op == "placeholder":
                tensor, is_video = next(pending)
                if tensor.ndim > VIDEO_RANK:
                    raise LoweringError(f"an input of shape {list(tensor.shape)}: rank 5 is the most")
                self.values[node] = Packed.from_frames(tensor) if is_video else Packed.of(tensor)
            elif node.op == "get_attr":
                self.values[node] = self.module._weights[str(node.target)]
            elif node.op == "output":
                return self._output(node)
            elif str(node.target) not in SKIPPED:
                self.values[node] = self._call(node)
        raise AssertionError("a graph without an output")

    def _call(self, node: Node) -> Any:
        name = str(node.target)
        keeps_weights = name in handlers.TAKES_WEIGHTS
        if not self._can_say(node):
            raise refusal(node, "has no handler")
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            raise refusal(node, "writes into a tensor that outlives the call, which artifacts cannot,")

        def value(item: Node) -> Any:
            found = self.values[item]
            return self._packed(node, found) if isinstance(found, Weight) and not keeps_weights else found

        args: Any = torch.fx.map_arg(node.args, value)
        kwargs: Any = torch.fx.map_arg(node.kwargs, value)
        try:
            if name in handlers.HANDLERS:
                return handlers.HANDLERS[name](self, node, *args, **kwargs)
            if isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags:
                return handlers.pointwise(node, args, kwargs)
            return self._as_it_is(node, args, kwargs)
        except Unrepresentable as error:
            raise refusal(node, f"needs {error}") from error

    @staticmethod
    def _can_say(node: Node) -> bool:
        """Whether there is a handler, or none is needed: pointwise, or of rank 4 at most on all sides."""
        if str(node.target) in handlers.HANDLERS or node.target is operator.getitem:
            return True
        if isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags:
            return True
        values = [node.meta.get("val"), *(used.meta.get("val") for used in node.all_input_nodes)]
        return all(tensor.ndim <= MAX_RANK for tensor in _tensors_in(values))

    def _as_it_is(self, node: Node, args: Any, kwargs: Any) -> Any:
        """An operator whose tensors all have rank 4 at most needs no rewriting."""
        if node.target is operator.getitem:
            return args[0][args[1]]
        assert callable(node.target)
        plain = lambda p: p.plain() if isinstance(p, Packed) else p  # noqa: E731
        output = node.target(*_map(args, plain), **_map(kwargs, plain))
        return _map(output, lambda t: Packed.of(t) if isinstance(t, torch.Tensor) else t)

    def _packed(self, node: Node, weight: Weight) -> Packed:
        shape = weight.tensor.shape
        if sum(size > 1 for size in shape) > MAX_RANK:
            raise refusal(node, f"uses a constant of shape {list(shape)}")
        kept = shape if len(shape) <= MAX_RANK else [size for size in shape if size > 1]
        return Packed.of(self.constant(weight.name, lambda: weight.tensor.reshape(kept))).reshape(shape)

    def _output(self, node: Node) -> Any:
        returned = node.args[0]
        assert isinstance(returned, tuple | list)
        results: list[torch.Tensor] = []
        kinds = []
        for item in returned:
            packed = self.values[item] if isinstance(item, Node) else None
            if not isinstance(packed, Packed):
                raise LoweringError(f"output {len(results) + 1} is no computed tensor; return only what is computed")
            is_video = len(packed.dims) == VIDEO_RANK
            try:
                results.append(packed.frames() if is_video else packed.plain())
            except Unrepresentable as error:
                raise refusal(node, f"gives {error}") from error
            kinds.append(is_video)
        self.module._video_outputs = kinds
        return results[0] if len(results) == 1 else tuple(results)


def lower(module: nn.Module, example_inputs: Sequence[torch.Tensor], layout: str = "folded") -> LoweredModule:
    """The same function at rank 4: videos `(1, C, T, H, W)` become frames `(T, C, H, W)`, inputs and outputs alike.

    `layout` "folded" keeps time in the batch axis. Raises `LoweringError` (a `UserError`) that names the operator,
    its layer, its shapes and the remedy where something cannot be said at rank 4.
    """
    if layout != "folded":
        raise LoweringError(f"layout '{layout}' is not known; known: folded")
    for example in example_inputs:
        if example.ndim == VIDEO_RANK and example.shape[0] != 1:
            raise LoweringError(f"an input of shape {list(example.shape)}: artifacts take one video; use batch 1")
    with torch.no_grad():
        program = torch.export.export(module.eval(), tuple(example_inputs))
        # Decomposing nothing still makes the graph functional: no operator writes into another's result.
        program = program.run_decompositions({})
        return LoweredModule(program, example_inputs)


def to_frames(video: torch.Tensor) -> torch.Tensor:
    """A video `(1, C, T, H, W)` as frames `(T, C, H, W)`."""
    return video[0].transpose(0, 1).clone(memory_format=torch.contiguous_format)  # plain strides on axes of size 1 too


def to_video(frames: torch.Tensor) -> torch.Tensor:
    """Frames `(T, C, H, W)` as a video `(1, C, T, H, W)`."""
    return frames.transpose(0, 1)[None]


def max_rank(program: ExportedProgram) -> int:
    """The highest rank of any tensor in an exported graph, weights included."""
    return max((t.ndim for n in program.graph.nodes for t in _tensors_in(n.meta.get("val"))), default=0)


def refusal(node: Node, reason: str) -> LoweringError:
    """An error that says which operator of which layer stopped the lowering, and what to do about it."""
    layers = [str(path) for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]
    shapes = [list(t.shape) for a in node.all_input_nodes for t in _tensors_in(a.meta.get("val"))]
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines() if "File " in line]
    lines = [line for line in lines if f"{os.sep}torch{os.sep}nn{os.sep}" not in line] or lines
    source = f" at {lines[-1].removeprefix('File ')}" if lines else ""
    return LoweringError(
        f"lowering: {node.target} on {shapes} {reason} at rank {MAX_RANK}, in layer "
        f"'{layers[-1] if layers else 'the model itself'}'{source}. Rewrite the layer with supported operators, "
        "or add a handler in export/lowering/handlers.py (see CONTRIBUTING.md)"
    )


def _fetch(module: nn.Module, target: str) -> torch.Tensor:
    value: Any = module
    for part in target.split("."):
        value = getattr(value, part)
    assert isinstance(value, torch.Tensor)
    return value.detach()


def _map(item: Any, function: Any) -> Any:
    if isinstance(item, list | tuple):
        return type(item)(_map(i, function) for i in item)
    if isinstance(item, dict):
        return {key: _map(value, function) for key, value in item.items()}
    return function(item)


def _tensors_in(item: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    _map(item, lambda leaf: found.append(leaf) if isinstance(leaf, torch.Tensor) else None)
    return found
