"""Core ML's placement, planned of whole programs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from export.lowering import lower
from export.lowering.lower import program_of
from export.planning import coreml
from tests.conftest import Apply


def placed(module: nn.Module, shape: tuple[int, ...] = (1, 4, 8, 8)) -> coreml.Plan:
    example = torch.randn(shape)
    with torch.no_grad():
        return coreml.placement(program_of(lower(module, (example,)), [example]))


def test_only_the_casts_at_the_border_leave_the_engine() -> None:
    plan = placed(nn.Sequential(nn.Conv2d(4, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 3)))
    assert {row.operator for row in plan.outside} == {"cast"}
    assert plan.accelerator == "Neural Engine"
    assert plan.share == pytest.approx(3 / 5)
    assert plan.refused == []


def test_an_operator_that_leaves_is_traced_to_the_node_it_was_made_for() -> None:
    plan = placed(nn.Sequential(nn.Conv2d(4, 4, 3), Apply(torch.tan)))
    row = next(row for row in plan.outside if row.operator == "tan")
    assert "tan" in row.node.name
    assert row.certain
    assert "[trigonometry]" in row.reason


@pytest.mark.slow
def test_what_reports_contradict_each_other_on_is_not_counted() -> None:
    plain, dilated = placed(nn.Conv2d(4, 4, 3)), placed(nn.Conv2d(4, 4, 3, dilation=2))
    assert dilated.share == plain.share
    assert [row.certain for row in dilated.outside if row.operator == "conv"] == [False]


def test_what_only_older_chips_lack_is_a_note() -> None:
    plan = placed(nn.Upsample(scale_factor=2))
    assert all(row.operator == "cast" for row in plan.outside)
    assert "older chips also" in plan.note


@pytest.mark.slow
def test_a_program_in_fp32_has_no_part_on_the_engine() -> None:
    example = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        plan = coreml.plan_fp32(program_of(lower(nn.Conv2d(4, 4, 3), (example,)), [example]))
    assert plan.share is None
    assert "GPU or CPU" in plan.note
