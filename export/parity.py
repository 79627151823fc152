"""The gate between a converter and a bundle: an artifact is run, or evaluated, and compared with PyTorch fp32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.targets import Target
from toolkit.errors import CheckFailed
from toolkit.parity import Parity, compare


def check(target: Target, artifact: Path, inputs: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> Parity:
    """Compare `artifact` on `inputs` with `expected`, PyTorch's fp32 outputs.

    Raises `CheckFailed` where it cannot even be loaded or run: an artifact that does not run has no parity.
    """
    try:
        execution = target.run(artifact, inputs)
    except (RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckFailed(f"{artifact}: {target.name} cannot be run here ({reason})") from error
    return compare(execution, expected, target.tolerance)
