"""ExecuTorch's delegates, planned by their own partitioners."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from export.lowering import lower
from export.lowering.lower import program_of
from export.planning import executorch
from tests.conftest import Apply


def program(module: nn.Module, *shape: int) -> ExportedProgram:
    example = torch.randn(shape)
    with torch.no_grad():
        return program_of(lower(module, (example,)), [example])


def test_xnnpack_takes_a_convolution() -> None:
    plan = executorch.plan_xnnpack(program(nn.Conv2d(4, 4, 3), 2, 4, 8, 8))
    assert (plan.accelerator, plan.delegates, plan.share) == ("XNNPACK", 1, 1.0)


def test_without_a_delegate_there_is_no_share() -> None:
    plan = executorch.plan_portable(program(nn.ReLU(), 1, 4, 8, 8))
    assert (plan.refused, plan.outside, plan.share) == ([], [], None)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3])
def test_vulkan_takes_convolutions_frame_by_frame(batch: int) -> None:
    plan = executorch.plan_vulkan(program(nn.Conv2d(4, 4, 3), batch, 4, 8, 8))
    assert "convolution" not in {row.operator for row in plan.outside}
    assert plan.accelerator == "Vulkan GPU"
    assert plan.refused == []


@pytest.mark.slow
def test_arithmetic_on_sizes_is_no_operator_outside() -> None:
    plan = executorch.plan_xnnpack(program(nn.Sequential(nn.Conv2d(4, 4, 3), Apply(torch.tril)), 1, 4, 8, 8))
    assert plan.refused == []


@pytest.mark.slow
def test_core_ml_inside_executorch_is_placed_by_the_rules() -> None:
    plan = executorch.plan_coreml(program(nn.Conv2d(4, 4, 3), 1, 4, 8, 8))
    assert plan.accelerator == "Neural Engine"
    assert plan.delegates == 1
    assert plan.share is not None
