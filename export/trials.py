"""What an artifact is compared on beyond the bundle's sample, and PyTorch's answers there.

Further real inputs show that the sample is no lucky one; inputs made to be awkward (zeros, one constant, the extremes
of the real range side by side, noise) show overflow, divisions by zero and lost epsilons. They have the sample's shape
and, but for the zeros, stay in the range of the real inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.fx import GraphModule, Interpreter

from export.lowering.nested import tensors_in
from toolkit.bundle import TensorInfo
from toolkit.errors import CheckFailed
from toolkit.streaming import Step, StreamDecoder, StreamFacts

CLIP_LATENT, CLIP_FRAMES = "clip_latent", "clip_frames"
MOST_HELD_OUT = 3


@dataclass(frozen=True)
class Trial:
    """Inputs in the artifact's order, of a stream the latents of a whole clip, and PyTorch's fp32 outputs."""

    name: str
    kind: Literal["held-out", "adversarial"]
    inputs: list[np.ndarray]
    expected: list[np.ndarray]


def make_trials(
    step: Step, sample: Mapping[str, np.ndarray], inputs: Sequence[TensorInfo], stream: StreamFacts | None
) -> list[Trial]:
    """Held-out inputs that the `sample` has (see `held_out`), then adversarial ones, with PyTorch's answers.

    `step` is one call of PyTorch's program, whose inputs are `inputs`. Adversarial inputs to which PyTorch itself has
    no answer, as an inverse of zeros, are left out.
    """
    names = [CLIP_LATENT] if stream is not None else [info.name for info in inputs]
    real = [[sample[name] for name in names], *kept_inputs(sample, names)]
    run = runner(step, inputs, stream)
    made = [Trial(f"held_out_{n}", "held-out", given, run(given)) for n, given in enumerate(real[1:], 1)]
    for name, given in _adversarial(real).items():
        with suppress(RuntimeError, CheckFailed):
            made.append(Trial(name, "adversarial", given, run(given)))
    return made


def rounding(program: GraphModule, trial: Trial, inputs: Sequence[TensorInfo], stream: StreamFacts | None) -> float:
    """How far fp32 outputs are from `program`'s fp64 ones, as a share of scale, at worst: PyTorch's, and those of
    `program`, which does the same in other steps and may round more. At least it is the step of the narrowest floats
    that `program` computes in itself: the next one is as right an answer."""

    def step(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [output.numpy() for output in in_double(program, [torch.from_numpy(array) for array in arrays])]

    def narrow(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return to_arrays(program(*map(torch.from_numpy, arrays)))

    exact, own = (runner(each, inputs, stream)(trial.inputs) for each in (step, narrow))
    shares = [_step_of(program)]
    for arrays in zip(exact, trial.expected, own, strict=True):
        right, *rounded = (array.astype(np.float64) for array in arrays)
        known = np.isfinite(right) & np.isfinite(rounded[0]) & np.isfinite(rounded[1])
        if known.any():
            scale = float(np.abs(rounded[0][known]).max()) or 1.0  # as parity has it
            shares += [float(np.abs(right[known] - each[known]).max()) / scale for each in rounded]
    return max(shares)


def _step_of(program: GraphModule) -> float:
    """The step between floats of the narrowest type that a program has, beginning at 1; 0 where that is fp32."""
    tensors = [tensor for node in program.graph.nodes for tensor in tensors_in(node.meta.get("val"))]
    narrow = {tensor.dtype for tensor in tensors if tensor.is_floating_point() and tensor.dtype.itemsize < 4}
    return max((torch.finfo(dtype).eps for dtype in narrow), default=0.0)


def in_double(program: GraphModule, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What `program` gives in fp64: weights, constants and inputs are widened, and all is computed so."""
    outputs = _InDouble(program).run(*inputs)
    return [output.detach() for output in ([outputs] if isinstance(outputs, torch.Tensor) else outputs)]


def packed(trials: Sequence[Trial], truths: Sequence[torch.Tensor]) -> dict[str, np.ndarray]:
    """Trials and truths as arrays with names, all of which begin with `trial `; `unpacked` undoes it."""
    found = {f"trial truth {number}": truth.numpy() for number, truth in enumerate(truths)}
    for trial in trials:
        for side, arrays in (("in", trial.inputs), ("out", trial.expected)):
            found |= {f"trial {trial.kind} {trial.name} {side} {place}": array for place, array in enumerate(arrays)}
    return found


def unpacked(arrays: Mapping[str, np.ndarray]) -> tuple[list[Trial], list[torch.Tensor]]:
    """Trials and truths of what `packed` gave, among any other arrays."""
    truths: list[torch.Tensor] = []
    trials: dict[str, Trial] = {}
    for key, array in arrays.items():
        if key.startswith("trial truth "):
            truths.append(torch.from_numpy(array))
        elif key.startswith("trial "):
            _, kind, name, side, _ = key.split(" ")
            trial = trials.setdefault(name, Trial(name, kind, [], []))  # type: ignore[arg-type]
            (trial.inputs if side == "in" else trial.expected).append(array)
    return list(trials.values()), truths


def runner(
    step: Step, inputs: Sequence[TensorInfo], stream: StreamFacts | None
) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    """A run of a trial's inputs by `step`, one call of an artifact: of a stream, all steps of a clip from the first.

    `inputs` are the artifact's; a stream's are latent, first and the states that it does not keep itself.
    """
    if stream is None:
        return lambda given: list(step(given))

    def decode(clip: Sequence[np.ndarray]) -> list[np.ndarray]:
        decoder = StreamDecoder(step, [info.shape for info in inputs[2:]], stream)
        return [np.concatenate(list(decoder.decode_all(clip[0][:, None])))]

    return decode


def held_out(names: Sequence[str], inputs: Sequence[Sequence[torch.Tensor]]) -> dict[str, np.ndarray]:
    """Entries of a sample for further real inputs, at most three: `held_out_1.NAME` and so on."""
    return {
        f"held_out_{number}.{name}": tensor.numpy()
        for number, tensors in enumerate(inputs[:MOST_HELD_OUT], 1)
        for name, tensor in zip(names, tensors, strict=True)
    }


def kept_inputs(sample: Mapping[str, np.ndarray], names: Sequence[str]) -> list[list[np.ndarray]]:
    """The further real inputs that `held_out` put into a sample."""
    numbers = [n for n in range(1, MOST_HELD_OUT + 1) if f"held_out_{n}.{names[0]}" in sample]
    return [[sample[f"held_out_{number}.{name}"] for name in names] for number in numbers]


def _adversarial(real: Sequence[Sequence[np.ndarray]]) -> dict[str, list[np.ndarray]]:
    """Awkward inputs by name. Whole numbers and booleans stay the sample's: an index must stay in range."""
    if not any(np.issubdtype(array.dtype, np.floating) for array in real[0]):
        return {}
    makers: dict[str, Callable[[np.ndarray, float, float], np.ndarray]] = {
        "zeros": lambda array, _low, _high: np.zeros_like(array),
        "constant": lambda array, _low, high: np.full_like(array, high),
        "extremes": lambda array, low, high: np.where(np.indices(array.shape).sum(0) % 2, low, high),
        "noise": _noise,
    }
    made: dict[str, list[np.ndarray]] = {}
    for name, make in makers.items():
        made[name] = []
        for arrays in zip(*real, strict=True):
            array = arrays[0]
            if np.issubdtype(array.dtype, np.floating) and array.size:
                low, high = min(float(a.min()) for a in arrays), max(float(a.max()) for a in arrays)
                array = np.asarray(make(array, low, high), dtype=array.dtype)
            made[name].append(array)
    return made


def _noise(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """Normal noise of the array's mean and standard deviation, within the range of real inputs."""
    drawn = np.random.default_rng(0).normal(float(array.mean()), float(array.std()), array.shape)
    return drawn.clip(low, high)


class _InDouble(Interpreter):
    """Runs a program's graph in fp64."""

    @torch.no_grad()
    def run(self, *args: Any, **kwargs: Any) -> Any:
        return super().run(*(_doubled(arg) for arg in args), **kwargs)

    def fetch_attr(self, target: str) -> Any:
        return _doubled(super().fetch_attr(target))

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        return None if str(target) == "_guards_fn" else super().call_module(target, args, kwargs)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if "_assert_tensor_metadata" in str(target):
            return None
        widened = [torch.float64 if arg is torch.float32 else arg for arg in args]
        kwargs = {key: torch.float64 if value is torch.float32 else value for key, value in kwargs.items()}
        return super().call_function(target, tuple(widened), kwargs)


def _doubled(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def to_arrays(outputs: Any) -> list[np.ndarray]:
    """What a program gives, as a list."""
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    return [output.detach().numpy() for output in outputs]
