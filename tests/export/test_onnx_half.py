"""ONNX in fp16: what stays fp32 and why, and that every fp16 result may be rounded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn
from torch.nn.functional import grid_sample, normalize

from export import onnx_half
from export.onnx_graph import HEAVY, run
from export.targets import FP16, Conversion
from tests.conftest import Apply
from tests.export.test_onnx_int8 import Layers, Picked
from toolkit.errors import CheckFailed
from toolkit.parity import Execution, Parity, compare


def converted(
    network: nn.Module, inputs: Sequence[torch.Tensor], path: Path, wide: Sequence[str] = ()
) -> tuple[Parity, onnx.ModelProto]:
    """How far the artifact with rounded results is from PyTorch, and the artifact."""
    program = torch.export.export(network.eval(), tuple(inputs))
    names = [f"x{number}" for number in range(len(inputs))]
    arrays = [tensor.numpy() for tensor in inputs]
    onnx_half.convert(Conversion(program, [*names, "y"], [arrays], frozenset(wide)), path)
    model = onnx.load(path)
    outputs = run(onnx_half.rounded(model), dict(zip(names, arrays, strict=True)))
    with torch.no_grad():
        expected = [network(*inputs).numpy()]
    executed = onnx_half.load(path).call(arrays)
    assert compare(Execution(executed, "executed", "onnxruntime"), expected, FP16).passed
    return compare(Execution(outputs, "reference-evaluated", "onnxruntime"), expected, FP16), model


def in_fp16(model: onnx.ModelProto) -> set[str]:
    """The operators, but for casts, whose results are fp16."""
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    half = {v.name for v in model.graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT16}
    return {node.op_type for node in model.graph.node if node.op_type != "Cast" and node.output[0] in half}


@pytest.mark.slow
def test_layers_are_fp16_with_fp32_norms_and_ends(tmp_path: Path) -> None:
    parity, model = converted(Layers(), [torch.randn(1, 3, 8, 8)], tmp_path / "model.onnx")
    assert parity.passed, str(parity)
    assert {"Conv", "MatMul", "DepthToSpace"} <= in_fp16(model)
    assert in_fp16(model).isdisjoint({"ReduceMean", "Sqrt", "Softmax"})
    ends = [*model.graph.input, *model.graph.output]
    assert {value.type.tensor_type.elem_type for value in ends} == {TensorProto.FLOAT}
    weights = {t.data_type for t in model.graph.initializer if len(t.dims) == 4}
    assert weights == {TensorProto.FLOAT16}


@pytest.mark.slow
def test_wide_nodes_stay_fp32(tmp_path: Path) -> None:
    _, model = converted(Layers(), [torch.randn(1, 3, 8, 8)], tmp_path / "model.onnx", wide=["conv2d", "linear"])
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    by_name = {
        node.name.split("/")[0]: kinds[node.input[1]]
        for node in model.graph.node
        if node.input[1:2] and node.input[1] in kinds and node.op_type in HEAVY
    }
    assert by_name == {"conv2d": 1, "conv2d_1": 10, "linear": 1, "linear_1": 10}


NORMS = {
    "rms with an epsilon below fp16": lambda x: x / (x.square().mean(1, keepdim=True) + 1e-15).sqrt(),
    "l2 with a least length": lambda x: normalize(x, dim=1, eps=1e-12),
    "pow and rsqrt": lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-8),
    "group norm": lambda x: torch.nn.functional.group_norm(x, 2),
    "softplus by hand": lambda x: torch.log1p(torch.exp(x)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 10.0])
def test_norms_keep_their_epsilon_and_do_not_overflow(name: str, scale: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 4, 4, 4)
    network = Apply(NORMS[name])
    program = torch.export.export(network, (x,))
    onnx_half.convert(Conversion(program, ["x", "y"], [[x.numpy()]]), tmp_path / "model.onnx")
    given = (x * scale).numpy()
    result = run(onnx_half.rounded(onnx.load(tmp_path / "model.onnx")), {"x": given})[0]
    with torch.no_grad():
        expected = network(x * scale).numpy()
    np.testing.assert_allclose(result, expected, atol=3e-3 * max(1.0, np.abs(expected).max()))


class Constants(nn.Module):
    """Numbers that fp16 flushes, overflows, or changes, next to one that it does not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 1e-9) * 1e9 + (x * 1e5) * 1e-5 + x * 0.5


@pytest.mark.slow
def test_no_constant_is_flushed_or_overflows(tmp_path: Path) -> None:
    parity, model = converted(Constants(), [torch.randn(1, 3, 4, 4)], tmp_path / "model.onnx")
    assert parity.passed, str(parity)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            array = numpy_helper.to_array(tensor)
            assert np.isfinite(array).all()
            assert (np.abs(array) > 1e-4).all()


@pytest.mark.slow
def test_what_comes_near_the_largest_number_on_real_inputs_stays_fp32(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1))
    with torch.no_grad():
        network[0].weight *= 1e5
        network[2].weight /= 1e5
    parity, model = converted(network, [torch.randn(1, 3, 4, 4)], tmp_path / "model.onnx")
    assert parity.passed, str(parity)
    assert in_fp16(model).isdisjoint({"Conv", "Relu"})


@pytest.mark.slow
def test_coordinates_stay_fp32(tmp_path: Path) -> None:
    def warp(x: torch.Tensor) -> torch.Tensor:
        return grid_sample(x, (x[:, :2] * 0.3 + 0.1).permute(0, 2, 3, 1), align_corners=False)

    parity, model = converted(Apply(warp), [torch.randn(1, 3, 8, 8)], tmp_path / "model.onnx")
    assert parity.passed, str(parity)
    assert in_fp16(model) == set()


@pytest.mark.slow
def test_inputs_need_not_be_floats(tmp_path: Path) -> None:
    inputs = [torch.randn(5, 4), torch.tensor([4, 0, 1]), torch.tensor([True, False, True, True])]
    parity, model = converted(Picked(), inputs, tmp_path / "model.onnx")
    assert parity.passed, str(parity)
    assert "MatMul" in in_fp16(model) or "Gemm" in in_fp16(model)


@pytest.mark.slow
def test_a_model_that_rounding_destroys_is_refused(tmp_path: Path) -> None:
    x = torch.randn(1, 3, 8, 8)
    program = torch.export.export(Apply(lambda x: (x + 1000) - 1000), (x,))
    with pytest.raises(CheckFailed, match="onnx-fp16: with each result rounded to fp16: FAIL"):
        onnx_half.convert(Conversion(program, ["x", "y"], [[x.numpy()]]), tmp_path / "model.onnx")
