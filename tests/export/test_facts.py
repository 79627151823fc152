"""Figures computed from shapes, against figures computed by hand."""

from __future__ import annotations

import pytest
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


def test_a_reshape_shares_its_tensors_memory_and_keeps_it_alive() -> None:
    class Reshaped(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = x.relu()
            b = a.reshape(16, 16)
            c = x.sigmoid()
            return b.exp() @ c.reshape(16, 16)

    program = torch.export.export(Reshaped(), (torch.randn(1, 256),))
    kib = 1024
    # x, a (as b) and c, or a, c and the exponent: never a and b both
    assert facts.peak_activation_bytes(program) == 3 * kib


def test_what_each_operator_costs_adds_up_to_the_whole() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2), nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Flatten(2), nn.Linear(144, 5)
    )
    x = torch.randn(2, 4, 8, 8)
    work = facts.work(torch.export.export(network, (x,)))
    assert sum(item.macs for item in work) == facts.macs(network, [x])
    assert [item.moved_bytes for item in work if facts.name_of(item.node) == "flatten"] == [0]


@pytest.mark.slow
def test_the_peak_is_what_executorchs_memory_planner_needs() -> None:
    from executorch.exir import to_edge_transform_and_lower

    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Flatten(2), nn.Linear(64, 5)).eval()
    program = torch.export.export(network, (torch.randn(1, 3, 8, 8),))
    planned = to_edge_transform_and_lower(program.run_decompositions({})).to_executorch()
    arena = planned.executorch_program.execution_plan[0].non_const_buffer_sizes[1]
    # its arena is rounded up to 16 bytes a tensor; decompositions may add one short-lived tensor
    assert facts.peak_activation_bytes(program) <= arena <= 1.5 * facts.peak_activation_bytes(program)
