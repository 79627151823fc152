"""A model's figures, against figures computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from export import facts
from export.figures import figures
from export.lowering.refusal import layer


def test_the_figures_of_two_layers_are_those_computed_by_hand() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()).eval()
    x = torch.randn(1, 3, 5, 7)
    found = figures(module, [x], torch.export.export(module, (x,)), layer)
    places, weights = 5 * 7, 8 * 3 * 9 + 8
    assert found.params == weights
    assert found.macs == places * 8 * 3 * 9 == facts.macs(module, [x])
    convolution, relu = 4 * (3 * places + weights + 8 * places), 4 * (8 * places + 8 * places)
    assert found.moved_bytes == convolution + relu
    assert found.weight_bytes["fp32"] == 4 * weights
    assert found.weight_bytes["int8"] == weights
    assert found.largest_tensor is not None
    assert found.largest_tensor.shape == [1, 8, 5, 7]
    assert [(row.layer, row.macs, row.moved_bytes) for row in found.layers] == [
        ("0", found.macs, convolution),
        ("1", 0, relu),
    ]
    assert found.intensity == pytest.approx(2 * found.macs / found.moved_bytes)


def test_shapes_that_depend_on_the_data_leave_only_macs_and_parameters() -> None:
    class Chosen(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[x[:, 0] > 0]

    x = torch.randn(4, 3)
    found = figures(Chosen(), [x], torch.export.export(Chosen(), (x,)), layer)
    assert (found.macs, found.peak_activation_bytes, found.moved_bytes) == (0, None, None)
