"""A small net for the tests of Core ML's targets, and what stands in a package that was written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import coremltools
import numpy as np
import torch
from coremltools.converters.mil.mil import Operation
from torch import nn
from torch.export import ExportedProgram

from export import mil_reference
from export.guarded import converted
from export.targets import Conversion, find_target

SIDES = (8, 8)


class Net(nn.Module):
    """Three convolutions, of which the nodes `conv2d_1` and `conv_transpose2d` have weights worth compressing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 64, 3, padding=1)
        self.second = nn.Conv2d(64, 64, 3, padding=1)
        self.third = nn.ConvTranspose2d(64, 32, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = self.third(self.second(self.first(x).relu()).relu())
        assert isinstance(result, torch.Tensor)
        return result


def example(sides: tuple[int, int] = SIDES, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, 3, *sides, generator=torch.Generator().manual_seed(seed))


def program(sides: tuple[int, int] = SIDES, module: nn.Module | None = None) -> ExportedProgram:
    return torch.export.export((module or Net()).eval(), (example(sides),))


def conversion(**changes: Any) -> Conversion:
    calibration = [[example(seed=seed).numpy()] for seed in range(3)]
    return Conversion(**{"program": program(), "names": ["x", "y"], "calibration": calibration, **changes})


def write(target: str, folder: Path, **changes: Any) -> Path:
    """The net as `target`, as an export writes it."""
    path = folder / find_target(target).file_name
    converted(find_target(target), conversion(**changes), path)
    return path


def psnr(actual: np.ndarray, expected: np.ndarray) -> float:
    error = float(np.mean((actual - expected) ** 2))
    return 10 * math.log10(float(np.ptp(expected)) ** 2 / error) if error else math.inf


def parity(target: str, path: Path, sides: tuple[int, int] = SIDES) -> float:
    """PSNR of a package of the net, in dB."""
    x = example(sides)
    with torch.no_grad():
        expected = Net().eval()(x).numpy()
    return psnr(find_target(target).open(path).call([x.numpy()])[0], expected)


def weighted(path: Path) -> list[Operation]:
    """The convolutions as saved, in their order."""
    operations = mil_reference.main_function(mil_reference.load(path)).operations
    return [operation for operation in operations if operation.op_type.startswith("conv")]


def types(path: Path) -> list[str]:
    """What each convolution computes in."""
    return [operation.outputs[0].dtype.__name__ for operation in weighted(path)]


def stored(path: Path) -> list[str]:
    """What each convolution's weight comes from."""
    return [str(operation.weight.op.op_type) for operation in weighted(path)]


def version(path: Path) -> int:
    """The specification's: 7 is iOS 16, 8 is iOS 17, 9 is iOS 18."""
    return int(coremltools.models.MLModel(str(path), skip_model_load=True).get_spec().specificationVersion)


def weights_bytes(path: Path) -> int:
    return (path / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def arrays(*tensors: torch.Tensor) -> Sequence[np.ndarray]:
    return [tensor.numpy() for tensor in tensors]
