"""Which planner plans for a target: the one with the longest prefix of its name."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from export.planning import Plan, coreml, executorch, find_planner, onnx
from export.planning.registry import once
from export.targets import all_targets


@pytest.mark.parametrize(
    ("target", "planner"),
    [
        ("onnx-fp32", onnx.plan),
        ("onnx-int8", onnx.plan),
        ("ort-fp32", onnx.plan),
        ("coreml-fp16", coreml.plan),
        ("coreml-pal6", coreml.plan),
        ("coreml-ios16-fp16", coreml.plan),
        ("coreml-image-fp16", coreml.plan),
        ("coreml-fp32", coreml.plan_fp32),
        ("executorch-xnnpack-int8", executorch.plan_xnnpack),
        ("executorch-vulkan-fp16", executorch.plan_vulkan),
        ("executorch-coreml-fp16", executorch.plan_coreml),
        ("executorch-fp32", executorch.plan_portable),
        ("onnxish-fp32", None),
    ],
)
def test_the_longest_prefix_plans(target: str, planner: object) -> None:
    assert find_planner(target) is planner


def test_every_known_target_has_a_planner() -> None:
    assert [target for target in all_targets() if find_planner(target) is None] == []


def test_a_program_is_planned_once() -> None:
    calls = []

    @once
    def planner(program: ExportedProgram) -> Plan:
        calls.append(program)
        return Plan(note=str(len(calls)))

    program, other = (torch.export.export(nn.ReLU(), (torch.randn(2),)) for _ in range(2))
    assert [planner(program).note, planner(program).note, planner(other).note] == ["1", "1", "2"]
