"""Which layers a lower precision hurts most, and the fewest that must keep the higher one to meet a budget.

`rank` estimates: one layer at a time is reduced in PyTorch, the rest stays fp32. `fewest_wide` measures: it converts,
opens and runs the artifact itself, and estimates only where to look.
"""

from __future__ import annotations

import bisect
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram

from export.bisect_walk import layer_name
from export.guarded import converted, opened
from export.lowering.lower import LAYER
from export.lowering.refusal import SKIPPED, WHOLE, layer
from export.reductions import Reduction, fed, layers, reduction_of
from export.targets import Conversion, Target
from toolkit.errors import CheckFailed, UserError
from toolkit.parity import Execution, Tolerance, compare
from toolkit.progress import track

#: Conversions whose place is chosen by estimates; all further ones of the search halve what is left.
GUESSES = 4
#: Conversions that go into giving single layers back once enough are kept.
GIVE_BACK = 8
#: By how many dB an estimate of a layer given back may miss the budget and still be tried.
DOUBT_DB = 3.0
#: Real inputs that the estimate is made on; the measurement takes all.
ESTIMATED_ON = 2


@dataclass(frozen=True)
class Layer:
    """A layer and what reducing it alone costs: estimated PSNR in dB of the model's worst output, inf where nothing.

    `node` is its name in the program, `name` the path of its module in the model as far as that is known.
    """

    name: str
    node: str
    operator: str
    psnr_db: float


@dataclass(frozen=True)
class Step:
    """One conversion: the nodes that it kept, and the least PSNR in dB on all real inputs, None where refused."""

    kept: frozenset[str]
    psnr_db: float | None

    @property
    def is_measured(self) -> bool:
        return self.psnr_db is not None and math.isfinite(self.psnr_db)

    def meets(self, budget_db: float) -> bool:
        return self.psnr_db is not None and self.psnr_db >= budget_db


@dataclass(frozen=True)
class Budgeted:
    """The outcome: all layers, most sensitive first, those of them that are kept, and every measurement on the way."""

    target: str
    budget_db: float
    psnr_db: float
    wide: frozenset[str]
    layers: list[Layer]
    steps: list[Step]

    @property
    def rows(self) -> list[tuple[Layer, bool]]:
        """Each layer, and whether it is kept."""
        return [(found, found.node in self.wide) for found in self.layers]


def rank(conversion: Conversion, target: str) -> list[Layer]:
    """The layers that `target` reduces (`layers`) by how much reducing each one alone hurts, the most sensitive first.

    How they are reduced is up to the last word of `target` (`reduction_of`). The program runs once on each of the
    first real inputs, and from every layer on once more. Raises `UserError` where the target reduces nothing, and
    `CheckFailed` where there are no real inputs.
    """
    return _ranked(_Estimates(conversion, target))


def _ranked(estimates: _Estimates) -> list[Layer]:
    walk, worst = estimates.walk, dict[str, float]()
    with torch.no_grad(), track("sensitivity", len(estimates.inputs) * len(walk.layers)) as progress:
        for number, arrays in enumerate(estimates.inputs):
            for done, (name, psnr) in enumerate(walk.hurt(arrays, estimates.reduction)):
                worst[name] = min(psnr, worst.get(name, math.inf))
                progress.update(number * len(walk.layers) + done + 1, name)
    found = [Layer(walk.path(node), node.name, str(node.target), worst[node.name]) for node in walk.layers]
    return sorted(found, key=lambda one: one.psnr_db)


def fewest_wide(conversion: Conversion, target: Target, budget_db: float, folder: Path) -> Budgeted:
    """The fewest layers that keep the higher precision for the artifact to reach `budget_db` on all real inputs.

    PSNR is measured against the program in fp32, each real input a call of its own, and with results rounded to the
    artifact's precision where the runtime here would not (`Target.open_rounded`). The shortest prefix of `rank` that
    does is found from where estimates place it; then layers are given back one at a time, those first that by
    estimates matter least, for at most `GIVE_BACK` conversions. `folder` is for artifacts on the way, which are
    removed. Raises `CheckFailed` where not even the model with all layers kept reaches the budget, and `UserError` on
    targets that have one precision or keep their states.
    """
    if target.keeps_states:
        raise UserError(f"{target.name}: keeps its states, so no single call can be judged; budget a target without")
    estimates = _Estimates(conversion, target.name)
    ranked = _ranked(estimates)
    trials = _Trials(conversion, target, budget_db, folder)
    nodes = [one.node for one in ranked]
    most = 1 + GUESSES + math.ceil(math.log2(max(2, len(nodes)))) + GIVE_BACK
    with track(f"{target.name} within {budget_db:g} dB", most) as progress:
        estimates.told = lambda: progress.update(min(len(trials.steps), most), "estimating")

        def measured(kept: Sequence[str]) -> Step:
            step = trials.measure(frozenset(kept))
            said = "refused" if step.psnr_db is None else f"{step.psnr_db:.1f} dB"
            progress.update(min(len(trials.steps), most), f"{len(kept)} kept: {said}")
            return step

        search = _Search(nodes, measured, estimates, budget_db)
        prefix = search.shortest()
        if prefix is None:
            raise trials.missed()
        kept = search.without_spare(prefix)
        progress.update(most, f"{len(kept)} of {len(nodes)} layers kept")
    reached = trials.measure(frozenset(kept)).psnr_db
    assert reached is not None
    return Budgeted(target.name, budget_db, reached, frozenset(kept), ranked, trials.steps)


@dataclass(frozen=True)
class _Search:
    """For few of `nodes`, the most sensitive first, that suffice when an artifact which keeps them is `measured`."""

    nodes: list[str]
    measured: Callable[[Sequence[str]], Step]
    estimates: _Estimates
    budget_db: float

    def shortest(self) -> list[str] | None:
        """The shortest prefix that meets the budget, where longer ones lose less; None where all nodes do not meet it.

        Up to `GUESSES` lengths are those that estimates say to be right; after them, and after a refusal, which
        teaches nothing, the place between the longest known to miss and the shortest known to meet is halved.
        """
        step = below = self.measured([])
        if step.meets(self.budget_db):
            return []
        low, high, guesses, other = 0, len(self.nodes) + 1, GUESSES, None
        while high - low > 1:
            count = (low + high) // 2
            if guesses and step.is_measured and below.is_measured:
                needed = self._needed(below, other)
                count, guesses = min(max(self._place(needed), low + 1), high - 1), guesses - 1
            step = self.measured(self.nodes[:count])
            if step.meets(self.budget_db):
                high, other = count, step
            else:
                low, below, other = count, step, below if high > len(self.nodes) else other
        return self.nodes[:high] if high <= len(self.nodes) else None

    def _place(self, needed_db: float) -> int:
        """How many of the first nodes must be kept for so many dB by estimates: at least one."""
        lengths = range(1, len(self.nodes))
        return 1 + bisect.bisect_left(lengths, needed_db, key=lambda count: self.estimates.psnr(self.nodes[:count]))

    def _needed(self, step: Step, other: Step | None = None) -> float:
        """The estimate that stands for the budget, if artifacts follow estimates along the line through what two of
        them have measured, in dB, or keep the distance that one of them has."""
        estimate, slope = self.estimates.psnr(step.kept), 1.0
        assert step.psnr_db is not None
        if other is not None and other.psnr_db is not None:
            run, rise = self.estimates.psnr(other.kept) - estimate, other.psnr_db - step.psnr_db
            slope = rise / run if math.isfinite(run) and math.isfinite(rise) and run * rise > 0 else slope
        return estimate + (self.budget_db - step.psnr_db) / slope

    def without_spare(self, prefix: list[str]) -> list[str]:
        """The prefix without the nodes that turn out not to be needed; without its last, it is known to miss."""
        kept, step, tries = prefix, self.measured(prefix), GIVE_BACK
        alone = {node: self.estimates.psnr(set(prefix) - {node}) for node in prefix[:-1]}
        for node in sorted(alone, key=alone.__getitem__, reverse=True):
            fewer = [other for other in kept if other != node]
            if tries == 0 or self.estimates.psnr(fewer) < self._needed(step) - DOUBT_DB:
                break
            tried, tries = self.measured(fewer), tries - 1
            if tried.meets(self.budget_db):
                kept, step = fewer, tried
        return kept


class _Estimates:
    """PSNR in dB, of the worst of the first real inputs, with all layers reduced in PyTorch but those kept.

    `told` is called before each new estimate. Raises as `rank` does.
    """

    def __init__(self, conversion: Conversion, target: str) -> None:
        self.reduction = reduction_of(target)
        if not conversion.calibration:
            raise CheckFailed(f"{target}: there are no real inputs to judge layers by; give at least one example")
        self.told: Callable[[], None] = lambda: None
        self.inputs = conversion.calibration[:ESTIMATED_ON]
        self._known: dict[frozenset[str], float] = {}
        with torch.no_grad():
            self.walk = _Walk(conversion.program, target)
            self._expected = [self.walk.outputs(arrays) for arrays in self.inputs]

    @torch.no_grad()
    def psnr(self, kept: Iterable[str]) -> float:
        key = frozenset(kept)
        if key not in self._known:
            self.told()
            outputs = (self.walk.outputs(arrays, self.reduction, key) for arrays in self.inputs)
            self._known[key] = min(map(_psnr, outputs, self._expected))
        return self._known[key]


class _Trials:
    """Measurements of one target's artifacts on all real inputs; none is made twice."""

    def __init__(self, conversion: Conversion, target: Target, budget_db: float, folder: Path) -> None:
        self.steps: list[Step] = []
        self._conversion, self._target, self._folder, self._budget = conversion, target, folder, budget_db
        self._refusal: CheckFailed | None = None
        module = conversion.program.module()
        with torch.no_grad():
            self._expected = [_outputs(module(*map(torch.from_numpy, arrays))) for arrays in conversion.calibration]

    def measure(self, kept: frozenset[str]) -> Step:
        for step in self.steps:
            if step.kept == kept:
                return step
        path = self._folder / self._target.file_name
        try:
            converted(self._target, replace(self._conversion, wide=self._conversion.wide | kept), path)
            psnr = min(self._psnrs(path))
        except CheckFailed as refusal:  # some converters hold their own tolerance, others cannot keep every layer
            self._refusal, psnr = refusal, None
        finally:
            for written in self._folder.glob(f"{Path(self._target.file_name).stem}.*"):
                shutil.rmtree(written) if written.is_dir() else written.unlink()
        self.steps.append(Step(kept, psnr))
        return self.steps[-1]

    def missed(self) -> CheckFailed:
        """What to say when keeping all layers was not enough."""
        reached = [step.psnr_db for step in self.steps if step.psnr_db is not None]
        if not reached:
            assert self._refusal is not None
            return self._refusal
        return CheckFailed(
            f"{self._target.name}: {max(reached):.1f} dB is the best that keeping layers reaches, and the budget is "
            f"{self._budget:g} dB; lower the budget, or choose a target of higher precision"
        )

    def _psnrs(self, path: Path) -> Iterator[float]:
        as_rounded = replace(self._target, open=self._target.open_rounded or self._target.open)
        session = opened(as_rounded, path)
        for arrays, expected in zip(self._conversion.calibration, self._expected, strict=True):
            yield _psnr(session.call(arrays), expected)


class _Walk:
    """A program that runs node by node, and from any layer that `target` reduces on once more with it reduced."""

    def __init__(self, program: ExportedProgram, target: str) -> None:
        module = program.module()
        assert isinstance(module, fx.GraphModule)
        self._run = fx.Interpreter(module)
        self._nodes = list(module.graph.nodes)
        self._parameters = {node.name: str(node.target) for node in self._nodes if node.op == "get_attr"}
        self._fed = fed(self._nodes)
        self.layers = layers(target, self._nodes)

    def path(self, node: fx.Node) -> str:
        """The path of a layer's module; where a lowered program does not say, the name of the layer's weight."""
        named = str((node.meta.get("custom") or {}).get(LAYER, "")) or layer(node)
        weights = [self._parameters[used.name] for used in node.all_input_nodes if used.name in self._parameters]
        if named != WHOLE or not weights:
            return named
        return layer_name(f"p_{weights[0].replace('.', '_')}") or weights[0]

    def hurt(self, arrays: Sequence[np.ndarray], reduction: Reduction) -> Iterator[tuple[str, float]]:
        """For every layer, PSNR of the worst output with this layer alone reduced; in the order of the program."""
        expected = self.outputs(arrays)
        values = self._begun(arrays)
        reducible = set(self.layers)
        for place, node in enumerate(self._nodes):
            if node in reducible:
                reduced = self._reduced(node, values, reduction)
                yield node.name, _psnr(self._finish(place + 1, {**values, node: reduced}), expected)
            self._step(node, values)

    def outputs(
        self, arrays: Sequence[np.ndarray], reduction: Reduction | None = None, kept: frozenset[str] = frozenset()
    ) -> list[np.ndarray]:
        """The outputs in fp32; with a reduction, those of the program with all its layers reduced but those kept."""
        reducible = {node for node in self.layers if node.name not in kept} if reduction else set()
        values, result = self._begun(arrays), None
        for node in self._nodes:
            reduced = self._reduced(node, values, reduction) if reduction and node in reducible else None
            result = self._step(node, values, reduced)
        return _outputs(result)

    def _reduced(self, node: fx.Node, values: dict[fx.Node, Any], reduction: Reduction) -> Any:
        self._run.env = values
        args, kwargs = self._run.fetch_args_kwargs_from_env(node)
        known = [isinstance(one, fx.Node) and one not in self._fed for one in node.args]
        return node.target(*reduction(node, args, known), **kwargs)  # type: ignore[operator]

    def _begun(self, arrays: Sequence[np.ndarray]) -> dict[fx.Node, Any]:
        inputs = [node for node in self._nodes if node.op == "placeholder"]
        return {node: torch.from_numpy(array) for node, array in zip(inputs, arrays, strict=True)}

    def _finish(self, place: int, values: dict[fx.Node, Any]) -> list[np.ndarray]:
        """The outputs, by all nodes from `place` on; `values` has what they use of those before."""
        result: Any = None
        for node in self._nodes[place:]:
            result = self._step(node, values)
        return _outputs(result)

    def _step(self, node: fx.Node, values: dict[fx.Node, Any], known: Any = None) -> Any:
        """Run one node unless its value is known, and forget what it was the last to use."""
        self._run.env = values
        if known is not None:
            values[node] = known
        elif node.op != "placeholder":
            values[node] = None if str(node.target) in SKIPPED else self._run.run_node(node)
        result = values[node]
        for done in self._run.user_to_last_uses.get(node, []):
            values.pop(done, None)
        return result


def _outputs(result: Any) -> list[np.ndarray]:
    tensors = [result] if isinstance(result, torch.Tensor) else list(result)
    return [tensor.numpy() for tensor in tensors]


def _psnr(outputs: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Of the worst output, in dB: inf where nothing differs, -inf where an output is not finite or misshapen."""
    found = compare(Execution(outputs, "executed", ""), expected, Tolerance(min_psnr_db=0))
    if found.max_abs is None:
        return -math.inf
    if found.psnr_db is None:
        return math.inf if found.max_abs == 0 else -math.inf
    return found.psnr_db
