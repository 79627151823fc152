"""The unrolled layout: the folded numbers, with one frame a convolution."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from export.lowering import lower
from export.lowering.lower import max_rank, program_of, to_frames
from tests.conftest import Apply
from tests.export.lowering.check import VIDEO
from toolkit import students


def assert_unrolls_exactly(module: nn.Module, shape: tuple[int, ...] = VIDEO) -> None:
    torch.manual_seed(0)
    video = torch.randn(shape)
    folded, unrolled = (lower(module.eval(), (video,), layout=layout) for layout in ("folded", "unrolled"))
    frames = to_frames(video)
    program = program_of(unrolled, [frames])
    batches = [n.meta["val"].shape[0] for n in program.graph.nodes if str(n.target) == "aten.conv2d.default"]
    assert set(batches) <= {1}
    assert max_rank(program) <= 4
    with torch.no_grad():
        expected, actual = folded(frames), unrolled(frames)
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        nn.Conv3d(6, 4, 3, padding=1),
        nn.Conv3d(6, 4, 3, stride=2, groups=2),
        nn.Sequential(nn.Conv3d(6, 8, 3), nn.GroupNorm(2, 8), nn.SiLU()),
        nn.Sequential(nn.Conv3d(6, 6, 1), nn.MaxPool3d(2)),
        Apply(lambda x: x - x.mean(dim=2, keepdim=True)),
        Apply(lambda x: F.pad(x, (1, 0, 0, 2, 1, 1), value=0.5)),
        Apply(lambda x: x.unflatten(1, (3, 2)).permute(0, 1, 3, 2, 4, 5).flatten(2, 3)),
        Apply(lambda x: torch.softmax(x.flatten(3).transpose(2, 3) @ x.flatten(3), -1).sum(1)),
    ],
    ids=[
        "convolution",
        "strided",
        "group norm",
        "pool",
        "mean over time",
        "padding",
        "frames from channels",
        "attention",
    ],
)
def test_operators_frame_by_frame_keep_their_numbers(module: nn.Module) -> None:
    assert_unrolls_exactly(module)


@pytest.mark.slow
def test_the_student_unrolls_exactly() -> None:
    student = students.build("turbo_vaed", "demo", {"latent_channels": 4, "widths": [16, 16, 16]})
    assert_unrolls_exactly(student, (1, 4, 3, 5, 6))
