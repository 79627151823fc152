"""Core ML with weights and activations of 8 bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import fx, nn

from export.coreml_quantize import fold
from export.coreml_write import read
from export.guarded import converted
from export.targets import Conversion, find_target
from tests.export import coreml_nets as nets
from toolkit.errors import UserError


@pytest.mark.slow
def test_weights_and_activations_have_8_bits_but_those_of_wide_nodes(tmp_path: Path) -> None:
    path = nets.write("coreml-w8a8", tmp_path)
    assert nets.version(path) == 8
    assert nets.stored(path) == ["constexpr_affine_dequantize"] * 2 + ["const"]  # Core ML's quantizer leaves the last
    assert [operation.x.op.op_type for operation in nets.weighted(path)[:2]] == ["dequantize"] * 2
    assert nets.parity("coreml-w8a8", path) > 30
    assert read(path).operators["quantize"] >= 2

    path = nets.write("coreml-w8a8", tmp_path, wide=frozenset({"conv2d_1"}))
    assert nets.stored(path) == ["constexpr_affine_dequantize", "const", "const"]
    assert nets.types(path) == ["fp16"] * 3


def test_there_must_be_something_to_calibrate_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="coreml-w8a8: has no inputs to calibrate on"):
        nets.write("coreml-w8a8", tmp_path, calibration=())


class Normed(nn.Module):
    """A convolution, normed over channels; where it gives nothing, only the epsilon is under the root."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return self.last(x * torch.rsqrt((x * x).sum(1, keepdim=True) + 1e-6))


@pytest.mark.slow
@torch.no_grad()
def test_norms_stay_out_of_8_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, x = Normed().eval(), torch.randn(1, 3, 12, 16)
    network.first.bias -= 0.5
    assert (torch.relu(network.first(x)) == 0).all(1).any()
    target = find_target("coreml-w8a8")
    path = tmp_path / target.file_name
    conversion = Conversion(torch.export.export(network, (x,)), ["x", "y"], calibration=[[x.numpy()]])
    converted(target, conversion, path)
    assert nets.psnr(target.open(path).call([x.numpy()])[0], network(x).numpy()) > 30


class Scaled(nn.Module):
    """A convolution, then a factor and an offset for each channel, as a lowered batch norm is."""

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=bias)
        self.factor, self.offset = nn.Buffer(torch.randn(1, 4, 1, 1)), nn.Buffer(torch.randn(1, 4, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x) * self.factor + self.offset)


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_factors_and_offsets_become_part_of_the_convolution(bias: bool) -> None:
    torch.manual_seed(0)
    network, x = Scaled(bias=bias).eval(), torch.randn(1, 3, 8, 8)
    module = torch.export.export(network, (x,)).module()
    assert isinstance(module, fx.GraphModule)
    fold(module)
    called = [str(node.target) for node in module.graph.nodes if node.op == "call_function"]
    assert called == ["aten.conv2d.default", "aten.relu.default"]
    torch.testing.assert_close(module(x), network(x))
