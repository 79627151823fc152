"""Named export presets, `BACKEND[-DELEGATE]-PRECISION`: how to write each one, how to run it, how close it must be.

To add a target: a module with a `convert` and an `open` function, and one `add_target` line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path

import numpy as np
from torch.export import ExportedProgram

from toolkit.bundle import TensorInfo
from toolkit.errors import CheckFailed, unknown_name
from toolkit.parity import How, Tolerance

FP32 = Tolerance(max_share=1e-4)
FP16 = Tolerance(min_psnr_db=50)
INT8 = Tolerance(min_psnr_db=30)


@dataclass(frozen=True)
class Written:
    """What a converter learned of the artifact it wrote: read off the artifact; of ExecuTorch, whose file does not show
    all of it, off the partitioned graphs that were serialized."""

    max_rank: int
    operators: dict[str, int]
    delegates: int | None = None
    delegated_share: float | None = None


@dataclass(frozen=True)
class Session:
    """A loaded artifact: `call(inputs)` gives its outputs, both in the artifact's order."""

    call: Callable[[Sequence[np.ndarray]], list[np.ndarray]]
    how: How
    runtime: str


@dataclass(frozen=True)
class Conversion:
    """What a converter is given.

    `program` is the lowered graph, and `names` are those of its inputs, then of its outputs. `calibration` has the
    inputs of real calls, each in the program's order, for precisions that need ranges. `wide` names nodes of `program`
    that keep the higher precision where the target has two. `sizes` are programs of the same model for other sizes, by
    the name of the function or method that an artifact with several shall have for each.
    """

    program: ExportedProgram
    names: list[str]
    calibration: Sequence[Sequence[np.ndarray]] = ()
    wide: frozenset[str] = frozenset()
    sizes: Mapping[str, ExportedProgram] = field(default_factory=dict)


Convert = Callable[[Conversion, Path], Written]
Open = Callable[[Path], Session]
Adapt = Callable[
    [Sequence[TensorInfo], Sequence[TensorInfo], Mapping[str, np.ndarray]],
    tuple[list[TensorInfo], list[TensorInfo], dict[str, np.ndarray]],
]


@dataclass(frozen=True)
class Target:
    """One preset. `convert(conversion, path)` writes the artifact; `open(path)` loads it.

    An artifact that `keeps_states` holds its stream's states itself: it takes and gives none. Where an artifact may
    hold several sizes, `open_size(path, name)` loads the function or method of one. `adapt(inputs, outputs, sample)` is
    for artifacts whose signature is another than the program's: it gives theirs, and the arrays that the sample then
    has besides. An artifact of `one_precision` throughout has no layers that could stay `wide`. `beside` are names of
    files that `convert` writes beside the artifact. Where the runtime here computes in a higher precision than the
    artifact's, `open_rounded` loads it so that each result is rounded to its own; budgets are measured by that.
    """

    name: str
    file_name: str
    tolerance: Tolerance
    convert: Convert
    open: Open
    keeps_states: bool = False
    open_size: Callable[[Path, str], Session] | None = None
    adapt: Adapt | None = None
    one_precision: bool = False
    beside: tuple[str, ...] = ()
    open_rounded: Open | None = None

    @property
    def is_mixable(self) -> bool:
        """Whether some of its layers can keep a higher precision, so that a budget bounds what the others lose.

        An artifact of another signature than the program's is none: its outputs cannot be held against PyTorch's.
        """
        whole = self.keeps_states or self.one_precision or self.adapt is not None
        return self.tolerance.min_psnr_db is not None and not whole


_TARGETS: dict[str, Target] = {}
_BACKENDS = (
    "export.onnx",
    "export.onnx_half",
    "export.onnx_int8",
    "export.ort",
    "export.executorch",
    "export.executorch_int8",
    "export.executorch_coreml",
    "export.executorch_vulkan",
    "export.coreml",
)


def add_target(target: Target) -> None:
    """Make a target known by its name; its file name must be its own, for a bundle may hold all targets."""
    if any(other.file_name == target.file_name for name, other in _TARGETS.items() if name != target.name):
        raise ValueError(f"target {target.name}: another target already writes {target.file_name}")
    _TARGETS[target.name] = target


def all_targets() -> dict[str, Target]:
    """Every known target by name."""
    for backend in _BACKENDS:
        import_module(backend)
    return dict(_TARGETS)


def find_target(name: str) -> Target:
    """The target called `name`; raises `UserError` with the known names."""
    targets = all_targets()
    if name not in targets:
        raise unknown_name("target", name, targets)
    return targets[name]


def of_size(target: Target, name: str) -> Target:
    """The target as it opens one of the further sizes of its artifacts."""
    opening = target.open_size
    if opening is None:
        raise CheckFailed(f"{target.name}: holds one size, and no '{name}'")
    return replace(target, name=f"{target.name} {name}", open=lambda path: opening(path, name))
