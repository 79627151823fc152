"""ExecuTorch with Vulkan: frames apart, and a file that means the same when its graph is read back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from export import executorch_vulkan
from export.targets import FP16, Conversion
from toolkit.errors import UserError
from toolkit.parity import Execution, compare


def conversion() -> Conversion:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 1), nn.PixelShuffle(2)).eval()
    return Conversion(torch.export.export(network, (torch.randn(2, 3, 6, 8),)), ["x", "y"])


def test_every_convolution_takes_one_frame_and_the_numbers_stay() -> None:
    program = conversion().program
    apart = executorch_vulkan.frame_by_frame(program)
    convolutions = [node for node in apart.graph.nodes if "conv2d" in str(node.target)]
    assert len(convolutions) == 4
    assert {node.args[0].meta["val"].shape[0] for node in convolutions} == {1}
    x = torch.randn(2, 3, 6, 8)
    with torch.no_grad():
        assert torch.allclose(apart.module()(x), program.module()(x), atol=1e-6)


def test_one_precision_is_all_that_a_delegate_has(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one precision"):
        executorch_vulkan.convert(replace(conversion(), wide=frozenset({"conv2d"})), tmp_path / "model.pte")


@pytest.mark.slow
def test_the_graph_in_the_file_is_near_fp32(tmp_path: Path) -> None:
    given, path = conversion(), tmp_path / "model.pte"
    written = executorch_vulkan.convert(given, path)
    assert (written.max_rank, written.delegates, written.delegated_share) == (4, 1, 1.0)
    assert written.operators["vulkan:pixel_shuffle"] == 2
    x = torch.randn(2, 3, 6, 8)
    with torch.no_grad():
        expected = given.program.module()(x).numpy()
    session = executorch_vulkan.load(path)
    found = compare(Execution(session.call([x.numpy()]), session.how, session.runtime), [expected], FP16)
    assert found.passed
    assert found.psnr_db is not None  # fp16 is seen: the numbers are not those of fp32
    content = path.read_bytes()
    weights = given.program.state_dict["0.weight"].detach().half().numpy().tobytes()
    assert weights in content
    path.write_bytes(content.replace(weights, bytes(len(weights))))  # it is the file that is evaluated
    session = executorch_vulkan.load(path)
    assert not compare(Execution(session.call([x.numpy()]), session.how, session.runtime), [expected], FP16).passed
