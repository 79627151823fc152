"""Lowering: each operator against itself, whole models against themselves, and refusals by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from export.lowering import LoweringError, lower
from export.lowering.lower import to_frames
from recipes.teachers.diffusers_vae import build
from tests.conftest import TINY_VAE, Apply
from tests.export.lowering.check import VIDEO, ChannelLast, assert_lowers_exactly
from toolkit import students


@pytest.mark.slow
@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv3d(6, 4, 3),
        nn.Conv3d(6, 4, 3, padding=1),
        nn.Conv3d(6, 4, 1),
        nn.Conv3d(6, 6, 5, padding=(0, 2, 2), groups=6),
        nn.Conv3d(6, 4, (3, 2, 1), stride=(2, 1, 3), padding=(1, 0, 0), groups=2),
        nn.Conv3d(6, 4, (2, 3, 3), dilation=(2, 2, 1), padding=(1, 2, 1), bias=False),
        nn.Conv3d(6, 4, (2, 4, 2), padding="same"),
        nn.Conv3d(6, 4, 3, padding="valid"),
    ],
    ids=repr,
)
def test_a_three_dimensional_convolution_becomes_two_dimensional_ones(convolution: nn.Conv3d) -> None:
    assert_lowers_exactly(convolution)


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.cat([x[:, :, :1]] * 2 + [x, x[:, :, -1:]], dim=2),
        lambda x: torch.cat([x, x * 2], dim=1),
        lambda x: x[:, 1:5:2, ::2, -3:],
        lambda x: torch.concatenate([x[:, :, :1].repeat(1, 1, 2, 1, 1), x], dim=2),
        lambda x: torch.concatenate([x[:, :, :1].repeat(1, 1, 0, 1, 1), x], dim=2),
        lambda x: x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-6),
        lambda x: x - x.mean(dim=(2, 3, 4), keepdim=True),
        lambda x: x.amax(dim=2, keepdim=True) + x,
        lambda x: F.relu(x) + 0.5 * torch.tanh(x).clamp(-0.3, 0.3),
        lambda x: x.movedim(1, -1).mean(-1, keepdim=True).movedim(-1, 1) * x,
        lambda x: x.transpose(3, 4) * x.mean(dim=1, keepdim=True).transpose(3, 4),
        lambda x: F.pixel_shuffle(x[:, :4].transpose(1, 2), 2).transpose(1, 2),
        lambda x: F.avg_pool2d(x.transpose(1, 2).flatten(0, 1), 2).unflatten(0, (1, 5)).transpose(1, 2),
        lambda x: x.to(torch.float64).mul(2).to(torch.float32),
        lambda x: x.mean(dim=(2, 3, 4)),
    ],
)
def test_operators_between_convolutions_keep_their_numbers(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert_lowers_exactly(Apply(function))


@pytest.mark.parametrize("norm", [nn.LayerNorm(6), nn.LayerNorm((12, 6), elementwise_affine=False)], ids=repr)
def test_layer_norms_over_the_last_dimensions_keep_their_numbers(norm: nn.Module) -> None:
    assert_lowers_exactly(
        ChannelLast(norm) if norm.normalized_shape == (6,) else Apply(lambda x: norm(x.movedim(1, -1)))
    )


def test_a_single_frame_lowers_too() -> None:
    assert_lowers_exactly(nn.Conv3d(6, 4, (1, 3, 3), padding=(0, 1, 1)), (1, 6, 1, 8, 12))


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        {"widths": [16, 16, 16]},
        {"widths": [24, 16, 64], "tail": "staged", "separable": [True, False, False]},
        {"widths": [16, 8, 16], "patch": 1, "strides": [(1, 2), (4, 2)], "keep_first_frames": True},
        {"separable_transitions": False, "widths": [8, 8, 8], "depthwise_kernel": 5},
    ],
    ids=["demo", "staged tail", "patch 1", "dense transitions"],
)
def test_every_form_of_the_student_lowers_exactly(overrides: dict[str, object]) -> None:
    student = students.build("turbo_vaed", "demo", {"latent_channels": 4, **overrides})
    assert_lowers_exactly(student, (1, 4, 3, 5, 6))


@pytest.mark.slow
def test_the_teachers_decoder_from_diffusers_lowers_exactly() -> None:
    assert_lowers_exactly(build("AutoencoderKLLTXVideo", TINY_VAE).decoder, (1, 4, 3, 4, 6))


def test_weights_are_split_ahead_and_only_used_ones_are_kept() -> None:
    lowered = lower(nn.Conv3d(6, 4, 3), (torch.randn(VIDEO),))
    assert sorted(tuple(p.shape) for p in lowered.parameters()) == [(4,), (4, 6, 3, 3), (4, 6, 3, 3), (4, 6, 3, 3)]
    program = torch.export.export(lowered, (to_frames(torch.randn(VIDEO)),))
    assert not any("select" in str(node.target) for node in program.graph.nodes)


def test_the_signature_says_which_tensors_are_frames() -> None:
    lowered = lower(Apply(lambda x: x.mean(dim=(2, 3, 4))), (torch.randn(VIDEO),))
    assert [(spec.shape, spec.frames) for spec in lowered.inputs] == [((5, 6, 8, 12), True)]
    assert [(spec.shape, spec.frames) for spec in lowered.outputs] == [((1, 6), False)]


class InPlace(nn.Module):
    """Writes into a tensor that is used again."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(6, 6, 1)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.convolution(x)
        z = self.activation(y.transpose(1, 2))
        return y.mul_(2) + z.transpose(1, 2)


@pytest.mark.slow
def test_in_place_operators_change_what_they_would_change_in_pytorch() -> None:
    assert_lowers_exactly(InPlace())


class Scaled(nn.Module):
    """Parameters of rank 5 and 4 that broadcast, and one convolution used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(1, 6, 1, 1, 1))
        self.register_buffer("shift", torch.randn(6, 1, 1, 12))
        self.convolution = nn.Conv3d(6, 6, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolution(self.convolution(x * self.scale + self.shift))


def test_parameters_broadcast_and_shared_layers_keep_their_weights() -> None:
    assert_lowers_exactly(Scaled())


class Inner(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svdvals(x)[..., None] + x


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.ReLU(), Inner())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stage(x)


def test_an_unknown_operator_is_refused_with_its_name_layer_shapes_source_and_remedy() -> None:
    with pytest.raises(LoweringError) as caught:
        lower(Outer(), (torch.randn(VIDEO),))
    message = str(caught.value)
    for part in ("aten.linalg_svdvals.default", "'stage.1'", "[1, 6, 5, 8, 12]", "test_lower.py", "add a handler"):
        assert part in message


def test_inputs_of_another_shape_are_refused_with_both_shapes() -> None:
    lowered = lower(nn.Conv3d(6, 4, 3, padding=1), (torch.randn(VIDEO),))
    with pytest.raises(LoweringError, match=r"\[5, 6, 8, 12\], not \[5, 6, 12, 8\]"):
        lowered(torch.randn(5, 6, 12, 8))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.add_(1)
        return x * self.calls


def test_a_module_that_changes_its_own_buffers_is_refused() -> None:
    with pytest.raises(LoweringError, match="outlives the call"):
        lower(Counting(), (torch.randn(VIDEO),))


def test_a_weight_computed_from_the_input_is_refused() -> None:
    module = Apply(lambda x: F.conv3d(x, x[:, :, :1, :1, :1].reshape(1, 6, 1, 1, 1)))
    with pytest.raises(LoweringError, match="computed from the input"):
        lower(module, (torch.randn(VIDEO),))


def test_a_mean_in_another_precision_keeps_it() -> None:
    lowered = lower(Apply(lambda x: x.mean(1, keepdim=True, dtype=torch.float64)), (torch.randn(VIDEO),))
    assert lowered(torch.randn(5, 6, 8, 12)).dtype == torch.float64


def test_a_batch_of_videos_is_refused() -> None:
    with pytest.raises(LoweringError, match="batch 1"):
        lower(nn.ReLU(), (torch.randn(2, 3, 4, 5, 6),))


def test_a_result_of_higher_rank_is_refused() -> None:
    with pytest.raises(LoweringError, match="rank 4"):
        lower(Apply(lambda x: x.reshape(1, 2, 3, 5, 8, 12) + 1), (torch.randn(VIDEO),))


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(LoweringError, match="folded"):
        lower(nn.ReLU(), (torch.randn(VIDEO),), layout="sideways")
