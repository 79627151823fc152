"""What an artifact is one call of: a whole clip, or one step of a stream; with example arrays and the right answer."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from export.lowering import LoweredModule, lower
from export.lowering.lower import program_of, to_frames, to_video
from export.lowering.reach import reach
from export.lowering.streaming import stream
from export.sources import Source, fit
from export.trials import CLIP_FRAMES, CLIP_LATENT, Trial, held_out, in_double, make_trials
from toolkit.bundle import TensorInfo
from toolkit.errors import CheckFailed
from toolkit.streaming import Step, StreamDecoder, StreamFacts
from toolkit.tiling import Tiling

LOWERING_TOLERANCE = 1e-5
#: Half of what an fp32 artifact may differ by: a model whose own rounding is more leaves no room for a proof.
MOST_ROUNDING = 5e-5
#: Latent frames over which a stream is compared with the clip.
STREAMED_LATENTS = 6


@dataclass(frozen=True)
class Call:
    """One signature, shared by the artifacts of a bundle.

    `lowered` is the rank-4 module and `program` its graph; `trace` gives the PyTorch program with the same signature.
    `sample` has an example of every input and output by name, and for a stream also a whole clip.
    `calibration` has the inputs of real calls, each in the artifact's order: of the sample first. `trials` are
    what artifacts are compared on beyond the sample; `truths` are what the model should give for the sample's whole
    input, then for each held-out one.
    """

    lowered: nn.Module
    program: ExportedProgram
    trace: Callable[[], ExportedProgram]
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    sample: dict[str, np.ndarray]
    states: list[TensorInfo]
    stream: StreamFacts | None = None
    tiling: Tiling | None = None
    calibration: Sequence[Sequence[np.ndarray]] = ()
    trials: Sequence[Trial] = ()
    truths: Sequence[torch.Tensor] = ()

    @cached_property
    def reference(self) -> ExportedProgram:
        """The PyTorch program, called as the artifacts are: traced when it is first asked for, which takes time."""
        return self.trace()

    @property
    def names(self) -> list[str]:
        """Names of all inputs, then of all outputs."""
        return [info.name for info in (*self.inputs, *self.outputs)]

    @property
    def examples(self) -> tuple[torch.Tensor, ...]:
        """The example inputs."""
        return tuple(torch.from_numpy(self.sample[info.name]) for info in self.inputs)


class FramesFirst(nn.Module):
    """A model as artifacts see it: frames `(T, C, H, W)` where it takes or gives videos `(1, C, T, H, W)`.

    Results in dictionaries and nested tuples come in the order in which `torch.export` lists them.
    """

    def __init__(self, module: nn.Module, inputs: Sequence[bool], outputs: Sequence[bool]) -> None:
        super().__init__()
        self.module, self.inputs, self.outputs = module, list(inputs), list(outputs)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The module's results, always as a flat tuple."""
        given = [to_video(t) if is_video else t for t, is_video in zip(tensors, self.inputs, strict=True)]
        results = tree_leaves(self.module(*given))
        return tuple(to_frames(r) if is_video else r for r, is_video in zip(results, self.outputs, strict=True))


def clip_call(source: Source, shape: tuple[int, ...] | None = None, tiling: bool = False) -> Call:
    """A whole clip, or pair of images, in one call. `shape` is as of `Source.examples`; `tiling` asks how tiles of a
    video must overlap.

    Raises `UserError` on operators that cannot be lowered, `CheckFailed` if the lowering changed the numbers.
    """
    examples = source.examples(shape)
    if tiling:
        source.video()
    module = source.module.eval().float()
    lowered = lower(module, examples)
    videos = [spec.frames for spec in lowered.inputs], [spec.frames for spec in lowered.outputs]
    reference = FramesFirst(module, *videos)
    frames, *others = (
        tuple(to_frames(x) if is_video else x for x, is_video in zip(real, videos[0], strict=True))
        for real in (examples, *source.others(shape))
    )
    expected = reference(*frames)
    _check_lowering(lowered, frames, expected, reference)
    flow = source.task == "optical-flow"
    inputs = [
        _info(name, tensor, source.taken if is_video or flow else "as PyTorch takes it")
        for name, tensor, is_video in zip(source.input_names, frames, videos[0], strict=True)
    ]
    names = source.output_names or [f"output_{number}" for number in range(len(expected))]
    outputs = [
        _info(name, tensor, source.meaning if is_video or flow else "as PyTorch gives it")
        for name, tensor, is_video in zip(names, expected, videos[1], strict=True)
    ]
    sample = {i.name: t.numpy() for i, t in zip([*inputs, *outputs], [*frames, *expected], strict=True)}
    sample |= held_out([info.name for info in inputs], others)
    return Call(
        lowered=lowered,
        program=program_of(lowered, frames),
        trace=lambda: torch.export.export(reference, frames),
        inputs=inputs,
        outputs=outputs,
        sample=sample,
        states=[],
        tiling=reach(module, examples[0]) if tiling else None,
        calibration=[[tensor.numpy() for tensor in tensors] for tensors in (frames, *others)],
        trials=make_trials(_eager(reference), sample, inputs, None),
        truths=source.truths,
    )


def stream_call(source: Source, shape: tuple[int, ...] | None = None) -> Call:
    """One latent frame a call. `shape` is (T, h, w), of which h and w count.

    Raises `UserError` where the model cannot stream, `CheckFailed` if the stream's numbers are not the clip's.
    """
    source.video()
    latent = source.examples(shape)[0]
    latent = fit(latent, (STREAMED_LATENTS, *latent.shape[3:]))
    module = source.module.eval().float()
    form = stream(module, latent)
    facts = StreamFacts(frames=form.frames, first_frames=form.first_frames)
    clip, expected = to_frames(latent), to_frames(module(latent))
    decoder = StreamDecoder(_eager(form.module), form.states, facts)
    decoded, steps = [], []
    for frame in clip[:-1, None].numpy():
        steps.append(decoder.inputs(frame))
        decoded.append(decoder.decode(frame))
    inputs = decoder.inputs(clip[-1:].numpy())
    outputs = _eager(form.module)(inputs)
    _check_lowering_of([torch.from_numpy(np.concatenate([*decoded, outputs[0]]))], [expected])
    input_infos, state_infos, output_infos = _step_signature(source, inputs, outputs)
    arrays = zip([*input_infos, *output_infos], [*inputs, *outputs], strict=True)
    clips = [[to_frames(x) for x in real[:1]] for real in source.others((STREAMED_LATENTS, *latent.shape[3:]))]
    sample = {info.name: array for info, array in arrays} | held_out([CLIP_LATENT], clips)
    sample |= {CLIP_LATENT: clip.numpy(), CLIP_FRAMES: expected.numpy()}
    example = tuple(torch.from_numpy(array) for array in inputs)
    program = program_of(form.module, example)
    return Call(
        lowered=form.module,
        program=program,
        trace=lambda: program,
        inputs=input_infos,
        outputs=output_infos,
        sample=sample,
        states=state_infos,
        stream=facts,
        calibration=[inputs, *steps],
        trials=make_trials(_eager(form.module), sample, input_infos, facts),
        truths=source.truths,
    )


def _step_signature(
    source: Source, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
) -> tuple[list[TensorInfo], list[TensorInfo], list[TensorInfo]]:
    """What a step takes, the states among it, and what it gives."""
    frame, first, *before = inputs
    fixed = [
        _info(source.input_names[0], frame, f"one {source.latent} frame (1, C, h, w)"),
        _info("first", first, "1 at the first step, 0 after it"),
    ]
    states = [_info(f"state_{number}", array, "zeros, then what came out") for number, array in enumerate(before)]
    result, *after = outputs
    name = (source.output_names or ["output_0"])[0]
    given = [_info(name, result, source.meaning)] + [
        _info(f"next_{info.name}", array, "the state for the next step")
        for info, array in zip(states, after, strict=True)
    ]
    return [*fixed, *states], states, given


def _eager(module: nn.Module) -> Step:
    def step(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [output.numpy() for output in module(*(torch.from_numpy(array) for array in arrays))]

    return step


def _check_lowering(
    lowered: LoweredModule, frames: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], reference: nn.Module
) -> None:
    """Raise `CheckFailed` unless the lowered module gives the model's numbers: in fp32, else both in fp64, where a
    model that amplifies rounding still shows whether the lowering is right."""
    results = lowered(*frames)
    results = [results] if isinstance(results, torch.Tensor) else results
    try:
        _check_lowering_of(results, expected)
    except CheckFailed:
        exact = _exact(reference, frames)
        own = max(_share(right, truth) for right, truth in zip(expected, exact, strict=True))
        if own > MOST_ROUNDING:
            raise CheckFailed(
                f"rounding alone changes this model's output by {own:.1e} of scale (its fp32 answer against its fp64 "
                "one), so no artifact can be proved equal to it; look for a norm over one or two channels"
            ) from None
        _check_lowering_of(in_double(program_of(lowered, frames).module(), frames), exact)


def _exact(reference: nn.Module, frames: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """The model's answer in fp64."""
    doubled = copy.deepcopy(reference).double()
    exact: Sequence[torch.Tensor] = doubled(*(f.double() if f.is_floating_point() else f for f in frames))
    return exact


def _check_lowering_of(results: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    """Raise `CheckFailed` unless a rewriting gives the expected numbers to 1e-5 of their scale."""
    for result, right in zip(results, expected, strict=True):
        share = _share(result, right)
        if not share <= LOWERING_TOLERANCE:  # nor where it is no number
            raise CheckFailed(f"lowering changed the model: max |Δ| {share:.1e} of scale; please report this model")


def _share(result: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference as a share of the largest expected value; infinite where shapes differ."""
    if result.shape != expected.shape:
        return math.inf
    if not expected.numel():
        return 0.0
    wide = expected.double()  # truth values have no difference
    return float((result.double() - wide).abs().max()) / (float(wide.abs().max()) or 1.0)


def _info(name: str, array: torch.Tensor | np.ndarray, meaning: str) -> TensorInfo:
    return TensorInfo(
        name=name, shape=tuple(array.shape), dtype=str(array.dtype).removeprefix("torch."), meaning=meaning
    )
