"""Finding what is wrong in an artifact that differs from PyTorch, and saying it in one line."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.bisect_walk import Culprit, locate
from export.targets import Conversion, Target

log = logging.getLogger(__name__)

READ = (".onnx", ".mlpackage", ".pte")  # what can be taken apart


def find_culprit(target: Target, path: Path, conversion: Conversion, inputs: Sequence[np.ndarray]) -> Culprit | None:
    """The first wrong operator of the artifact at `path`, which `target` made of `conversion`, for the program's
    `inputs`; None where none is found.

    ONNX models and Core ML programs show every operator's value. An ExecuTorch program's delegates show none: its
    constants and operators are compared with those of a fresh conversion and, where they are the same, fresh
    conversions of ever longer beginnings of the program are run.
    """
    if path.suffix == ".onnx":
        from export.bisect_onnx import OnnxValues

        return locate(conversion.program, OnnxValues(path, inputs), inputs, target.tolerance)
    if path.suffix == ".mlpackage":
        from export.bisect_mil import MilValues

        return locate(conversion.program, MilValues(path, inputs), inputs, target.tolerance)
    if path.suffix == ".pte":
        from export.bisect_executorch import locate_in_pte

        return locate_in_pte(target, path, conversion, inputs)
    return None


def blame(target: Target, path: Path, conversion: Conversion, inputs: Sequence[np.ndarray]) -> str:
    """What `find_culprit` finds, as the end of a message; never raises."""
    if path.suffix not in READ:
        return "; this format cannot be taken apart"
    try:
        found = find_culprit(target, path, conversion, inputs)
    except Exception as error:  # what failed is the parity: a tool's own failure must not hide it
        log.info("%s: the operator at fault could not be looked for", path, exc_info=True)
        return f"; the operator at fault could not be looked for ({' '.join(str(error).split())[:120]})"
    if found is None:
        return "; no operator of the file is wrong by itself"
    return f"; first wrong: {found}" if found.inputs_agree else f"; {found}"
