"""The gate between a converter and a bundle: an artifact is run, or evaluated, and compared with PyTorch fp32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from export.targets import Session, Target
from toolkit.bundle import TensorInfo
from toolkit.errors import CheckFailed, HandheldError
from toolkit.parity import Execution, Parity, compare
from toolkit.streaming import StreamDecoder, StreamFacts

CLIP_LATENT, CLIP_FRAMES = "clip_latent", "clip_frames"


def check(
    target: Target,
    artifact: Path,
    sample: Mapping[str, np.ndarray],
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    stream: StreamFacts | None = None,
) -> Parity:
    """Compare `artifact` on the `sample`, arrays by name, with PyTorch's fp32 outputs there.

    A stream decodes the sample's whole clip, step by step, and must give the clip's frames. Raises `CheckFailed`
    where the artifact cannot even be loaded or run: an artifact that does not run has no parity.
    """
    try:
        session = target.open(artifact)
        if stream is None:
            given, names = session.call([sample[info.name] for info in inputs]), [info.name for info in outputs]
        else:
            given, names = [decode_clip(session, sample, inputs, stream)], [CLIP_FRAMES]
    except HandheldError:
        raise
    except Exception as error:  # each runtime has exceptions of its own
        reason = " ".join(str(error).split())[:200]
        raise CheckFailed(f"{artifact}: {target.name} cannot be run here ({reason})") from error
    execution = Execution(given, session.how, session.runtime)
    return compare(execution, [sample[name] for name in names], target.tolerance)


def decode_clip(
    session: Session, sample: Mapping[str, np.ndarray], inputs: Sequence[TensorInfo], stream: StreamFacts
) -> np.ndarray:
    """All frames of the sample's clip by a stream-mode artifact, whose inputs are latent, first and the states."""
    decoder = StreamDecoder(session.call, [info.shape for info in inputs[2:]], stream)
    return np.concatenate(list(decoder.decode_all(sample[CLIP_LATENT][:, None])))
