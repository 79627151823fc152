"""Export presets by name."""

from __future__ import annotations

import pytest

from export.reductions import reduction_of
from export.targets import FP16, FP32, INT8, all_targets, find_target
from toolkit.errors import UserError


def test_targets_are_known_with_their_tolerances() -> None:
    known = {name: target.tolerance for name, target in all_targets().items()}
    first = {"onnx-fp32": FP32, "executorch-xnnpack-fp32": FP32, "coreml-fp16": FP16, "coreml-state-fp16": FP16}
    others = {"onnx-fp16": FP16, "onnx-int8": INT8, "ort-fp32": FP32, "coreml-image-fp16": FP16, "coreml-pal6": INT8}
    assert known.items() >= (first | others).items()


def test_an_unknown_target_names_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'onnx-fp32'"):
        find_target("onnx-fp23")


def test_layers_of_every_target_that_a_budget_bounds_can_be_reduced() -> None:
    mixable = {name for name, target in all_targets().items() if target.is_mixable}
    assert {name: callable(reduction_of(name)) for name in mixable} == dict.fromkeys(mixable, True)
    assert {"coreml-int4", "coreml-pal4", "coreml-w8a8", "executorch-xnnpack-int8", "onnx-fp16"} <= mixable
    assert mixable.isdisjoint({"onnx-fp32", "coreml-image-fp16", "coreml-state-fp16", "executorch-vulkan-fp16"})
