"""Errors planted into artifacts: each is found, and the operator that has it is named with both values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from export import parity
from export.bisect import blame, find_culprit
from export.bisect_walk import Culprit, Value, locate
from export.calls import Call
from export.targets import FP32, Conversion, find_target
from tests.conftest import Apply
from tests.export import planted
from toolkit.errors import CheckFailed


def found(target: str, path: Path, call: Call) -> Culprit:
    conversion = Conversion(call.program, call.names, call.calibration)
    culprit = find_culprit(find_target(target), path, conversion, planted.inputs_of(call))
    assert culprit is not None
    return culprit


@pytest.fixture(scope="module")
def call() -> Call:
    return planted.call_of()


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["first", "second", "third"])
def test_a_changed_weight_of_an_onnx_file_is_found_in_its_layer(layer: str, call: Call, tmp_path: Path) -> None:
    path = planted.converted("onnx-fp32", call, tmp_path)
    planted.change_onnx_weight(path, f"{layer}_weight")
    culprit = found("onnx-fp32", path, call)
    assert (culprit.operator, culprit.layer, culprit.inputs_agree) == ("Conv", f"in {layer}", True)
    assert isinstance(culprit.expected, float)
    assert isinstance(culprit.actual, float)
    assert culprit.max_abs == pytest.approx(abs(culprit.expected - culprit.actual))


@pytest.mark.parametrize(
    ("old", "new", "after"),
    [("Relu", "Sigmoid", "first"), ("Add", "Sub", "first"), ("Sigmoid", "Tanh", "third"), ("Sub", "Add", "third")],
)
def test_a_replaced_operator_of_an_onnx_file_is_found_by_its_name(
    old: str, new: str, after: str, call: Call, tmp_path: Path
) -> None:
    path = planted.converted("onnx-fp32", call, tmp_path)
    name = planted.replace_onnx_operator(path, old, new)
    culprit = found("onnx-fp32", path, call)
    assert (culprit.operator, culprit.node, culprit.layer) == (new, name, f"after {after}")
    assert culprit.inputs_agree


def test_a_right_file_has_no_wrong_operator(call: Call, tmp_path: Path) -> None:
    path = planted.converted("onnx-fp32", call, tmp_path)
    culprit = found("onnx-fp32", path, call)
    assert not culprit.inputs_agree
    assert culprit.share is not None
    assert culprit.share < 1e-5
    assert "no operator alone" in str(culprit)


def test_the_failed_check_names_the_operator(call: Call, tmp_path: Path) -> None:
    path = planted.converted("onnx-fp32", call, tmp_path)
    planted.replace_onnx_operator(path, "Relu", "Sigmoid")
    expected = r"onnx-fp32: FAIL: .*; first wrong: Sigmoid 'relu' \(after first\): output \S+ instead of \S+ at \[0, "
    with pytest.raises(CheckFailed, match=expected):
        parity.check_deeply(find_target("onnx-fp32"), path, call, call.inputs, call.outputs)


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["first", "second", "third"])
def test_a_changed_weight_of_a_core_ml_package_is_found(layer: str, call: Call, tmp_path: Path) -> None:
    path = planted.converted("coreml-fp16", call, tmp_path)
    weight = next(value for key, value in call.program.state_dict.items() if f"{layer}_weight" in key)
    planted.change_coreml_weight(path, weight)
    culprit = found("coreml-fp16", path, call)
    assert (culprit.operator, culprit.layer, culprit.inputs_agree) == ("conv", f"in {layer}", True)


@pytest.mark.slow
@pytest.mark.parametrize(("old", "new"), [("relu", "sigmoid"), ("sigmoid", "tanh"), ("sub", "add"), ("mul", "sub")])
def test_a_replaced_operator_of_a_core_ml_package_is_found(old: str, new: str, call: Call, tmp_path: Path) -> None:
    path = planted.converted("coreml-fp16", call, tmp_path)
    names: list[str] = []

    def change(operations: Any) -> None:
        operation = [operation for operation in operations if operation.type == old][-1]
        operation.type = new
        names.append(operation.outputs[0].name)

    planted.change_coreml_program(path, change)
    culprit = found("coreml-fp16", path, call)
    assert (culprit.operator, [culprit.node], culprit.inputs_agree) == (new, names, True)


class Told:
    """Values that are given by hand."""

    def __init__(self, values: list[tuple[str, str, tuple[str, ...], np.ndarray]]) -> None:
        self.values = [Value(name, op, inputs, array.shape) for name, op, inputs, array in values]
        self.outputs = [self.values[-1].name]
        self._arrays = {name: array for name, _, _, array in values}

    def read(self, names: list[str]) -> dict[str, np.ndarray]:
        return {name: self._arrays[name] for name in names}


def program_of(function: Any, x: torch.Tensor) -> torch.export.ExportedProgram:
    return torch.export.export(Apply(function), (x,))


def test_an_operator_that_only_has_the_name_of_a_node_is_not_blamed() -> None:
    """A fused multiplication: `mul` holds what PyTorch calls `add`, and the rest is right."""
    x = torch.tensor([1.0, 2.0, -3.0])
    program = program_of(lambda x: torch.relu(x * 2 + 1), x)
    values = [("mul", "Affine", ("x",), (x * 2 + 1).numpy()), ("out", "Relu", ("mul",), F.relu(x * 2 + 1).numpy())]
    culprit = locate(program, Told(values), [x.numpy()], FP32)
    assert culprit is None or not culprit.inputs_agree


def test_behind_such_a_name_the_operator_that_is_wrong_is_blamed() -> None:
    x = torch.tensor([1.0, 2.0, -3.0])
    program = program_of(lambda x: torch.exp(torch.relu(x * 2 + 1)), x)
    affine = x * 2 + 1
    values = [
        ("mul", "Affine", ("x",), affine.numpy()),
        ("relu", "Relu", ("mul",), F.relu(affine).numpy()),
        ("out", "Cos", ("relu",), F.relu(affine).cos().numpy()),
    ]
    culprit = locate(program, Told(values), [x.numpy()], FP32)
    assert culprit is not None
    assert (culprit.operator, culprit.inputs_agree) == ("Cos", True)


def test_a_renamed_operator_is_paired_by_its_shape_and_named() -> None:
    x = torch.tensor([1.0, 2.0, -3.0])
    program = program_of(lambda x: torch.exp(torch.relu(x * 2)), x)
    values = [
        ("mul", "Mul", ("x",), (x * 2).numpy()),
        ("val_7", "Abs", ("mul",), (x * 2).abs().numpy()),
        ("exp", "Exp", ("val_7",), (x * 2).abs().exp().numpy()),
    ]
    culprit = locate(program, Told(values), [x.numpy()], FP32)
    assert culprit is not None
    assert (culprit.operator, culprit.node) == ("Abs", "val_7")
    assert (culprit.expected, culprit.actual, culprit.at_index) == (0.0, 6.0, (2,))


def test_an_operator_without_a_pair_is_named_beside_the_one_that_shows_it() -> None:
    """SiLU is written as a sigmoid and a product: no node of PyTorch's is the sigmoid."""
    x = torch.tensor([[1.0, 2.0, -3.0]])
    program = program_of(lambda x: F.silu(x), x)
    values = [("val_1", "Tanh", ("x",), x.tanh().numpy()), ("silu", "Mul", ("x", "val_1"), (x * x.tanh()).numpy())]
    culprit = locate(program, Told(values), [x.numpy()], FP32)
    assert culprit is not None
    assert (culprit.operator, culprit.beside) == ("Mul", ("Tanh 'val_1'",))
    assert "or what feeds it: Tanh 'val_1'" in str(culprit)


def test_a_value_of_another_shape_is_said_to_have_it() -> None:
    x = torch.ones(2, 3)
    values = [("out", "Flatten", ("x",), np.ones(6, np.float32))]
    culprit = locate(program_of(lambda x: x + 0, x), Told(values), [x.numpy()], FP32)
    assert culprit is not None
    assert "shape [6] instead of [2, 3]" in str(culprit)


@pytest.mark.slow
def test_weights_of_plain_modules_name_their_layers_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = torch.export.export(
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), (torch.ones(1, 3),)
    )
    path = tmp_path / "model.onnx"
    find_target("onnx-fp32").convert(Conversion(program, ["x", "y"]), path)
    planted.change_onnx_weight(path, "2.bias")
    culprit = find_culprit(
        find_target("onnx-fp32"), path, Conversion(program, ["x", "y"]), [np.ones((1, 3), np.float32)]
    )
    assert culprit is not None
    assert culprit.layer == "in 2"


def test_a_format_that_cannot_be_read_is_said_to_be_none(call: Call, tmp_path: Path) -> None:
    conversion = Conversion(call.program, call.names, call.calibration)
    said = blame(find_target("ort-fp32"), tmp_path / "model.ort", conversion, planted.inputs_of(call))
    assert said == "; this format cannot be taken apart"


def test_whatever_fails_in_looking_for_the_operator_does_not_hide_the_failure(call: Call, tmp_path: Path) -> None:
    """ONNX Runtime's errors derive from `Exception` itself."""
    path = planted.converted("onnx-fp32", call, tmp_path)
    planted.replace_onnx_operator(path, "Sigmoid", "NoOperator")
    conversion = Conversion(call.program, call.names, call.calibration)
    said = blame(find_target("onnx-fp32"), path, conversion, planted.inputs_of(call))
    assert said.startswith("; the operator at fault could not be looked for (")
