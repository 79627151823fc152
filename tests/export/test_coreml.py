"""Core ML: what coremltools is made to convert that it would not by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export import coreml, mil_reference
from export.targets import Conversion
from tests.export import coreml_nets as nets
from toolkit.errors import CheckFailed, UserError


class PlusANumber(nn.Module):
    """A linear of one output, as the mean of a norm over rows is, and the norm's epsilon."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mean(x) + 0.5


@pytest.mark.slow
def test_a_number_is_added_to_a_linear_of_one_output(tmp_path: Path) -> None:
    network, x = PlusANumber().eval(), torch.randn(2, 5, 8)
    program = torch.export.export(network, (x,))
    coreml.convert(Conversion(program, ["rows", "numbers"]), tmp_path / "model.mlpackage")
    with torch.no_grad():
        expected = network(x).numpy()
    result = coreml.load(tmp_path / "model.mlpackage").call([x.numpy()])[0]
    np.testing.assert_allclose(result, expected, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "version", "kind", "least"),
    [
        ("coreml-fp32", 8, "fp32", 100),
        ("coreml-fp16", 8, "fp16", 60),
        ("coreml-ios16-fp16", 7, "fp16", 60),
        ("coreml-ios18-fp16", 9, "fp16", 60),
    ],
)
def test_deployment_target_and_precision_stand_in_the_package(
    tmp_path: Path, target: str, version: int, kind: str, least: float
) -> None:
    path = nets.write(target, tmp_path)
    assert nets.version(path) == version
    assert nets.types(path) == [kind] * 3
    assert nets.parity(target, path) > least


@pytest.mark.slow
def test_wide_nodes_and_no_others_compute_in_fp32(tmp_path: Path) -> None:
    program = nets.program()
    path = nets.write("coreml-fp16", tmp_path, program=program, wide=frozenset({"conv2d_1"}))
    assert nets.types(path) == ["fp16", "fp32", "fp16"]
    assert all("handheld_wide" not in str(node.meta.get("custom")) for node in program.graph.nodes)


@pytest.mark.slow
def test_a_wide_convolution_takes_its_batch_norm_along(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    program = nets.program(module=module)
    path = nets.write("coreml-fp16", tmp_path, program=program, wide=frozenset({"conv2d"}))
    assert nets.types(path) == ["fp32", "fp16"]


class Step(nn.Module):
    """A step of a stream with one state."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 3, 3, padding=1)

    def forward(
        self, latent: torch.Tensor, first: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mixed = self.before(latent) + state * (1 - first)
        return self.after(mixed), mixed


@pytest.mark.slow
def test_states_and_wide_nodes(tmp_path: Path) -> None:
    examples = (torch.randn(1, 2, 4, 4), torch.ones(1, 1, 1, 1), torch.zeros(1, 2, 4, 4))
    program = torch.export.export(Step().eval(), examples)
    names = ["latent", "first", "state_0", "frames", "next_state_0"]
    path = tmp_path / "stateful.mlpackage"
    coreml.convert_stateful(Conversion(program, names, wide=frozenset({"conv2d_1"})), path)
    assert (nets.types(path), nets.version(path)) == (["fp16", "fp32"], 9)


def test_states_are_a_streams(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="keeps the states of a stream, and this has none"):
        nets.write("coreml-state-fp16", tmp_path)
    with pytest.raises(UserError, match="coreml-state-fp16: holds one size"):
        nets.write("coreml-state-fp16", tmp_path, sizes={"large": nets.program((12, 10))})


@pytest.mark.slow
def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    first = nets.contents(nets.write("coreml-fp16", tmp_path))
    assert nets.contents(nets.write("coreml-fp16", tmp_path)) == first
    assert set(first) == {
        "Manifest.json",
        *(f"Data/com.apple.CoreML/{f}" for f in ("model.mlmodel", "weights/weight.bin")),
    }


class Warp(nn.Module):
    """Features moved by what a convolution says."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grid = self.conv(x).permute(0, 2, 3, 1) * 0.25 + 0.125
        return nn.functional.grid_sample((x * 3).relu(), grid, align_corners=False)


@pytest.mark.slow
def test_coordinates_stay_in_fp32(tmp_path: Path) -> None:
    path = nets.write("coreml-fp16", tmp_path, program=nets.program(module=Warp()))
    operations = mil_reference.main_function(mil_reference.load(path)).operations
    resample = next(operation for operation in operations if operation.op_type == "resample")
    assert resample.coordinates.dtype.__name__ == "fp32"
    kinds = {
        op.op_type: op.outputs[0].dtype.__name__ for op in operations if op.op_type in ("conv", "relu", "transpose")
    }
    assert kinds == {"conv": "fp16", "relu": "fp16", "transpose": "fp32"}
