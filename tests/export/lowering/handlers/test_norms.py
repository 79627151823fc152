"""Norms against torch's own, with statistics and weights that are not the ones they start with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from export.lowering import LoweringError, lower
from export.lowering.lower import to_frames, to_video
from tests.conftest import Apply
from tests.export.lowering.check import VIDEO, ChannelLast, assert_lowers_exactly


def used(norm: nn.Module) -> nn.Module:
    """A norm as after training: every weight and statistic its own number."""
    generator = torch.Generator().manual_seed(1)
    for tensor in (*norm.parameters(), *norm.buffers()):
        if tensor.is_floating_point():
            tensor.data = torch.rand(tensor.shape, generator=generator) + 0.5
    return norm


class OnFrames(nn.Module):
    """A norm of images, over the frames of a video."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frames = x.transpose(1, 2).flatten(0, 1)  # (T, C, H, W)
        return self.norm(frames).unflatten(0, (1, x.shape[2])).transpose(1, 2)


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm3d(6),
        nn.BatchNorm3d(6, affine=False),
        nn.BatchNorm3d(6, eps=0.1, track_running_stats=False),
        nn.GroupNorm(2, 6),
        nn.GroupNorm(1, 6, eps=0.1),
        nn.GroupNorm(6, 6, affine=False),
        nn.InstanceNorm3d(6),
        nn.InstanceNorm3d(6, affine=True),
        nn.InstanceNorm3d(6, affine=True, track_running_stats=True),
    ],
    ids=repr,
)
@pytest.mark.parametrize("shape", [VIDEO, (1, 6, 1, 7, 5), (1, 6, 3, 1, 1)])
def test_norms_of_videos_keep_their_numbers(norm: nn.Module, shape: tuple[int, ...]) -> None:
    assert_lowers_exactly(used(norm), shape)


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(6),
        nn.BatchNorm2d(6, track_running_stats=False),
        nn.GroupNorm(3, 6),
        nn.InstanceNorm2d(6, affine=True),
    ],
    ids=repr,
)
def test_norms_of_single_frames_keep_their_numbers(norm: nn.Module) -> None:
    assert_lowers_exactly(OnFrames(used(norm)), (1, 6, 5, 7, 9))


@pytest.mark.parametrize("norm", [nn.RMSNorm(6), nn.RMSNorm(6, eps=0.1), nn.LayerNorm(6, bias=False)], ids=repr)
def test_norms_over_the_last_dimension_keep_their_numbers(norm: nn.Module) -> None:
    assert_lowers_exactly(ChannelLast(used(norm)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.rms_norm(x, (8, 12)),
        lambda x: F.group_norm(x.flatten(3), 2),
        lambda x: F.group_norm(x.flatten(2), 3),
        lambda x: F.group_norm(x.mean((2, 3, 4)), 3),
        lambda x: F.group_norm(x.reshape(1, 6, 5, 4, 2, 12), 2).flatten(3, 4),
        lambda x: F.group_norm(x.movedim(1, -1).reshape(1, -1, 6).transpose(1, 2), 2),
        lambda x: F.group_norm(x.transpose(2, 4), 2),
        lambda x: F.group_norm(torch.cat([x, x * 2], 1), 3),
        lambda x: F.group_norm(F.pixel_shuffle(torch.cat([x, x], 1).transpose(1, 2), 2).transpose(1, 2), 3),
        lambda x: F.group_norm(x, 2, x.mean((0, 2, 3, 4)), x.amax((0, 2, 3, 4))),
        lambda x: F.instance_norm(x.transpose(1, 2)),
        lambda x: F.batch_norm(x.transpose(0, 2), None, None, training=True).transpose(0, 2),
    ],
)
def test_norms_in_any_layout_keep_their_numbers(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert_lowers_exactly(Apply(function))


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 6, affine=False), nn.InstanceNorm3d(6)], ids=repr)
def test_a_large_mean_leaves_the_numbers_alone(norm: nn.Module) -> None:
    video = torch.randn(VIDEO) + 1000
    actual = to_video(lower(norm, (video,))(to_frames(video)))
    assert (actual - norm(video.double())).abs().max() <= 2e-4  # fp32 knows a number near 1000 to 6e-5


@settings(max_examples=12)
@given(
    groups=st.integers(1, 3),
    width=st.integers(1, 3),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(2, 5)),
)
def test_group_norms_of_any_size_keep_their_numbers(groups: int, width: int, sizes: tuple[int, int, int]) -> None:
    assert_lowers_exactly(used(nn.GroupNorm(groups, groups * width)), (1, groups * width, *sizes))


@pytest.mark.parametrize("norm", [nn.BatchNorm3d(6), nn.GroupNorm(2, 6), nn.InstanceNorm3d(6, affine=True)], ids=repr)
def test_no_norm_of_a_video_transposes_it(norm: nn.Module) -> None:
    program = torch.export.export(lower(used(norm), (torch.randn(VIDEO),)), (torch.randn(5, 6, 8, 12),))
    moved = [n for n in program.graph.nodes if any(word in str(n.target) for word in ("permute", "transpose", "view"))]
    assert all(node.meta["val"].numel() <= 5 * 6 for node in moved)


def test_a_batch_norm_is_one_scale_and_one_shift_computed_ahead() -> None:
    program = torch.export.export(lower(used(nn.BatchNorm3d(6)), (torch.randn(VIDEO),)), (torch.randn(5, 6, 8, 12),))
    calls = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert calls == ["aten.mul.Tensor", "aten.add.Tensor"]


def test_statistics_computed_from_the_input_are_refused() -> None:
    module = Apply(lambda x: F.batch_norm(x, x.mean((0, 2, 3, 4)), x.amax((0, 2, 3, 4)), training=False))
    with pytest.raises(LoweringError, match="computed from the input"):
        lower(module, (torch.randn(VIDEO),))
