"""Whether a device's output is right: what every kind of device compares with the bundle's sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from toolkit.bundle import SAMPLE, Artifact, Manifest
from toolkit.errors import DeviceError
from toolkit.files import inside
from toolkit.parity import Execution, Parity, Tolerance, compare
from toolkit.sample import read_arrays, read_sample

REFERENCE_TARGET = "reference"
REFERENCE_TOLERANCE = Tolerance(max_share=1e-4)


class Sample(NamedTuple):
    """A bundle's sample: arrays by the names that the manifest gives them, in the order of the artifact's."""

    inputs: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]


def sample(bundle: Path, manifest: Manifest) -> Sample:
    """The inputs of `sample.npz`, and PyTorch's fp32 output on them."""
    described = manifest.signature
    arrays = read_sample(bundle, manifest)
    return Sample(
        {info.name: arrays[info.name] for info in described.inputs},
        {info.name: arrays[info.name] for info in described.outputs},
    )


def earlier_steps(bundle: Path, artifact: Artifact) -> list[dict[str, np.ndarray]]:
    """The inputs of the steps that led to the sample's, by name, of an artifact that keeps the states of its stream.

    Empty of any other: it is given its states.
    """
    if not keeps_states(artifact):
        return []
    latent, first = (info.name for info in artifact.inputs)
    frames = read_arrays(inside(bundle, SAMPLE))["clip_latent"][:-1, None]
    return [{latent: frame, first: np.full((1, 1, 1, 1), float(not n), np.float32)} for n, frame in enumerate(frames)]


def keeps_states(artifact: Artifact) -> bool:
    """Whether the runtime keeps an artifact's states from call to call: then they are not among its inputs."""
    return bool(artifact.states) and not {state.name for state in artifact.states} & {i.name for i in artifact.inputs}


def tolerance(manifest: Manifest, target: str) -> Tolerance:
    """How far a target's output may be from PyTorch's."""
    return REFERENCE_TOLERANCE if target == REFERENCE_TARGET else manifest.artifact(target).parity.tolerance


def prove(
    what: Path | str,
    outputs: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    allowed: Tolerance,
    runtime: str,
    where: str = "this machine",
) -> Parity:
    """The parity of `what`, executed; raises `DeviceError` where its output is wrong: it is not worth timing."""
    parity = compare(Execution(list(outputs), "executed", runtime), expected, allowed)
    if not parity.passed:
        raise DeviceError(f"{what}: wrong output on {where} ({parity}); it was not used")
    return parity
