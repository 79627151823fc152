"""ONNX: a self-contained file with the names we gave, the right numbers, and its rank read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from export import onnx as exporter
from export.targets import Conversion


def test_a_file_has_our_names_and_pytorchs_numbers(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU()).eval()
    x = torch.randn(2, 3, 6, 8)
    program = torch.export.export(network, (x,))
    written = exporter.convert(Conversion(program, ["latent", "frames"]), tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [value.name for value in (*graph.input, *graph.output)] == ["latent", "frames"]
    assert written.max_rank == 4
    assert written.operators["Conv"] == 1
    with torch.no_grad():
        expected = network(x).numpy()
    np.testing.assert_allclose(exporter.load(tmp_path / "model.onnx").call([x.numpy()])[0], expected, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_the_rank_is_read_off_the_file_itself(tmp_path: Path) -> None:
    program = torch.export.export(nn.Conv3d(2, 2, 1).eval(), (torch.randn(1, 2, 3, 4, 4),))
    assert exporter.convert(Conversion(program, ["latent", "frames"]), tmp_path / "model.onnx").max_rank == 5


class SmallNumbers(nn.Module):
    """What a norm adds to zeros, and a factor next to 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(1, keepdim=True) + 1e-15) + (x + 1e-8) * 1.000004


@pytest.mark.slow
def test_numbers_next_to_zero_and_one_are_not_taken_for_them(tmp_path: Path) -> None:
    for x in (torch.zeros(1, 4, 3, 3), torch.randn(1, 4, 3, 3)):
        program = torch.export.export(SmallNumbers(), (x,))
        exporter.convert(Conversion(program, ["x", "y"]), tmp_path / "model.onnx")
        result = exporter.load(tmp_path / "model.onnx").call([x.numpy()])[0]
        np.testing.assert_allclose(result, SmallNumbers()(x).numpy(), rtol=2e-6, atol=1e-12)
