"""What `handheld verify` does beyond the sample: further inputs, and which operator is wrong.

A bundle has no lowered program. PyTorch's program, `reference.pt2`, is lowered again: lowering is exact and gives nodes
the same names, and a second program would double the bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from export.bisect import blame
from export.calls import Call
from export.guarded import opened
from export.lowering import lower
from export.lowering.lower import program_of
from export.parity import alike, check_trial, scales_of
from export.targets import Conversion, find_target
from export.trials import CLIP_LATENT, Trial, kept_inputs, make_trials, rounding, to_arrays
from toolkit import reference
from toolkit.bundle import REFERENCE, Artifact, artifact_path, read_manifest
from toolkit.errors import CheckFailed
from toolkit.files import inside
from toolkit.parity import InputCheck
from toolkit.progress import track
from toolkit.sample import read_sample
from toolkit.streaming import Step, StreamDecoder


def verify_deeply(bundle: Path) -> dict[str, list[InputCheck]]:
    """Run every artifact on the held-out inputs of the sample and on adversarial ones; checks by target.

    Artifacts that take other inputs than the reference, as pictures, have none. Whether a check passed stands in it.
    """
    manifest = read_manifest(bundle)
    program, widest = _reference(bundle), manifest.signature
    sample, step = read_sample(bundle, manifest), _step(bundle, program)
    results: dict[str, list[InputCheck]] = {}
    with track("verify --deep", len(manifest.artifacts) + 1) as progress, torch.no_grad():
        progress.update(0, "PyTorch")
        step([sample[info.name] for info in widest.inputs])  # it takes what the manifest says
        trials = make_trials(step, sample, widest.inputs, widest.stream)
        examples = [torch.from_numpy(sample[info.name]) for info in widest.inputs]
        lowered = cache(lambda: _lowered(program, widest, examples).module())
        own = partial(_rounding, lowered, widest)
        for number, artifact in enumerate(manifest.artifacts, 1):
            progress.update(number, artifact.target)
            target = find_target(artifact.target)
            same = alike(artifact.inputs, widest.inputs) and alike(artifact.outputs, widest.outputs)
            fits = same and not artifact.has_pictures
            session = opened(target, artifact_path(bundle, artifact))
            scales = scales_of(sample, artifact.outputs, artifact.stream)
            results[artifact.target] = [
                check_trial(session, target, trial, artifact.inputs, artifact.stream, scales, own)[0]
                for trial in (trials if fits else ())
            ]
        progress.update(len(manifest.artifacts) + 1, "done")
    return results


def culprits(bundle: Path, targets: Iterable[str]) -> dict[str, str]:
    """Of each artifact, in one line, its first operator that gives something else than PyTorch on the sample."""
    manifest = read_manifest(bundle)
    sample = read_sample(bundle, manifest)
    widest = manifest.signature
    inputs = [sample[info.name] for info in widest.inputs]
    examples = [torch.from_numpy(array) for array in inputs]
    module = _reference(bundle)
    run = _step(bundle, module)
    with torch.no_grad():
        run(inputs)  # it takes what the manifest says
        program = _lowered(module, widest, examples)
        given = calibration(run, sample, widest)
    names = [info.name for info in (*widest.inputs, *widest.outputs)]
    found = {}
    for name in targets:
        artifact = manifest.artifact(name)
        mixed = artifact.mixed_precision
        conversion = Conversion(program, names, given, frozenset() if mixed is None else mixed.wide)
        found[name] = blame(find_target(name), artifact_path(bundle, artifact), conversion, inputs).removeprefix("; ")
    return found


def calibration(step: Step, sample: Mapping[str, np.ndarray], signature: Artifact | Call) -> list[list[np.ndarray]]:
    """What an export of the `sample` calibrates on, as far as the bundle has it: the sample and the further real inputs
    that were kept; of a stream all steps of the clip. `step` is one call of PyTorch's program."""
    main = [sample[info.name] for info in signature.inputs]
    if signature.stream is None:
        return [main, *kept_inputs(sample, [info.name for info in signature.inputs])]
    decoder = StreamDecoder(step, [info.shape for info in signature.inputs[2:]], signature.stream)
    steps = []
    for latent in sample[CLIP_LATENT][:-1, None]:
        steps.append(decoder.inputs(latent))
        decoder.decode(latent)
    return [main, *steps]


def _lowered(module: GraphModule, signature: Artifact, examples: Sequence[torch.Tensor]) -> ExportedProgram:
    """The lowered program of a bundle's; of a stream, whose step is lowered already, the same."""
    return program_of(module if signature.stream is not None else lower(_Whole(module), examples), examples)


def _rounding(lowered: Callable[[], nn.Module], signature: Artifact, trial: Trial) -> float:
    program = lowered()  # only now: few trials ask
    assert isinstance(program, GraphModule)
    return rounding(program, trial, signature.inputs, signature.stream)


class _Whole(nn.Module):
    """A loaded program as any other module: it has no modes to change between."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def train(self, mode: bool = True) -> _Whole:
        return self

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.program(*tensors))


def _step(bundle: Path, program: GraphModule) -> Step:
    """One call of a bundle's program; `CheckFailed` where it does not take what the manifest says."""

    def step(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        try:
            return to_arrays(program(*map(torch.from_numpy, arrays)))
        except Exception as error:  # a stranger's program fails however it likes
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            raise CheckFailed(
                f"{bundle / REFERENCE}: does not run on the inputs that the manifest names ({reason}); "
                "export the bundle again"
            ) from error

    return step


def _reference(bundle: Path) -> GraphModule:
    module = reference.load(inside(bundle, REFERENCE))
    if not isinstance(module, GraphModule):
        raise CheckFailed(f"{bundle / REFERENCE}: no program; export the bundle again")
    return module
