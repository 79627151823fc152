"""ONNX in 8 bits: which nodes are quantized, that ONNX Runtime runs them in integers, and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn.functional import grid_sample

from export import onnx_int8
from export.targets import INT8, Conversion
from toolkit.errors import CheckFailed
from toolkit.parity import Execution, Parity, compare


def converted(
    network: nn.Module, inputs: Sequence[torch.Tensor], path: Path, wide: Sequence[str] = ()
) -> tuple[Parity, onnx.ModelProto]:
    """How far the artifact is from PyTorch, and the artifact."""
    torch.manual_seed(0)
    program = torch.export.export(network.eval(), tuple(inputs))
    names = [f"x{number}" for number in range(len(inputs))]
    arrays = [tensor.numpy() for tensor in inputs]
    onnx_int8.convert(Conversion(program, [*names, "y"], [arrays], frozenset(wide)), path)
    outputs = onnx_int8.load(path).call(arrays)
    with torch.no_grad():
        expected = [network(*inputs).numpy()]
    return compare(Execution(outputs, "executed", "onnxruntime"), expected, INT8), onnx.load(path)


def in_use(path: Path, folder: Path) -> Counter[str]:
    """What ONNX Runtime makes of a file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def quantized(model: onnx.ModelProto) -> list[str]:
    """The nodes that take their weights from 8 bits, by the program's names."""
    whole = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return [
        node.name.split("/")[0]
        for node in model.graph.node
        if node.op_type in onnx_int8.LAYERS and node.input[1] in whole
    ]


class Layers(nn.Module):
    """Convolutions with norms, pixel shuffle, attention and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 16, 1)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(torch.nn.functional.hardswish(self.norm(self.first(x))))
        y = y / (y.square().mean(1, keepdim=True) + 1e-6).sqrt()
        q, k, v = self.qkv(y.flatten(2).transpose(1, 2)).chunk(3, -1)
        z = self.out(torch.softmax(q @ k.transpose(1, 2) / 4, -1) @ v).transpose(1, 2)
        return torch.pixel_shuffle(z.reshape(1, 12, 8, 8), 2)


def test_layers_run_in_integers_and_products_of_two_computed_tensors_do_not(tmp_path: Path) -> None:
    parity, model = converted(Layers(), [torch.randn(1, 3, 8, 8)], tmp_path / "model.onnx")
    assert parity.passed, str(parity)
    assert quantized(model) == ["conv2d", "conv2d_1", "linear", "linear_1"]
    used = in_use(tmp_path / "model.onnx", tmp_path)
    assert (used["QLinearConv"], used["Conv"], used["MatMul"] + used["FusedMatMul"]) == (2, 0, 2)
    assert used["QLinearMatMul"] + used["MatMulIntegerToFloat"] + used["QGemm"] == 2


def test_weights_have_a_scale_for_each_output_channel(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1))
    with torch.no_grad():
        network[0].weight[0] *= 1000
        network[1].weight[:, 0] /= 1000
    _parity, _ = converted(network, [torch.randn(1, 3, 8, 8)], tmp_path / "model.onnx", wide=["conv2d_1"])
    model = onnx.load(tmp_path / "model.onnx")
    sizes = {tuple(t.dims) for t in model.graph.initializer if t.name.endswith("weight_scale")}
    assert sizes == {(8,)}


@pytest.mark.slow
def test_wide_nodes_stay_fp32(tmp_path: Path) -> None:
    x = [torch.randn(1, 3, 8, 8)]
    reduced, _ = converted(Layers(), x, tmp_path / "all.onnx")
    kept, model = converted(Layers(), x, tmp_path / "kept.onnx", wide=["conv2d_1", "linear"])
    assert quantized(model) == ["conv2d", "linear_1"]
    assert kept.psnr_db is not None
    assert reduced.psnr_db is not None
    assert kept.psnr_db > reduced.psnr_db
    whole, model = converted(Layers(), x, tmp_path / "whole.onnx", wide=["conv2d", "conv2d_1", "linear", "linear_1"])
    assert quantized(model) == []
    assert whole.share is not None
    assert whole.share < 1e-5


class Warped(nn.Module):
    """A layer that predicts flow, a warp by it, and a layer over what the warp fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.flow, self.last = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(grid_sample(x, torch.tanh(self.flow(x)).permute(0, 2, 3, 1), align_corners=False))


def test_what_predicts_coordinates_stays_fp32(tmp_path: Path) -> None:
    parity, model = converted(Warped(), [torch.randn(1, 3, 8, 8)], tmp_path / "model.onnx")
    assert parity.passed, str(parity)
    assert quantized(model) == ["conv2d_1"]


class Picked(nn.Module):
    """Layers over what integers pick and a mask leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, index: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.where(mask, self.layer(x[index]), 0.0)


def test_inputs_need_not_be_floats(tmp_path: Path) -> None:
    inputs = [torch.randn(5, 4), torch.tensor([4, 0, 1]), torch.tensor([True, False, True, True])]
    parity, model = converted(Picked(), inputs, tmp_path / "model.onnx")
    assert parity.passed, str(parity)
    assert quantized(model) == ["linear"]


def test_a_mean_over_channels_that_is_written_as_a_convolution_is_no_layer(tmp_path: Path) -> None:
    mean = nn.Conv2d(4, 1, 1, bias=False)
    nn.init.constant_(mean.weight, 0.25)
    parity, model = converted(
        nn.Sequential(nn.Conv2d(3, 4, 1), mean), [torch.randn(1, 3, 8, 8)], tmp_path / "model.onnx"
    )
    assert parity.passed, str(parity)
    assert quantized(model) == ["conv2d"]


@pytest.mark.slow
def test_no_layers_and_no_inputs_are_refused(tmp_path: Path) -> None:
    x = torch.randn(1, 3, 8, 8)
    with pytest.raises(CheckFailed, match="onnx-int8: nothing to quantize"):
        converted(nn.Sigmoid(), [x], tmp_path / "model.onnx")
    program = torch.export.export(nn.Conv2d(3, 3, 1), (x,))
    with pytest.raises(CheckFailed, match="onnx-int8: there are no real inputs to calibrate on"):
        onnx_int8.convert(Conversion(program, ["x", "y"]), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_ranges_come_from_all_real_inputs(tmp_path: Path) -> None:
    network = nn.Conv2d(3, 3, 1).eval()
    small, large = np.full((1, 3, 8, 8), 0.1, np.float32), np.full((1, 3, 8, 8), 10, np.float32)
    program = torch.export.export(network, (torch.from_numpy(small),))
    onnx_int8.convert(Conversion(program, ["x", "y"], [[small], [large], [small]]), tmp_path / "model.onnx")
    with torch.no_grad():
        expected = network(torch.from_numpy(large)).numpy()
    np.testing.assert_allclose(onnx_int8.load(tmp_path / "model.onnx").call([large])[0], expected, atol=0.2)


class Shared(nn.Module):
    """One layer over two images."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.last(torch.cat([torch.relu(self.layer(x)), torch.relu(self.layer(y * 3))], 1))


def test_layers_that_share_a_weight_load_where_8_bit_sums_must_not_overflow(tmp_path: Path) -> None:
    inputs = [torch.randn(1, 3, 8, 8), torch.randn(1, 3, 8, 8)]
    parity, model = converted(Shared(), inputs, tmp_path / "model.onnx")
    assert parity.passed, str(parity)
    assert quantized(model) == ["conv2d", "conv2d_1", "conv2d_2"]
    _, model = converted(Shared(), inputs, tmp_path / "kept.onnx", wide=["conv2d_1"])
    assert quantized(model) == ["conv2d", "conv2d_2"]
