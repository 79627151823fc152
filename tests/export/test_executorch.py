"""ExecuTorch: what the converter does to a graph, and what it refuses to hand over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from export import executorch
from export.targets import Conversion
from toolkit.errors import CheckFailed, UserError


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_the_two_transposes_are_a_pixel_shuffle(factor: int) -> None:
    x = torch.randn(3, 2 * factor**2, 4, 5)
    assert torch.equal(executorch.shuffle_pixels(x, factor), F.pixel_shuffle(x, factor))


def test_a_program_is_wholly_delegated_at_rank_4_and_runs(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.PixelShuffle(2)).eval()
    x = torch.randn(2, 3, 6, 8)
    written = executorch.convert(Conversion(torch.export.export(network, (x,)), ["x", "y"]), tmp_path / "model.pte")
    assert written.max_rank == 4
    assert written.delegated_share == 1.0
    assert written.operators["xnnpack:convolution"] == 1
    outputs = executorch.load(tmp_path / "model.pte").call([x.numpy()])
    with torch.no_grad():
        np.testing.assert_allclose(outputs[0], network(x).numpy(), atol=1e-5)


def test_a_convolution_that_would_stay_on_the_portable_kernels_is_refused(tmp_path: Path) -> None:
    program = torch.export.export(nn.Conv3d(2, 2, 1).eval(), (torch.randn(1, 2, 3, 4, 4),))
    with pytest.raises(CheckFailed, match="outside the XNNPACK delegate"):
        executorch.convert(Conversion(program, ["x", "y"]), tmp_path / "model.pte")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_one_file_holds_a_method_for_every_size(tmp_path: Path) -> None:
    network = nn.Conv2d(3, 64, 3, padding=1).eval()
    large, small = torch.randn(2, 3, 6, 8), torch.randn(1, 3, 4, 6)
    program, further = torch.export.export(network, (large,)), torch.export.export(network, (small,))
    path, alone = tmp_path / "model.pte", tmp_path / "alone.pte"
    executorch.convert(Conversion(program, ["x", "y"], sizes={"small": further}), path)
    executorch.convert(Conversion(program, ["x", "y"]), alone)
    for name, x in (("forward", large), ("small", small)):
        (output,) = executorch.open_method(path, name).call([x.numpy()])
        np.testing.assert_allclose(output, network(x).detach().numpy(), atol=1e-5)
    assert path.stat().st_size - alone.stat().st_size < network.weight.numel() * 4  # the weights are there once
    with pytest.raises(UserError, match=r"smal.*Did you mean 'small'"):
        executorch.open_method(path, "smal")


@pytest.mark.slow
def test_the_same_program_gives_the_same_bytes(tmp_path: Path) -> None:
    program = torch.export.export(nn.Conv2d(2, 3, 1).eval(), (torch.randn(1, 2, 4, 4),))
    for name in ("one.pte", "two.pte"):
        executorch.convert(Conversion(program, ["x", "y"]), tmp_path / name)
    assert (tmp_path / "one.pte").read_bytes() == (tmp_path / "two.pte").read_bytes()
