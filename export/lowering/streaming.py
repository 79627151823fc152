"""The streaming form of a causal model: one latent frame and the states in, the next frames and states out.

`stream` lowers a clip of a few latent frames, groups its operations by the step at which they can first run, and
finds one step that stands for all: the steady step, whose operations every other step repeats
(`export.lowering.correspondence`). What it reads of earlier steps becomes its states, explicit tensors. The first
step has nothing to read and gives fewer frames: an input `first`, 1 there and 0 ever after, puts in place of states
and of frames before the first what the clip has there (zeros, or the first frame repeated). The numbers are those of
the clip, frame for frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from export.lowering.correspondence import Correspondence, Differs, FirstStep, Place
from export.lowering.emit import Cyclic, Emitter
from export.lowering.frames import ALWAYS, Gather, Op, Piece, Recorder, Ref, by_step
from export.lowering.hoisting import hoist_joins
from export.lowering.lower import LoweredModule, exported, program_of, to_frames
from export.lowering.refusal import LoweringError

#: Latent frames to look at, more and more until every state has moved on from what the clip begins with.
LENGTHS = (4, 6, 9, 14)


@dataclass(frozen=True)
class StreamForm:
    """A step as a module: `(latent (1, C, h, w), first (1, 1, 1, 1), *states)` to `(frames, *next states)`.

    States are zeros before the first step. Of the first step's frames only the last `first_frames` exist.
    """

    module: nn.Module
    latent_shape: tuple[int, ...]
    states: list[tuple[int, ...]]
    frames: int
    first_frames: int

    def inputs(self) -> tuple[torch.Tensor, ...]:
        """An example: zeros, at the first step."""
        return (torch.zeros(self.latent_shape), torch.ones(1, 1, 1, 1), *(torch.zeros(shape) for shape in self.states))


def stream(module: nn.Module, latent: torch.Tensor) -> StreamForm:
    """The streaming form of a causal model for latents of the height and width of `latent`, `(1, C, T, h, w)`.

    Raises `LoweringError` where the model is not causal, or does something else at every step.
    """
    for length in LENGTHS:
        repeats = -(-length // latent.shape[2])
        clip = latent.repeat(1, 1, repeats, 1, 1)[:, :, :length].contiguous()
        with torch.no_grad():  # "shift inputs" keeps what convolutions read, not their results
            lowered = LoweredModule(exported(module, (clip,)), (clip,), form="shift inputs", frame_by_frame=True)
        program = program_of(lowered, [to_frames(clip)])
        try:
            form = _Cut(by_step(hoist_joins(program.module())), length, accept=length == LENGTHS[-1]).form()
        except (Differs, Cyclic) as error:
            final = isinstance(error, Differs) and error.final
            if length < LENGTHS[-1] and not final:
                continue
            raise LoweringError(
                f"{type(module).__name__} cannot stream: {error}. Streaming needs a causal model that does the same at "
                "every latent frame; export it in clip mode, in tiles of time"
            ) from error
        if form is not None:
            return form
    raise AssertionError("the longest clip is always accepted")


@dataclass(eq=False)
class _Slot:
    """One frame of state: what it holds as each step begins, from step 1 to the one after the steady one."""

    held: tuple[Ref | None, ...]
    base: Ref | None = None  # what it holds next, in terms of the steady step
    carried: _Slot | None = None  # or the slot that it takes over from


class _Cut:
    """One attempt, with one length of clip, to find the steady step and its states."""

    def __init__(self, clip: Recorder, length: int, accept: bool) -> None:
        if len(clip.inputs) != 1 or len(clip.outputs) != 1:
            raise Differs("it has more than one input or output", final=True)
        self.clip, self.steady, self.accept = clip, length - 2, accept
        self.results = [_results(clip, step) for step in range(length)]
        if len({len(op.gathers[0].refs) for op in self.results[1:]}) != 1 or not self.results[1].gathers[0].refs:
            reason = "not every latent frame gives as many frames at once, for some depend on later ones"
            raise Differs(reason, final=True)
        self.steps = {step: Correspondence(self.steady, step, clip.constants) for step in range(1, length)}
        self.slots: dict[tuple[Ref | None, ...], _Slot] = {}
        self.places: dict[Place, _Slot] = {}

    def form(self) -> StreamForm | None:
        for step, correspondence in self.steps.items():
            correspondence.follow(self.results[self.steady], self.results[step])
        self._find_slots()
        if not self.accept and any(self._still_initial(slot) for slot in self.slots.values()):
            return None
        return _Step(self).form()

    def _still_initial(self, slot: _Slot) -> bool:
        known = [ref for ref in slot.held if ref is not None]
        return len(known) < 2 or known[-2].piece.step == ALWAYS or known[-2] == known[-1]

    def _find_slots(self) -> None:
        """States, and what they become, until nothing new is read."""
        waiting: list[_Slot] = []
        while True:
            for place in list(self.steps[self.steady].reads):
                if place not in self.places:
                    held = tuple(self.steps[step].reads[place] for step in sorted(self.steps))
                    self.places[place] = self._slot(held, waiting)
            if not waiting:
                return
            self._settle(waiting.pop(0), waiting)

    def _slot(self, held: tuple[Ref | None, ...], waiting: list[_Slot]) -> _Slot:
        if held not in self.slots:
            self.slots[held] = _Slot(held)
            waiting.append(self.slots[held])
        return self.slots[held]

    def _settle(self, slot: _Slot, waiting: list[_Slot]) -> None:
        """Find what a slot holds next: a frame computed at the steady step, or what another slot held."""
        known = [ref for ref in slot.held if ref is not None]
        if len(known) < 2:
            raise Differs("a state is carried over more steps than were looked at")
        after, computed = known[-1], len(known) - 1  # the step after which the last known frame is held
        if after.piece.step == computed:
            slot.base = self._in_steady_step(after, computed)
            for step, correspondence in self.steps.items():
                its = slot.held[step] if step < len(known) else None
                if its is not None and (its.piece.step == ALWAYS or its.place != slot.base.place):
                    raise Differs("what is kept of a step changes after several of them")
                if slot.base.piece.op is not None and its is not None and its.piece.op is not None:
                    correspondence.follow(slot.base.piece.op, its.piece.op)
            return
        before = known[1:]
        found = (other for held, other in self.slots.items() if list(held[: len(before)]) == before)
        blanks = [None] * (len(slot.held) - len(before))
        slot.carried = next(found, None) or self._slot((*before, *blanks), waiting)

    def _in_steady_step(self, ref: Ref, step: int) -> Ref:
        if ref.piece.op is None:
            return Ref(self.clip.inputs[0][self.steady], ref.place)
        for mine, theirs in self.steps[step].same.items():
            if theirs is ref.piece.op:
                return Ref(mine.pieces[ref.piece.output], ref.place)
        if step == self.steady:
            return ref
        raise Differs("a state is carried over more steps than were looked at")


def _results(clip: Recorder, step: int) -> Op:
    refs = tuple(ref for ref in clip.outputs[0].refs if ref.piece.step == step)
    return Op(torch.ops.aten.cat.default, ([Gather(refs)],), {}, step)


class _Step:
    """The steady step written as a module."""

    def __init__(self, cut: _Cut) -> None:
        self.cut = cut
        clip, steady = cut.clip, cut.steady
        self.first = FirstStep(clip.inputs[0][steady], clip.inputs[0][0], clip.constants)
        self.states: list[Piece] = []
        self.where: dict[_Slot, Ref] = {}

    def form(self) -> StreamForm:
        cut = self.cut
        result, first_result = cut.results[cut.steady], cut.results[0]
        count, first_count = len(result.gathers[0].refs), len(first_result.gathers[0].refs)
        if not 0 < first_count <= count or not self.first.follow(result, first_result):
            raise Differs("the first latent frame gives more frames than later ones")
        self._follow_states()
        self._lay_out_states()
        emitter = _StepEmitter(self)
        emitter.input("latent", [cut.clip.inputs[0][cut.steady]])
        emitter.first = emitter.input("first", [Piece(None, 0, (1, 1, 1, 1), cut.steady)])
        for number, piece in enumerate(self.states):
            emitter.input(f"state_{number}", [piece])
        outputs = [emitter.mixed(self.sources(result, 0, result.gathers[0]))]
        for piece in self.states:
            following = emitter.mixed(self.next_state(piece))
            if following in outputs or following.op == "placeholder":  # every output must be a result of its own
                following = emitter.call(torch.ops.aten.mul.Scalar, following, 1.0)
            outputs.append(following)
        return StreamForm(
            module=emitter.module(outputs),
            latent_shape=cut.clip.inputs[0][0].shape,
            states=[piece.shape for piece in self.states],
            frames=count,
            first_frames=first_count,
        )

    def _follow_states(self) -> None:
        """Which operations compute at step 0 what the states hold at step 1, where the frames alone do not tell."""
        for slot in self.cut.slots.values():
            mine = slot.base.piece.op if slot.base is not None else None
            theirs = slot.held[0].piece.op if slot.held[0] is not None and slot.held[0].piece.step == 0 else None
            if mine is not None and theirs is not None:
                self.first.follow(mine, theirs)
        # What stands in must itself be computed: find the steady operation that does.
        done = 0
        while done < len(self.first.standins):
            pending = list(self.first.standins.values())
            done = len(pending)
            for ref in pending + [slot.held[0] for slot in self.cut.slots.values() if slot.held[0]]:
                self._find(ref)

    def _find(self, ref: Ref) -> None:
        if self.first.steady_ref(ref) is not None or ref.piece.op is None:
            return
        costs = {
            op: cost
            for op in self.cut.steps[self.cut.steady].same
            if op not in self.first.same and (cost := self.first.standins_if(op, ref.piece.op)) is not None
        }
        if costs:
            self.first.follow(min(costs, key=lambda op: costs[op]), ref.piece.op)

    def _lay_out_states(self) -> None:
        """One state tensor for what is kept of one signal, oldest frame first, so that it moves on by one cut."""
        kept: dict[Piece, list[dict[tuple[int, int], _Slot]]] = {}
        for slot in self.cut.slots.values():
            age, source = 0, slot
            while source.carried is not None and age <= len(self.cut.slots):
                age, source = age + 1, source.carried
            if source.base is None:
                raise Differs("a state is never renewed")
            moment = (-age, source.base.place)
            tensors = kept.setdefault(source.base.piece, [])
            tensor = next((t for t in tensors if moment not in t), None)  # one signal may begin in two ways
            if tensor is None:
                tensors.append(tensor := {})
            tensor[moment] = slot
        for piece, tensors in kept.items():
            for tensor in tensors:
                state = Piece(None, 0, (len(tensor), *piece.shape[1:]), self.cut.steady - 1)
                self.states.append(state)
                self.where |= {tensor[moment]: Ref(state, place) for place, moment in enumerate(sorted(tensor))}

    def sources(self, op: Op, number: int, gather: Gather) -> list[tuple[Ref, Ref | None]]:
        """What an argument's frames are, and what they are at the first step where that is something else."""
        found: list[tuple[Ref, Ref | None]] = []
        for position, ref in enumerate(gather.refs):
            place = Place(op, number, position)
            slot = self.cut.places.get(place)
            base = ref if slot is None else self.where[slot]
            found.append((base, self._standin(self.first.standins.get(place), base)))
        return found

    def next_state(self, piece: Piece) -> list[tuple[Ref, Ref | None]]:
        """What a state tensor holds next."""
        found: list[tuple[Ref, Ref | None]] = []
        for slot in (slot for slot, ref in self.where.items() if ref.piece is piece):
            base = self.where[slot.carried] if slot.carried is not None else slot.base
            wanted = slot.held[0]
            assert base is not None
            same = wanted is not None and wanted.piece.step != ALWAYS and self.first.steady_ref(wanted) == base
            found.append((base, None if same else self._standin(wanted, base)))
        return found

    def _standin(self, ref: Ref | None, base: Ref) -> Ref | None:
        if ref is None or (base.piece in self.states and ref.piece.value == 0.0):
            return None  # states are zeros before the first step
        found = self.first.steady_ref(ref)
        if found is None:
            raise Differs("the first latent frame is computed in another way than later ones")
        return found


class _StepEmitter(Emitter):
    """Writes arguments that at the first step are something else as `keep * usual + first * standin`."""

    def __init__(self, step: _Step) -> None:
        super().__init__(step.cut.clip.constants)
        self.step = step
        self.first: torch.fx.Node | None = None
        self._switches: dict[int, tuple[torch.fx.Node, torch.fx.Node]] = {}

    def operands(self, op: Op, number: int, gather: Gather) -> list[Ref]:
        """All frames that an argument is made of."""
        return [ref for pair in self.step.sources(op, number, gather) for ref in pair if ref is not None]

    def argument(self, op: Op, number: int, gather: Gather) -> torch.fx.Node:
        """The node that stands for an argument."""
        return self.mixed(self.step.sources(op, number, gather))

    def mixed(self, sources: Sequence[tuple[Ref, Ref | None]]) -> torch.fx.Node:
        """Frames, each with what stands in for it at the first step."""
        if all(standin is None for _, standin in sources):
            return self.gather([base for base, _ in sources])
        runs: list[list[tuple[Ref, Ref | None]]] = []
        for source in sources:
            if runs and (runs[-1][0][1] is None) == (source[1] is None):
                runs[-1].append(source)
            else:
                runs.append([source])
        parts = [self._run(run) for run in runs]
        return parts[0] if len(parts) == 1 else self.call(torch.ops.aten.cat.default, parts, 0)

    def _run(self, run: Sequence[tuple[Ref, Ref | None]]) -> torch.fx.Node:
        usual, standins = [base for base, _ in run], [standin for _, standin in run if standin is not None]
        node = self.gather(usual)
        if not standins:
            return node
        keep, first = self._switch(len(usual[0].piece.shape))
        kept = self.call(torch.ops.aten.mul.Tensor, node, keep)
        if all(ref.piece.value == 0.0 for ref in standins):
            return kept
        other = self.call(torch.ops.aten.mul.Tensor, self.gather(standins), first)
        return self.call(torch.ops.aten.add.Tensor, kept, other)

    def _switch(self, rank: int) -> tuple[torch.fx.Node, torch.fx.Node]:
        """(1 - first, first) with as many axes as the frames have."""
        if rank not in self._switches:
            first = self.first
            assert first is not None
            if rank != 4:
                first = self.call(torch.ops.aten.reshape.default, first, [1] * rank)
            self._switches[rank] = (self.call(torch.ops.aten.rsub.Scalar, first, 1.0), first)
        return self._switches[rank]
