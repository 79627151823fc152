"""What an artifact is compared on beyond the bundle's sample, and PyTorch's answers there.

Further real inputs show that the sample is no lucky one; inputs made to be awkward (zeros, one constant, the extremes of
the real range side by side, noise) show overflow, divisions by zero and lost epsilons. They have the sample's shape
and, but for the zeros, stay in the range of the real inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.fx import Interpreter

from toolkit.bundle import TensorInfo
from toolkit.streaming import StreamDecoder, StreamFacts

CLIP_LATENT, CLIP_FRAMES = "clip_latent", "clip_frames"
MOST_HELD_OUT = 3

Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


@dataclass(frozen=True)
class Trial:
    """Inputs in the artifact's order, of a stream the latents of a whole clip, and PyTorch's fp32 outputs."""

    name: str
    kind: Literal["held-out", "adversarial"]
    inputs: list[np.ndarray]
    expected: list[np.ndarray]


class Trials:
    """The trials of a bundle: `sample` has the example inputs and the held-out ones by name (see `held_out`).

    `reference` is PyTorch's program with the signature of `inputs`; of a stream it is one step.
    """

    def __init__(
        self,
        reference: ExportedProgram,
        sample: Mapping[str, np.ndarray],
        inputs: Sequence[TensorInfo],
        stream: StreamFacts | None,
    ) -> None:
        self._reference, self._sample, self._inputs, self._stream = reference, sample, list(inputs), stream

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._all)

    def rounding(self, trial: Trial) -> float:
        """How far PyTorch's fp32 outputs are from its own fp64 ones, as a share of scale, at worst."""
        step = _InDouble(self._reference.module())
        exact = self._runner(lambda arrays: _arrays(step.run(*map(torch.from_numpy, arrays))))(trial.inputs)
        shares = [0.0]
        for right, given in zip(exact, trial.expected, strict=True):
            known = np.isfinite(right) & np.isfinite(given)
            if known.any():
                scale = float(np.abs(right[known]).max()) or 1.0
                shares.append(float(np.abs(right[known] - given[known]).max()) / scale)
        return max(shares)

    @cached_property
    def _all(self) -> list[Trial]:
        names = [CLIP_LATENT] if self._stream is not None else [info.name for info in self._inputs]
        real = [[self._sample[name] for name in names], *_held_out(self._sample, names)]
        module = self._reference.module()
        run = self._runner(lambda arrays: _arrays(module(*map(torch.from_numpy, arrays))))
        with torch.no_grad():
            held = [Trial(f"held_out_{n}", "held-out", given, run(given)) for n, given in enumerate(real[1:], 1)]
            made = [Trial(name, "adversarial", given, run(given)) for name, given in _adversarial(real).items()]
        return held + made

    def _runner(self, step: Run) -> Run:
        """A whole run of a trial by `step`, which is one call of the program."""
        return runner(step, self._inputs, self._stream)


def runner(step: Run, inputs: Sequence[TensorInfo], stream: StreamFacts | None) -> Run:
    """A run of a trial's inputs by `step`, one call of an artifact: of a stream, all steps of a clip from the first.

    `inputs` are the artifact's; a stream's are latent, first and the states that it does not keep itself.
    """
    if stream is None:
        return step

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


def _held_out(sample: Mapping[str, np.ndarray], names: Sequence[str]) -> list[list[np.ndarray]]:
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


def _arrays(outputs: Any) -> list[np.ndarray]:
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    return [output.detach().numpy() for output in outputs]
