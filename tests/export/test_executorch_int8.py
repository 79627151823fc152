"""ExecuTorch in int8: what is quantized, what stays fp32, and that it runs in XNNPACK."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from export import executorch, executorch_int8
from export.targets import INT8, Conversion
from toolkit.errors import UserError
from toolkit.parity import Execution, compare

PER_CHANNEL = "xnnpack:dequantize_per_channel"  # one a quantized weight


class Normed(nn.Module):
    """A layer that is called twice, and a norm whose mean is a convolution, as the lowering says it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.out = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 3, 1)
        self.mean = nn.Parameter(torch.full((1, 8, 1, 1), 1 / 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(torch.relu(self.conv(x)))
        return self.out(x * torch.rsqrt(F.conv2d(x.square(), self.mean) + 1e-6))


def conversion(wide: frozenset[str] = frozenset()) -> Conversion:
    torch.manual_seed(1)
    calls = [torch.randn(2, 8, 6, 8) for _ in range(3)]
    program = torch.export.export(Normed().eval(), (calls[0],))
    return Conversion(program, ["x", "y"], [[call.numpy()] for call in calls], wide)


def test_without_real_inputs_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="calibrate"):
        executorch_int8.convert(Conversion(conversion().program, ["x", "y"]), tmp_path / "model.pte")


def test_calls_are_repeated_and_cropped_to_a_programs_sizes() -> None:
    program = torch.export.export(nn.ReLU(), (torch.zeros(1, 3, 5),))
    ((fitted,),) = executorch_int8.fitted([[np.arange(24, dtype=np.float32).reshape(2, 3, 4)]], program)
    assert fitted.shape == (1, 3, 5)
    assert fitted[0, 1].tolist() == [4, 5, 6, 7, 4]


@pytest.mark.slow
def test_only_convolutions_that_do_more_than_add_are_quantized() -> None:
    quantized = executorch_int8.quantize(conversion().program, conversion().calibration)
    weights = [node for node in quantized.graph.nodes if "dequantize_per_channel" in str(node.target)]
    assert len(weights) == 3  # both calls of the layer and the last one, not the mean
    taken = {str(node.args[0].target) for node in quantized.graph.nodes if str(node.target) == "aten.rsqrt.default"}
    assert taken == {"aten.add.Tensor"}


@pytest.mark.slow
def test_wide_nodes_stay_in_fp32() -> None:
    given = conversion(frozenset({"conv2d_1"}))
    quantized = executorch_int8.quantize(given.program, given.calibration, given.wide)
    weights = [node for node in quantized.graph.nodes if "dequantize_per_channel" in str(node.target)]
    assert len(weights) == 2


@pytest.mark.slow
def test_it_runs_in_one_delegate_and_is_near_fp32(tmp_path: Path) -> None:
    given, path = conversion(), tmp_path / "model.pte"
    written = executorch_int8.convert(given, path)
    assert (written.delegates, written.delegated_share, written.operators[PER_CHANNEL]) == (1, 1.0, 3)
    session = executorch.load(path)
    with torch.no_grad():
        expected = given.program.module()(torch.from_numpy(given.calibration[0][0])).numpy()
    found = compare(Execution(session.call(given.calibration[0]), session.how, session.runtime), [expected], INT8)
    assert found.passed
    assert found.how == "executed"
