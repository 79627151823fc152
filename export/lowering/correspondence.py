"""Which operation of one step of a clip is which operation of another.

A causal model does the same at every step of its input, on what is new and on what it kept. Given the operations
of a whole clip, grouped by step, `Correspondence` follows two steps back from their results side by side: equal
operators on equal weights are the same operation, and wherever the one step reads what an earlier step left, the
other's argument at that place is what the state holds there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from export.lowering.frames import ALWAYS, Gather, Op, Piece, Ref, frames_of
from export.lowering.nested import map_nested


class Differs(Exception):
    """Two steps that do not do the same; `final` if a longer clip would not show otherwise."""

    def __init__(self, reason: str, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


@dataclass(frozen=True)
class Place:
    """The `position`-th frame of the `gather`-th tensor argument of an operation of the steady step."""

    op: Op
    gather: int
    position: int


class Correspondence:
    """Operations of the `steady` step and the same operations of `step`, and what `step` reads at each `Place`."""

    def __init__(self, steady: int, step: int, constants: dict[Piece, torch.Tensor]) -> None:
        self.steady, self.step = steady, step
        self.same: dict[Op, Op] = {}
        self.reads: dict[Place, Ref] = {}
        self._constants = constants

    def follow(self, here: Op, there: Op) -> None:
        """Take two operations as the same and go on from them backwards; raises `Differs` where that fails."""
        pending = [(here, there)]
        while pending:
            mine, theirs = pending.pop()
            if mine in self.same:
                if self.same[mine] is not theirs:
                    raise Differs("one operation stands for two")
                continue
            if not alike(mine, theirs):
                raise Differs(f"{mine.target} here, {theirs.target} there")
            self.same[mine] = theirs
            for number, (own, other) in enumerate(zip(mine.gathers, theirs.gathers, strict=True)):
                if len(own.refs) != len(other.refs):
                    raise Differs(f"{mine.target} takes {len(own.refs)} frames here, {len(other.refs)} there")
                for position, (ref, its) in enumerate(zip(own.refs, other.refs, strict=True)):
                    self._compare(Place(mine, number, position), ref, its, pending)

    def _compare(self, place: Place, ref: Ref, its: Ref, pending: list[tuple[Op, Op]]) -> None:
        if ref.piece.step == ALWAYS:
            if ref.place != its.place or not same_constant(ref.piece, its.piece, self._constants):
                raise Differs(f"{place.op.target} takes a constant of its own at some steps")
        elif ref.piece.step < self.steady:
            if its.piece.step >= self.step:
                raise Differs(f"{place.op.target} reads what an earlier step left at some steps only")
            self.reads[place] = its
        elif its.piece.step != self.step or its.place != ref.place or (ref.piece.op is None) != (its.piece.op is None):
            raise Differs(f"{place.op.target} takes other frames at some steps")
        elif ref.piece.op is not None and its.piece.op is not None:
            if ref.piece.output != its.piece.output:
                raise Differs(f"{place.op.target} takes another result at some steps")
            pending.append((ref.piece.op, its.piece.op))


def alike(mine: Op, theirs: Op, any_length: bool = False) -> bool:
    """Whether two operations have one operator and the same settings; with `any_length` on any number of frames."""
    if mine.target is not theirs.target or len(mine.gathers) != len(theirs.gathers):
        return False
    return _settings(mine, any_length) == _settings(theirs, any_length)


def _settings(op: Op, any_length: bool) -> Any:
    def plain(leaf: Any) -> Any:
        return "tensor" if isinstance(leaf, Gather) else leaf

    args, kwargs = map_nested([op.args, op.kwargs], plain)
    if any_length and len(args) == 2 and isinstance(args[1], list) and args[1] and op.pieces[0].shape == tuple(args[1]):
        args = [args[0], args[1][1:]]
    return [list(args), kwargs]


def same_constant(mine: Piece, theirs: Piece, constants: dict[Piece, torch.Tensor]) -> bool:
    """Whether two constants are equal, by what they are computed from."""
    if mine is theirs:
        return True
    if mine.op is None and theirs.op is None:
        if mine not in constants or theirs not in constants:
            return False
        return torch.equal(constants[mine], constants[theirs])
    if mine.op is None or theirs.op is None or not alike(mine.op, theirs.op):
        return False
    for own, other in zip(mine.op.gathers, theirs.op.gathers, strict=True):
        if [ref.place for ref in own.refs] != [ref.place for ref in other.refs]:
            return False
        pairs = zip(own.refs, other.refs, strict=True)
        if not all(same_constant(a.piece, b.piece, constants) for a, b in pairs):
            return False
    return True


class FirstStep:
    """What the steady step's operations must be given so that they compute step 0, which has fewer frames.

    Frames are aligned at the end: a model that drops its first frames, or pads with them, computes at step 0 the last
    frames of what it computes later. `standins` says which places must read something else at step 0, and what.
    """

    def __init__(self, latent: Piece, first_latent: Piece, constants: dict[Piece, torch.Tensor]) -> None:
        self.steady = latent.step
        self._latents = (latent, first_latent)
        self._constants = constants
        self.same: dict[Op, Op] = {}
        self.by_step0: dict[Op, Op] = {}
        self.standins: dict[Place, Ref] = {}

    def standins_if(self, here: Op, there: Op) -> int | None:
        """How many stand-ins it would take to have two operations the same; None where they cannot be."""
        kept = dict(self.same), dict(self.by_step0), dict(self.standins)
        before = len(self.standins)
        try:
            return len(self.standins) - before if self.follow(here, there) else None
        except Differs:
            return None
        finally:
            self.same, self.by_step0, self.standins = kept

    def follow(self, here: Op, there: Op) -> bool:
        """Take two operations as the same if they can be; whatever differs in their arguments gets a stand-in."""
        if not self._pair(here, there):
            return False
        pending = [(here, there)]
        while pending:
            mine, theirs = pending.pop()
            for number, (own, other) in enumerate(zip(mine.gathers, theirs.gathers, strict=True)):
                missing = len(own.refs) - len(other.refs)
                if missing < 0:
                    raise Differs(f"{mine.target} takes more frames at the first step")
                for position, its in enumerate(other.refs, missing):
                    ref = own.refs[position]
                    if not self._is_same_constant(ref, its) and not self._continues(ref, its, pending):
                        self.standins[Place(mine, number, position)] = its
        return True

    def steady_ref(self, ref: Ref) -> Ref | None:
        """Where the steady step computes a frame of step 0; None where it does not."""
        if ref.piece.step == ALWAYS:
            return ref
        if ref.piece is self._latents[1]:
            return Ref(self._latents[0], ref.place)
        op = self.by_step0.get(ref.piece.op) if ref.piece.op is not None else None
        if op is None:
            return None
        piece = op.pieces[ref.piece.output]
        return Ref(piece, ref.place + frames_of(piece) - frames_of(ref.piece))

    def _is_same_constant(self, ref: Ref, its: Ref) -> bool:
        constant = ref.place == its.place and ref.piece.step == its.piece.step == ALWAYS
        return constant and same_constant(ref.piece, its.piece, self._constants)

    def _continues(self, ref: Ref, its: Ref, pending: list[tuple[Op, Op]]) -> bool:
        mine, theirs = ref.piece, its.piece
        if mine.step != self.steady or theirs.step != 0 or ref.place - its.place != frames_of(mine) - frames_of(theirs):
            return False
        if mine.op is None or theirs.op is None:
            return mine.op is theirs.op
        if mine.output != theirs.output:
            return False
        if mine.op in self.same:
            return self.same[mine.op] is theirs.op
        if not self._pair(mine.op, theirs.op):
            return False
        pending.append((mine.op, theirs.op))
        return True

    def _of_other_weights(self, own: Gather, other: Gather) -> bool:
        """Whether two arguments are two different weights; what pads a clip is one number, and no weight."""
        pairs = zip(own.refs[len(own.refs) - len(other.refs) :], other.refs, strict=True)
        constants = [(ref, its) for ref, its in pairs if ref.piece.step == its.piece.step == ALWAYS]
        weights = [(ref, its) for ref, its in constants if None in (ref.piece.value, its.piece.value)]
        return not all(self._is_same_constant(ref, its) for ref, its in weights)

    def _pair(self, mine: Op, theirs: Op) -> bool:
        if mine in self.same or theirs in self.by_step0:
            return self.same.get(mine) is theirs
        lengths = zip(mine.gathers, theirs.gathers, strict=False)
        if not alike(mine, theirs, any_length=True) or any(len(a.refs) < len(b.refs) for a, b in lengths):
            return False
        if any(p.shape[1:] != q.shape[1:] for p, q in zip(mine.pieces, theirs.pieces, strict=False)):
            return False
        if any(self._of_other_weights(own, other) for own, other in zip(mine.gathers, theirs.gathers, strict=True)):
            return False
        self.same[mine], self.by_step0[theirs] = theirs, mine
        return True
