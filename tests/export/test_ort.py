"""ONNX Runtime's format: executed here, its operators read off the file, its list of operators beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export import ort
from export.targets import Conversion


def test_a_file_runs_and_says_what_a_build_needs(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.SiLU()).eval()
    x = torch.randn(2, 3, 6, 8)
    program = torch.export.export(network, (x,))
    written = ort.convert(Conversion(program, ["latent", "frames"]), tmp_path / "model.ort")
    assert written.max_rank == 4
    assert written.operators == {"Conv": 1, "com.microsoft.FusedConv": 1, "com.microsoft.QuickGelu": 1}
    with torch.no_grad():
        expected = network(x).numpy()
    np.testing.assert_allclose(ort.load(tmp_path / "model.ort").call([x.numpy()])[0], expected, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.ort", "model.required_operators.config"]
    config = (tmp_path / "model.required_operators.config").read_text()
    needed = {name for line in config.splitlines()[1:] for name in line.rsplit(";", 1)[1].split(",")}
    assert {name.rpartition(".")[2] for name in written.operators} <= needed
    assert str(tmp_path) not in config


@pytest.mark.slow
def test_the_rank_is_read_off_the_file_itself(tmp_path: Path) -> None:
    program = torch.export.export(nn.Conv3d(2, 2, 1).eval(), (torch.randn(1, 2, 3, 4, 4),))
    assert ort.convert(Conversion(program, ["latent", "frames"]), tmp_path / "model.ort").max_rank == 5


class Gather(nn.Module):
    """Integers and truth values go in."""

    def forward(self, x: torch.Tensor, index: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.where(mask, x[:, index], 0.0)


def test_inputs_need_not_be_floats(tmp_path: Path) -> None:
    inputs = torch.randn(2, 5), torch.tensor([4, 0, 1]), torch.tensor([True, False, True])
    program = torch.export.export(Gather(), inputs)
    ort.convert(Conversion(program, ["x", "index", "mask", "y"]), tmp_path / "model.ort")
    result = ort.load(tmp_path / "model.ort").call([tensor.numpy() for tensor in inputs])[0]
    np.testing.assert_array_equal(result, Gather()(*inputs).numpy())
