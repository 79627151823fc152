"""Core ML: what coremltools is made to convert that it would not by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from export import coreml
from export.targets import Conversion


class PlusANumber(nn.Module):
    """A linear of one output, as the mean of a norm over rows is, and the norm's epsilon."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mean(x) + 0.5


def test_a_number_is_added_to_a_linear_of_one_output(tmp_path: Path) -> None:
    network, x = PlusANumber().eval(), torch.randn(2, 5, 8)
    program = torch.export.export(network, (x,))
    coreml.convert(Conversion(program, ["rows", "numbers"]), tmp_path / "model.mlpackage")
    with torch.no_grad():
        expected = network(x).numpy()
    result = coreml.load(tmp_path / "model.mlpackage").call([x.numpy()])[0]
    np.testing.assert_allclose(result, expected, atol=2e-3)
