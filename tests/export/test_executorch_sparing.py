"""Delegates in fp16: what looks up a picture at computed places stays outside of them, in fp32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from export import executorch_coreml, executorch_vulkan
from export.targets import FP16, Conversion
from tests.conftest import Warp
from toolkit.parity import Execution, compare

MODULES = {"coreml": executorch_coreml, "vulkan": executorch_vulkan}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
@torch.no_grad()
def test_a_sampling_and_its_coordinates_stay_in_fp32(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 24, 256)
    network = Warp().eval()
    path = tmp_path / "model.pte"
    written = MODULES[name].convert(Conversion(torch.export.export(network, (image,)), ["image", "warped"]), path)
    assert written.operators["cpu:grid_sampler_2d"] == 1
    assert "cpu:add" in written.operators  # a coordinate is a place and a flow
    assert not any("conv" in operator for operator in written.operators if operator.startswith("cpu:"))
    assert written.delegates == 2  # before the sampling, and after it
    session = MODULES[name].load(path)
    expected = [network(image).numpy()]
    found = compare(Execution(session.call([image.numpy()]), session.how, session.runtime), expected, FP16)
    assert found.passed, found
