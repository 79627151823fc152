"""Figures computed from shapes, against figures computed by hand."""

from __future__ import annotations

import torch
from torch import nn

from export import facts


def test_macs_of_convolutions_are_counted_as_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8))
    positions = 5 * 7
    assert facts.macs(network, [torch.randn(1, 3, 5, 7)]) == positions * (3 * 8 * 9 + 8 * 9)


def test_params_count_every_number_that_learns() -> None:
    assert facts.params(nn.Conv2d(3, 8, 3)) == 3 * 8 * 9 + 8


class Diamond(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = x.relu()
        b = torch.cat([a, a])
        return b.exp() + b


def test_the_peak_holds_every_tensor_until_its_last_use() -> None:
    program = torch.export.export(Diamond(), (torch.randn(1, 256),))
    kib = 1024
    # x 1, a 1, b 2, exp 2, sum 2: when the sum is made, b, exp and the sum are alive
    assert facts.peak_activation_bytes(program) == 6 * kib
