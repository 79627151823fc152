"""From recorded operations back to a graph that torch can run and export."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn

from export.lowering.frames import Gather, Op, Piece, Ref, frames_of
from export.lowering.nested import map_nested


class Cyclic(Exception):
    """Operations that wait for each other's results."""


class Emitter:
    """Writes the operations that outputs need, and only those, each once."""

    def __init__(self, constants: dict[Piece, torch.Tensor]) -> None:
        self.root = nn.Module()
        self.graph = fx.Graph()
        self._constants = constants
        self._nodes: dict[Piece, fx.Node] = {}
        self._gathers: dict[tuple[Ref, ...], fx.Node] = {}

    def input(self, name: str, pieces: Sequence[Piece]) -> fx.Node:
        """An input whose frames are `pieces`, one behind the other."""
        node = self.graph.placeholder(name)
        start = 0
        for piece in pieces:
            stop = start + frames_of(piece)
            self._nodes[piece] = node if len(pieces) == 1 else self._slice(node, start, stop)
            start = stop
        return node

    def call(self, target: Callable[..., Any], *args: Any) -> fx.Node:
        """Any operator on nodes."""
        return self.graph.call_function(target, args)

    def gather(self, refs: Sequence[Ref]) -> fx.Node:
        """The frames `refs` as one tensor: as few slices as there are runs, and a concatenation."""
        refs = tuple(refs)
        if refs not in self._gathers:
            parts = [self.run(run) for run in _runs(refs)]
            whole = parts[0] if len(parts) == 1 else self.call(torch.ops.aten.cat.default, parts, 0)
            self._gathers[refs] = whole
        return self._gathers[refs]

    def run(self, run: tuple[Piece, int, int]) -> fx.Node:
        """Consecutive frames of one piece."""
        piece, start, stop = run
        if piece in self._constants and (start, stop) != (0, frames_of(piece)):
            cut = Piece(None, 0, (stop - start, *piece.shape[1:]), piece.step)
            self._constants[cut] = self._constants[piece][start:stop]
            return self.gather([Ref(cut, index) for index in range(stop - start)])
        node = self.node(piece)
        return node if (start, stop) == (0, frames_of(piece)) else self._slice(node, start, stop)

    def node(self, piece: Piece) -> fx.Node:
        """What computes a piece, and before it what that needs."""
        pending, begun = [piece], set()
        while pending:
            top = pending[-1]
            if top in self._nodes:
                pending.pop()
            elif top.op is None:
                self._nodes[pending.pop()] = self._constant(top)
            else:
                needed = [piece for piece in self._needed(top.op) if piece not in self._nodes]
                if needed and top.op in begun:
                    raise Cyclic("operations wait for each other's results")
                begun.add(top.op)
                pending += needed
                if not needed:
                    self._emit(top.op)
        return self._nodes[piece]

    def operands(self, op: Op, number: int, gather: Gather) -> list[Ref]:
        """All frames that an argument is made of."""
        return list(gather.refs)

    def argument(self, op: Op, number: int, gather: Gather) -> fx.Node:
        """The node that stands for an argument."""
        return self.gather(gather.refs)

    def module(self, outputs: fx.Node | Sequence[fx.Node]) -> fx.GraphModule:
        """The finished module, which gives one tensor or a tuple."""
        self.graph.output(outputs if isinstance(outputs, fx.Node) else tuple(outputs))
        self.graph.lint()
        return fx.GraphModule(self.root, self.graph)

    def _needed(self, op: Op) -> list[Piece]:
        refs = [ref for number, gather in enumerate(op.gathers) for ref in self.operands(op, number, gather)]
        return list(dict.fromkeys(ref.piece for ref in refs))

    def _emit(self, op: Op) -> None:
        number = itertools.count()

        def argument(leaf: Any) -> Any:
            return self.argument(op, next(number), leaf) if isinstance(leaf, Gather) else leaf

        args, kwargs = map_nested([op.args, op.kwargs], argument)
        called = self.graph.call_function(op.target, tuple(args), kwargs)
        for piece in op.pieces:
            several = len(op.pieces) > 1
            self._nodes[piece] = self.graph.call_function(_item, (called, piece.output)) if several else called

    def _constant(self, piece: Piece) -> fx.Node:
        name = f"constant{len(dict(self.root.named_parameters()))}"
        self.root.register_parameter(name, nn.Parameter(self._constants[piece], requires_grad=False))
        return self.graph.get_attr(name)

    def _slice(self, node: fx.Node, start: int, stop: int) -> fx.Node:
        return self.call(torch.ops.aten.slice.Tensor, node, 0, start, stop)


def _item(items: Sequence[Any], index: int) -> Any:
    return items[index]


def _runs(refs: Sequence[Ref]) -> list[tuple[Piece, int, int]]:
    runs: list[tuple[Piece, int, int]] = []
    for piece, index in refs:
        if runs and runs[-1][0] is piece and runs[-1][2] == index and piece.shape:
            runs[-1] = (piece, runs[-1][1], index + 1)
        else:
            runs.append((piece, index, index + 1))
    return runs
