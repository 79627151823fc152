"""Re-trace a video model so that no tensor of its graph has a rank above 4, with the same numbers.

`lower` exports the module with `torch.export`, then walks that graph with values whose storage never exceeds
rank 4 (`export.lowering.packed`), one small handler an operator (`export.lowering.handlers`). The result is a
module again: run it, or give it to any exporter. What has no handler is refused by name; `obstacles` finds all of
a model's refusals in one walk.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.traceback import annotate, preserve_node_meta

from export.lowering.constants import Constant, Weight, known_ahead
from export.lowering.handlers import HANDLERS, TAKES_WEIGHTS
from export.lowering.handlers.pointwise import pointwise
from export.lowering.nested import map_nested, tensors_in
from export.lowering.packed import MAX_RANK, Packed, Unrepresentable
from export.lowering.refusal import SKIPPED, LoweringError, depends_on_data, layer, refusal, uncapturable
from export.lowering.unrolled import unroll

VIDEO_RANK = 5
#: Where nodes traced under `torch.fx.traceback.preserve_node_meta` keep the name of the node they were made for.
ORIGIN = "handheld_origin"
#: The same of the path of the module that it was made for.
LAYER = "handheld_layer"


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a lowered module: its shape there, and whether it is a video's frames `(T, C, H, W)`."""

    shape: tuple[int, ...]
    frames: bool


class LoweredModule(nn.Module):
    """The lowered model: frames `(T, C, H, W)` where the original takes or gives videos `(1, C, T, H, W)`.

    Holds only the weights that its graph uses, already in the layout in which it uses them. With `collect`, what
    cannot be said is noted there instead of raised, and its result taken as unknown numbers of the right shape.
    `frame_by_frame` keeps every frame in a layout of its own, for taking the graph apart along time.
    """

    def __init__(
        self,
        program: ExportedProgram,
        example_inputs: Sequence[torch.Tensor],
        collect: list[LoweringError] | None = None,
        form: str | None = None,
        frame_by_frame: bool = False,
    ) -> None:
        super().__init__()
        traced = program.module()
        self._nodes = list(traced.graph.nodes)
        self._known = known_ahead(traced, self._nodes)
        self._collect = collect
        self.form, self.frame_by_frame = form, frame_by_frame
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
        self.check(inputs)
        return Lowering(self).run(inputs)

    def check(self, inputs: Sequence[torch.Tensor]) -> None:
        """Raise `LoweringError` unless `inputs` have the shapes of the examples."""
        for given, spec in zip(inputs, self.inputs, strict=False):
            if tuple(given.shape) != spec.shape:
                raise LoweringError(f"lowered for an input of {list(spec.shape)}, not {list(given.shape)}")


class UnrolledModule(LoweredModule):
    """A lowered module written out frame by frame."""

    def __init__(self, folded: LoweredModule, example_inputs: Sequence[torch.Tensor]) -> None:
        nn.Module.__init__(self)
        self.inputs, self.outputs = folded.inputs, folded.outputs
        frames = [to_frames(example) if example.ndim == VIDEO_RANK else example for example in example_inputs]
        self.graph_module = unroll(program_of(folded, frames).module())

    def forward(self, *inputs: torch.Tensor) -> Any:
        """As `LoweredModule.forward`."""
        self.check(inputs)
        return self.graph_module(*inputs)


class Lowering:
    """One walk over the graph: the environment of values, and the constants that handlers ask for."""

    def __init__(self, module: LoweredModule) -> None:
        self.module = module
        self.values: dict[Node, Any] = {}
        #: When collecting, what has no shape: all that uses it is refused with it, and not noted again.
        self.lost: set[Node] = set()
        #: When collecting, what refused operators would have taken: more outputs, so that no trace leaves it out.
        self.kept: list[torch.Tensor] = []

    def constant(self, name: str, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The lowered module's own constant: made on the first walk, looked up by name ever after."""
        constants, name = self.module.constants, name.replace(".", "_")
        if name not in constants:
            assert not self.module._frozen, f"constant {name} appeared after lowering"
            made = make().detach().clone(memory_format=torch.contiguous_format)
            constants[name] = nn.Parameter(made, requires_grad=False)
        found = constants[name]
        assert isinstance(found, torch.Tensor)
        return found

    def packed(self, weight: Weight) -> Packed:
        """A weight as a value of the graph."""
        return Constant.whole(self.constant, weight)

    def run(self, inputs: Sequence[torch.Tensor]) -> Any:
        pending = iter(zip(inputs, self.module._video_inputs, strict=True))
        for node in self.module._nodes:
            if node.op == "placeholder":
                tensor, is_video = next(pending)
                if tensor.ndim > VIDEO_RANK:
                    raise LoweringError(f"an input of shape {list(tensor.shape)}: rank 5 is the most")
                self.values[node] = Packed.from_frames(tensor) if is_video else Packed.of(tensor)
            elif node in self.module._known:
                self.values[node] = self.module._known[node]
            elif node.op == "output":
                return self._output(node)
            elif str(node.target) not in SKIPPED:
                self.values[node] = self._call(node)
        raise AssertionError("a graph without an output")

    def _call(self, node: Node) -> Any:
        with annotate({ORIGIN: node.name, LAYER: layer(node)}):
            return self._say_or_note(node)

    def _say_or_note(self, node: Node) -> Any:
        if self.module._collect is None:
            return self._say(node)
        if self.lost.isdisjoint(node.all_input_nodes):
            try:
                return self._say(node)
            except LoweringError as error:
                self.module._collect.append(error)
        if depends_on_data(node.meta.get("val")):
            self.lost.add(node)
        taken = [self.values[used] for used in node.all_input_nodes if isinstance(self.values[used], Packed)]
        self.kept += [packed.storage for packed in taken]
        return map_nested(node.meta.get("val"), self._unknown)

    def _unknown(self, example: Any) -> Any:
        if not isinstance(example, torch.Tensor) or depends_on_data(example):
            return None
        return Packed(torch.zeros((), dtype=example.dtype), [], []).expand(example.shape)

    def _say(self, node: Node) -> Any:
        name = str(node.target)
        why = _objection(node)
        if why:
            raise refusal(node, why)

        def value(item: Node) -> Any:
            found = self.values[item]
            return self.packed(found) if isinstance(found, Weight) and name not in TAKES_WEIGHTS else found

        args: Any = torch.fx.map_arg(node.args, value)
        kwargs: Any = torch.fx.map_arg(node.kwargs, value)
        try:
            if name in HANDLERS:
                return HANDLERS[name](self, node, *args, **kwargs)
            if _is_pointwise(node):
                return pointwise(node, args, kwargs)
            return self._as_it_is(node, args, kwargs)
        except Unrepresentable as error:
            raise refusal(node, f"needs {error}") from error

    def _as_it_is(self, node: Node, args: Any, kwargs: Any) -> Any:
        """An operator whose tensors all have rank 4 at most needs no rewriting."""
        if node.target is operator.getitem:
            return args[0][args[1]]
        assert callable(node.target)
        plain = lambda p: p.plain() if isinstance(p, Packed) else p  # noqa: E731
        output = node.target(*map_nested(args, plain), **map_nested(kwargs, plain))
        return map_nested(output, lambda t: Packed.of(t) if isinstance(t, torch.Tensor) else t)

    def _output(self, node: Node) -> Any:
        returned = node.args[0]
        assert isinstance(returned, tuple | list)
        results: list[torch.Tensor] = []
        kinds: list[bool] = []
        for number, item in enumerate(returned, 1):
            try:
                result, is_video = self._result(node, number, item)
            except LoweringError as error:
                if self.module._collect is None:
                    raise
                if not (isinstance(item, Node) and item in self.lost):
                    self.module._collect.append(error)
                continue
            results.append(result)
            kinds.append(is_video)
        results += self.kept
        self.module._video_outputs = kinds + [False] * len(self.kept)
        return results[0] if len(results) == 1 else tuple(results)

    def _result(self, node: Node, number: int, item: Any) -> tuple[torch.Tensor, bool]:
        """One output, and whether it is a video's frames."""
        packed = self.values[item] if isinstance(item, Node) else None
        packed = self.packed(packed) if isinstance(packed, Weight) else packed
        if not isinstance(packed, Packed):
            raise LoweringError(f"output {number} is no computed tensor; return only what is computed")
        is_video = len(packed.dims) == VIDEO_RANK
        try:
            return packed.frames() if is_video else packed.plain(), is_video
        except Unrepresentable as error:
            raise refusal(node, f"gives {error}") from error


LAYOUTS = ("folded", "unrolled")


def lower(
    module: nn.Module, example_inputs: Sequence[torch.Tensor], layout: str = "folded", form: str | None = None
) -> LoweredModule:
    """The same function at rank 4: videos `(1, C, T, H, W)` become frames `(T, C, H, W)`, inputs and outputs alike.

    `layout` "folded" keeps time in the batch axis; "unrolled" computes every frame with operators of its own, for
    back ends that take batch 1 only. `form` is how every 3-D convolution is said that can be (`export.lowering.forms`),
    by default the form that was measured to be fast. Raises `LoweringError` (a `UserError`) that names the operator,
    its layer, its shapes and the remedy where something cannot be said at rank 4.
    """
    if layout not in LAYOUTS:
        raise LoweringError(f"layout '{layout}' is not known; known: {', '.join(LAYOUTS)}")
    with torch.no_grad():
        folded = LoweredModule(exported(module, example_inputs), example_inputs, form=form)
        return folded if layout == "folded" else UnrolledModule(folded, example_inputs)


def obstacles(module: nn.Module, example_inputs: Sequence[torch.Tensor]) -> list[LoweringError]:
    """Everything that would stop `lower`, each operator named with its layer, in the order of the graph."""
    try:
        return lower_in_part(exported(module, example_inputs), example_inputs)[1]
    except LoweringError as error:
        return [error]


def lower_in_part(
    program: ExportedProgram, example_inputs: Sequence[torch.Tensor]
) -> tuple[LoweredModule, list[LoweringError]]:
    """The program at rank 4 as far as that goes, and everything that stopped it.

    Where nothing did, that is what `lower` gives. Else its numbers mean nothing, and what refused operators would
    have taken are outputs too. Raises `LoweringError` on an input of rank above 5.
    """
    found: list[LoweringError] = []
    with torch.no_grad():
        lowered = LoweredModule(program, example_inputs, collect=found)
    lowered._collect = [] if found else None
    return lowered, found


def exported(module: nn.Module, example_inputs: Sequence[torch.Tensor]) -> ExportedProgram:
    """The module's functional graph; raises `LoweringError` on inputs that are no single video, and where
    `torch.export` cannot capture the model (data-dependent shapes or control flow).
    """
    for example in example_inputs:
        if example.ndim == VIDEO_RANK and example.shape[0] != 1:
            raise LoweringError(f"an input of shape {list(example.shape)}: artifacts take one video; use batch 1")
    try:
        with redirect_stderr(StringIO()):  # torch prints the graph as far as it got
            program = torch.export.export(module.eval(), tuple(example_inputs))
    except Exception as error:  # whatever the model's own code raises
        raise uncapturable(module, error) from error
    _forget_origins(program)
    # Decomposing nothing still makes the graph functional: no operator writes into another's result.
    program = program.run_decompositions({})
    _forget_origins(program)
    return program


def program_of(lowered: nn.Module, inputs: Sequence[torch.Tensor]) -> ExportedProgram:
    """The graph of a lowered module."""
    with torch.no_grad(), preserve_node_meta():  # so that nodes say what they were made for
        program = torch.export.export(lowered, tuple(inputs))
    _forget_origins(program)
    return program


def _forget_origins(program: ExportedProgram) -> None:
    """Drop what torch notes of each node's origins: it is copied with every pass, and soon takes minutes."""
    for node in program.graph.nodes:
        node.meta.pop("from_node", None)


def to_frames(video: torch.Tensor) -> torch.Tensor:
    """A video `(1, C, T, H, W)` as frames `(T, C, H, W)`."""
    return video[0].transpose(0, 1).clone(memory_format=torch.contiguous_format)  # plain strides on axes of size 1 too


def to_video(frames: torch.Tensor) -> torch.Tensor:
    """Frames `(T, C, H, W)` as a video `(1, C, T, H, W)`."""
    return frames.transpose(0, 1)[None]


def max_rank(program: ExportedProgram) -> int:
    """The highest rank of any tensor in an exported graph, weights included."""
    return max((t.ndim for n in program.graph.nodes for t in tensors_in(n.meta.get("val"))), default=0)


def _objection(node: Node) -> str | None:
    """Why there is no way to say a node, known before its arguments are looked at."""
    values = [node.meta.get("val"), *(used.meta.get("val") for used in node.all_input_nodes)]
    tensors = [tensor for value in values for tensor in tensors_in(value)]
    if any(not isinstance(size, int) for tensor in tensors for size in tensor.shape):
        return "has a shape that depends on the data, which artifacts cannot have,"
    if str(node.target) not in HANDLERS and node.target is not operator.getitem and not _is_pointwise(node):
        if any(tensor.ndim > MAX_RANK for tensor in tensors):
            return "has no handler"
        if not isinstance(node.target, torch._ops.OpOverload):
            return "is no operator of torch's ATen set, which it must be,"
    if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
        return "writes into a tensor that outlives the call, which artifacts cannot,"
    return None


def _is_pointwise(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags
