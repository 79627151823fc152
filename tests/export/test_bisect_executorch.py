"""Errors planted into ExecuTorch programs, whose delegates show no inner values."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export import parity
from export.bisect import blame, find_culprit
from export.calls import Call
from export.pte import instructions
from export.targets import Conversion, Target, Written, find_target
from tests.export import planted
from toolkit.errors import CheckFailed

TARGET = "executorch-xnnpack-fp32"


@pytest.fixture(scope="module")
def call() -> Call:
    return planted.call_of()


@pytest.mark.slow
def test_a_program_is_read_operator_by_operator_with_its_constants(call: Call, tmp_path: Path) -> None:
    path = planted.converted(TARGET, call, tmp_path)
    convolutions = [one for one in instructions(path) if one.operator == "Conv2d"]
    weights = [value for key, value in call.program.state_dict.items() if key.endswith("weight")]
    sizes = [one.constants["filter"].size for one in convolutions]
    assert set(sizes) >= {weight.numel() for weight in weights}


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pte").write_bytes(b"no program" * 10)
    with pytest.raises(CheckFailed, match="cannot be read as an ExecuTorch program"):
        instructions(tmp_path / "model.pte")


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["first", "second"])
def test_a_weight_changed_in_the_file_is_named_with_both_values(layer: str, call: Call, tmp_path: Path) -> None:
    path = planted.converted(TARGET, call, tmp_path)
    weight = next(value for key, value in call.program.state_dict.items() if f"{layer}_weight" in key)
    planted.change_pte_weight(path, weight)
    with pytest.raises(CheckFailed, match=rf"first wrong: Conv2d 'operator \d+' \(in {layer}\): filter 3 instead of"):
        parity.check_deeply(find_target(TARGET), path, call, call.inputs, call.outputs)


def swapped(old: object, new: object) -> Target:
    """The target with a converter that takes one operator for another."""
    good = find_target(TARGET)

    def convert(conversion: Conversion, path: Path) -> Written:
        module = conversion.program.module()
        for node in module.graph.nodes:
            node.target = new if node.target is old else node.target
        module.recompile()
        examples = [torch.from_numpy(np.asarray(array)) for array in conversion.calibration[0]]
        return good.convert(replace(conversion, program=torch.export.export(module, tuple(examples))), path)

    return replace(good, convert=convert)


@pytest.mark.slow
def test_an_operator_replaced_in_the_file_is_named(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "model.pte"
    conversion = Conversion(call.program, call.names, call.calibration)
    swapped(torch.ops.aten.sigmoid.default, torch.ops.aten.tanh.default).convert(conversion, path)
    culprit = find_culprit(find_target(TARGET), path, conversion, planted.inputs_of(call))
    assert culprit is not None
    assert (culprit.expected, culprit.actual, culprit.layer) == ("Sigmoid", "Tanh", "after third")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "layer"),
    [
        (torch.ops.aten.relu.default, torch.ops.aten.sigmoid.default, "after first"),
        (torch.ops.aten.sigmoid.default, torch.ops.aten.tanh.default, "after third"),
    ],
)
def test_an_operator_that_the_converter_gets_wrong_is_named(
    old: torch._ops.OpOverload, new: torch._ops.OpOverload, layer: str, call: Call, tmp_path: Path
) -> None:
    path, wrong = tmp_path / "model.pte", swapped(old, new)
    conversion = Conversion(call.program, call.names, call.calibration)
    wrong.convert(conversion, path)
    culprit = find_culprit(wrong, path, conversion, planted.inputs_of(call))
    assert culprit is not None
    assert (culprit.operator, culprit.layer) == (str(old).removeprefix("aten."), layer)
    assert culprit.what == "output of a fresh conversion up to it"


@pytest.mark.slow
def test_a_right_program_has_no_wrong_operator(call: Call, tmp_path: Path) -> None:
    path = planted.converted(TARGET, call, tmp_path)
    conversion = Conversion(call.program, call.names, call.calibration)
    assert find_culprit(find_target(TARGET), path, conversion, planted.inputs_of(call)) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "wrong"),
    [
        ("executorch-vulkan-fp16", r"convolution\.default 'operator \d+' \(in second\): argument 1 3 instead of"),
        ("executorch-coreml-fp16", "CoreMLBackend delegate 'operator 0': weights 3 instead of"),
    ],
)
def test_a_weight_changed_in_another_delegate_is_named(target: str, wrong: str, call: Call, tmp_path: Path) -> None:
    """And a file that nothing was changed in is not blamed for names that are drawn anew at every conversion."""
    path, inputs = planted.converted(target, call, tmp_path), planted.inputs_of(call)
    conversion = Conversion(call.program, call.names, call.calibration)
    assert "first wrong" not in blame(find_target(target), path, conversion, inputs)
    weight = next(value for key, value in call.program.state_dict.items() if "second_weight" in key)
    planted.change_delegate_weight(path, weight)
    assert re.match(f"; first wrong: {wrong}", blame(find_target(target), path, conversion, inputs))
