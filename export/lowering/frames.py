"""A rank-4 graph over frames, taken apart along time.

The folded graph computes all frames of a clip at once, time in its leading axis. `Recorder` walks it once more with
values that know, frame by frame, where each comes from and of which step of the input it is, and splits every
operator that works frame by frame into groups: one a frame (the unrolled layout) or one a step (`by_step`, from which
the streaming form is cut). Operators that mix frames in other ways run on all of theirs together.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.fx import Node

from export.lowering.constants import fetch
from export.lowering.frame_rules import RESIZED, Role, role_of, sized
from export.lowering.nested import map_nested, tensors_in
from export.lowering.refusal import SKIPPED

ALWAYS = -1  # the step of what depends on no input


@dataclass(eq=False)
class Piece:
    """Frames that one operator computed together: a tensor of `shape`, whose leading axis counts them.

    `value` is the one number that all elements have, where that is known.
    """

    op: Op | None
    output: int
    shape: tuple[int, ...]
    step: int
    value: float | None = None


class Ref(NamedTuple):
    """One frame of a piece."""

    piece: Piece
    place: int


@dataclass(frozen=True)
class Gather:
    """An argument: these frames, one behind the other."""

    refs: tuple[Ref, ...]

    @property
    def step(self) -> int:
        return max((ref.piece.step for ref in self.refs), default=ALWAYS)


@dataclass(eq=False)
class Op:
    """One call on whole groups of frames; tensors among its arguments are `Gather`s."""

    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    step: int
    pieces: list[Piece] = field(default_factory=list)

    @property
    def gathers(self) -> list[Gather]:
        found: list[Gather] = []
        map_nested([self.args, self.kwargs], lambda leaf: found.append(leaf) if isinstance(leaf, Gather) else None)
        return found


@dataclass(frozen=True)
class Value:
    """A tensor of the folded graph as its frames."""

    refs: tuple[Ref, ...]
    shape: tuple[int, ...]


#: A node and the number of a unit of its frames.
Unit = tuple[Node, int]
#: (node, unit of it, step at which the unit can first run) to the group it belongs to.
Grouping = Callable[[Node, int, int], int]


def one_by_one(_node: Node, unit: int, _step: int) -> int:
    """Every frame is a group of its own."""
    return unit


class Recorder:
    """The walk: `inputs` (one piece a step for every input), `outputs` (one value each) and `constants`.

    `units` has every operation with its node and first unit. With `repeats`, as an earlier walk one by one found them,
    a group's key is the operation's step. No operator of one tensor is called twice on one frame: models that keep a
    cache of frames do so at every step, and what a step shares with earlier ones is thereby what they leave it.
    """

    def __init__(
        self, module: torch.fx.GraphModule, grouping: Grouping, repeats: dict[Unit, Unit] | None = None
    ) -> None:
        self.module = module
        self.grouping, self.keyed = grouping, repeats is not None
        self.units: dict[Op, Unit] = {}
        self.repeats: dict[Unit, Unit] = dict(repeats or {})
        self.inputs: list[list[Piece]] = []
        self.outputs: list[Value] = []
        self.constants: dict[Piece, torch.Tensor] = {}
        self._values: dict[Node, Any] = {}
        self._named: dict[str, Value] = {}
        self._results: dict[Unit, list[list[Ref]]] = {}
        self._known: dict[Any, Unit] = {}
        self.blanks: dict[tuple[tuple[int, ...], float], Piece] = {}
        for node in self.module.graph.nodes:
            self._visit(node)

    def _visit(self, node: Node) -> None:
        if node.op == "placeholder":
            shape = tuple(node.meta["val"].shape)
            pieces = [Piece(None, 0, (1, *shape[1:]), step) for step in range(shape[0])]
            self.inputs.append(pieces)
            self._values[node] = Value(tuple(Ref(piece, 0) for piece in pieces), shape)
        elif node.op == "get_attr":
            name = str(node.target)
            self._named[name] = self._named.get(name) or self._constant(fetch(self.module, name))
            self._values[node] = self._named[name]
        elif node.op == "output":
            returned: Any = node.args[0]
            self.outputs = [self._values[item] for item in returned]
        elif str(node.target) not in SKIPPED:
            self._values[node] = self._call(node)

    def _constant(self, tensor: torch.Tensor) -> Value:
        flat = tensor.flatten()
        uniform = flat.numel() > 0 and bool((flat == flat[0]).all())
        piece = Piece(None, 0, tuple(tensor.shape), ALWAYS, float(flat[0]) if uniform else None)
        self.constants[piece] = tensor
        return Value(tuple(Ref(piece, index) for index in range(frames_of(piece))), piece.shape)

    def _call(self, node: Node) -> Any:
        args: Any = torch.fx.map_arg(node.args, lambda used: self._values[used])
        kwargs: Any = torch.fx.map_arg(node.kwargs, lambda used: self._values[used])
        if node.target is operator.getitem:
            return args[0][args[1]]
        role = role_of(node)
        if role is Role.SELECTS:
            return _selected(node, args)
        if role is Role.JOINS:
            parts = args[0]
            return Value(tuple(ref for part in parts for ref in part.refs), tuple(node.meta["val"].shape))
        if role is Role.PADS:
            value = args[-1] if len(args) > 2 and args[-1] not in (None, "constant") else 0.0
            return self._padded(node, args[0], args[1], value)
        if role is Role.REPEATS:
            return Value(args[0].refs * (node.meta["val"].shape[0]), tuple(node.meta["val"].shape))
        shapes = [tuple(example.shape) for example in tensors_in(node.meta["val"])]
        return self._grouped(node, args, kwargs, role, shapes)

    def _padded(self, node: Node, x: Value, amounts: Sequence[int], value: float) -> Value:
        """Constant frames before and behind."""
        shape = tuple(node.meta["val"].shape)
        before, after = amounts[-2:]
        if any(amounts[:-2]):
            around = (x, [*amounts[:-2], 0, 0], *node.args[2:])
            x = self._grouped(node, around, node.kwargs, Role.FIRST, [(x.shape[0], *shape[1:])])
        kept = x.refs[max(-before, 0) : len(x.refs) + min(after, 0)]
        blank = Ref(self.blank((1, *shape[1:]), value), 0)
        return Value((*[blank] * max(before, 0), *kept, *[blank] * max(after, 0)), shape)

    def blank(self, shape: tuple[int, ...], value: float) -> Piece:
        """A constant frame: one number, repeated when it is used."""
        if (shape, value) not in self.blanks:
            number = self._constant(torch.full((1,) * len(shape), value))
            op = Op(torch.ops.aten.expand.default, (Gather(number.refs), list(shape)), {}, ALWAYS)
            op.pieces = [Piece(op, 0, shape, ALWAYS, value)]
            self.blanks[shape, value] = op.pieces[0]
        return self.blanks[shape, value]

    def _grouped(self, node: Node, args: Any, kwargs: Any, role: Role, shapes: list[tuple[int, ...]]) -> Any:
        """One operation for each group of units, a unit being the fewest frames that go through it on their own."""
        framed = _framed(args, kwargs, role, shapes[0])
        lead, result = len(framed[0].refs) if framed else 1, shapes[0][0] if shapes[0] else 1
        apart = bool(framed) and (result % lead == 0 or lead % result == 0)
        units = min(lead, result) if apart else 1
        if str(node.target) in RESIZED and units == lead == result:
            framed = [self._unresized(node, framed[0], shapes[0])]
            args = (framed[0], *args[1:])
        keys: dict[int, list[int]] = {}
        for unit in range(units):
            if (node, unit) not in self._results and (node, unit) not in self.repeats:
                step = max((r.piece.step for value in framed for r in _unit(value, unit, units)), default=ALWAYS)
                keys.setdefault(self.grouping(node, unit, step), []).append(unit)
        for key, members in keys.items():
            op = self._operation(node, args, kwargs, framed, members, units)
            op.step = key if self.keyed else op.step
            if self._first_of_its_kind(op, node, members):
                self._add(op, node, members, [(shape[0] if shape else 1) // units for shape in shapes], shapes)
        found = [self._results[self.repeats.get((node, unit), (node, unit))] for unit in range(units)]
        values = [
            Value(tuple(ref for results in found for ref in results[output]), shape)
            for output, shape in enumerate(shapes)
        ]
        return values[0] if isinstance(node.meta["val"], torch.Tensor) else values

    def _unresized(self, node: Node, x: Value, shape: tuple[int, ...]) -> Value:
        """What a reshape of frames takes, from before earlier reshapes of them; frames back in shape need none."""
        sources = []
        for unit, ref in enumerate(x.refs):
            source = _unresized(ref)
            sources.append(source)
            if source.piece.shape[1:] == shape[1:]:
                self._results[node, unit] = [[source]]
        return Value(tuple(sources), x.shape)

    def _first_of_its_kind(self, op: Op, node: Node, members: Sequence[int]) -> bool:
        """Whether no earlier operation computes the same of the inputs; one that does answers for this one's unit."""
        if self.keyed or len(members) > 1 or op.step == ALWAYS or len(op.gathers) > 1:
            return True
        unit, kind = (node, members[0]), _kind(op)
        if kind in self._known:
            self.repeats[unit] = self._known[kind]
            return False
        self._known[kind] = unit
        return True

    def _add(
        self, op: Op, node: Node, members: Sequence[int], each: Sequence[int], shapes: Sequence[tuple[int, ...]]
    ) -> None:
        """An operation's results: `each` says how many frames of every output belong to one unit."""
        self.units[op] = (node, members[0])
        for output, (count, shape) in enumerate(zip(each, shapes, strict=True)):
            own = (count * len(members), *shape[1:]) if shape else ()
            op.pieces.append(Piece(op, output, own, op.step))
        for place, unit in enumerate(members):
            self._results[node, unit] = [
                [Ref(piece, place * count + index) for index in range(count)]
                for piece, count in zip(op.pieces, each, strict=True)
            ]

    def _operation(
        self, node: Node, args: Any, kwargs: Any, framed: Sequence[Value], members: Sequence[int], units: int
    ) -> Op:
        def gathered(item: Any) -> Any:
            if not isinstance(item, Value):
                return item
            if any(item is value for value in framed):
                return Gather(tuple(ref for unit in members for ref in _unit(item, unit, units)))
            return Gather(item.refs)

        new_args, new_kwargs = map_nested(args, gathered), map_nested(kwargs, gathered)
        if sized(node) and node.meta["val"].ndim:
            size = list(node.meta["val"].shape)
            new_args = (new_args[0], [size[0] // units * len(members), *size[1:]])
        assert callable(node.target)
        op = Op(node.target, tuple(new_args), new_kwargs, ALWAYS)
        op.step = max((gather.step for gather in op.gathers), default=ALWAYS)
        return op


def frames_of(piece: Piece) -> int:
    """How many frames a piece has; a scalar counts as one."""
    return piece.shape[0] if piece.shape else 1


def by_step(module: torch.fx.GraphModule) -> Recorder:
    """Frames grouped by the step at which they are needed: that of the first result that is computed from them.

    Results are of the step at which they can first be had. Everything else runs as late as that allows, so that what
    is kept from step to step is what operators read, not what they might have computed of it ahead.
    """
    single = Recorder(module, one_by_one)
    needed: dict[Piece, int] = {}

    def need(ref: Ref, step: int) -> None:
        needed[ref.piece] = min(step, needed.get(ref.piece, step))

    for output in single.outputs:
        for ref in output.refs:
            need(ref, ref.piece.step)
    for op in reversed(list(single.units)):
        steps = [needed[piece] for piece in op.pieces if piece in needed]
        for gather in op.gathers if steps else ():
            for ref in gather.refs:
                need(ref, min(steps))
    due: dict[tuple[Node, int], int] = {}
    filled = set(single.blanks.values())  # what is computed of constant frames belongs to the step that reads it
    for op, (node, unit) in single.units.items():
        steps = [needed[piece] for piece in op.pieces if piece in needed]
        if op.step == ALWAYS and any(ref.piece in filled for gather in op.gathers for ref in gather.refs):
            filled.update(op.pieces)
        elif op.step == ALWAYS:
            steps = []
        due[node, unit] = min(steps, default=op.step)
    return Recorder(module, lambda node, unit, _step: due[node, unit], single.repeats)


def _unresized(ref: Ref) -> Ref:
    while ref.piece.op is not None and str(ref.piece.op.target) in RESIZED:
        sources = ref.piece.op.gathers[0].refs
        if len(sources) != frames_of(ref.piece):
            break
        ref = sources[ref.place]
    return ref


def _kind(op: Op) -> Any:
    """What an operation computes of what; equal for equal operations."""
    gathered = [gather.refs for gather in op.gathers]
    settings = map_nested([op.args, op.kwargs], lambda leaf: "tensor" if isinstance(leaf, Gather) else leaf)
    return (op.target, tuple(gathered), repr(settings))


def _selected(node: Node, args: Any) -> Value:
    x, (start, end, step) = args[0], [*args[2:], None, None, None][:3]
    return Value(x.refs[slice(start, end, step)], tuple(node.meta["val"].shape))


def _framed(args: Any, kwargs: Any, role: Role, shape: tuple[int, ...]) -> list[Value]:
    """The arguments that are taken frame by frame; the others are used whole."""
    values: list[Value] = []
    map_nested([args, kwargs], lambda leaf: values.append(leaf) if isinstance(leaf, Value) else None)
    if role is Role.MIXES or not values:
        return []
    if role is Role.FIRST:
        return values[:1]
    return [v for v in values if len(v.shape) == len(shape) and v.shape[:1] == shape[:1] and shape[0] > 1]


def _unit(value: Value, unit: int, units: int) -> tuple[Ref, ...]:
    each = len(value.refs) // units
    return value.refs[unit * each : (unit + 1) * each]
