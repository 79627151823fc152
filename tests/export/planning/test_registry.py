"""Which planner plans for a target: the one with the longest prefix of its name."""

from __future__ import annotations

import pytest

from export.planning import coreml, executorch, find_planner, onnx
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
