"""Turbo-VAED: shapes for every layout, the published parameter counts, and refused configurations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from toolkit.errors import UserError
from toolkit.schema import validate
from toolkit.students.turbo_vaed import FrameConv2d, Parts, ResidualBlock, TurboVAED, Upsampler2d, Upsampler3d
from toolkit.students.turbo_vaed_config import PRESETS, TurboVAEDConfig

LTX, HUNYUAN = (PRESETS[name].model_dump() for name in ("ltx", "hunyuan"))
TINY: dict[str, Any] = {
    "latent_channels": 2,
    "widths": (8, 4, 16),
    "layers": (1, 1, 1),
    "separable": (True, False, False),
    "strides": ((1, 1), (2, 2)),
    "depthwise_kernel": 3,
}
DENSE = Parts(TurboVAEDConfig(**TINY), 1, separable=False)
LAYOUTS = {
    "staged tail": TINY,
    "direct tail": {**TINY, "tail": "direct", "widths": (8, 4, 6)},
    "no patch": {**TINY, "patch": 1, "widths": (8, 4, 6)},
    "time twice": {**TINY, "patch": 1, "strides": ((2, 1), (2, 2))},
    "time by three": {**TINY, "patch": 1, "strides": ((3, 1), (1, 2))},
    "space alone": {**TINY, "patch": 1, "strides": ((1, 2), (1, 3))},
    "separable transitions": {**TINY, "separable_transitions": True, "depthwise_kernel": 5},
    "mobile": {
        **TINY,
        "tail": "direct",
        "separable": (True, True, True),
        "separable_transitions": True,
        "temporal_kernels": (3, 3, 1),
        "normed": (True, True, False),
        "activation": "relu",
        "temporal_padding": "causal",
    },
    "middle block alone": {**TINY, "patch": 1, "widths": (4,), "layers": (2,), "separable": (True,), "strides": ()},
}


@pytest.mark.parametrize(
    ("preset", "published"),
    [("ltx", 41_896_023), ("dc-ae", 45_831_383), ("hunyuan", 40_687_811), ("cogvideox", 40_687_811)],
)
def test_published_layouts_have_the_published_parameter_count(preset: str, published: int) -> None:
    with torch.device("meta"):
        student = TurboVAED(PRESETS[preset])
    assert sum(parameter.numel() for parameter in student.parameters()) == published


@pytest.mark.parametrize(
    ("layout", "temporal", "spatial"),
    [(LTX, 8, 32), (HUNYUAN, 4, 8), (TINY, 2, 8), (LAYOUTS["time by three"], 3, 2)],
    ids=["LTX", "Hunyuan", "tiny", "time by three"],
)
def test_factors_are_the_products_of_the_strides_and_the_patch(
    layout: dict[str, Any], temporal: int, spatial: int
) -> None:
    config = TurboVAEDConfig(**layout)
    assert (config.temporal_factor, config.spatial_factor) == (temporal, spatial)


@pytest.mark.parametrize("preset", ["mobile-m", "mobile-s"])
def test_mobile_layouts_decode_the_latents_of_ltx_and_look_back_only(preset: str) -> None:
    config = PRESETS[preset]
    assert (config.latent_channels, config.temporal_factor, config.spatial_factor) == (128, 8, 32)
    assert not [width for width in config.widths if width % 16]
    student = TurboVAED(config.model_copy(update={"widths": (16,) * 5}))
    latent = torch.randn(1, 128, 2, 2, 2, requires_grad=True)
    student(latent)[:, :, 0].sum().backward()
    assert latent.grad is not None
    assert (latent.grad[0].abs().amax(dim=(0, 2, 3)) > 0).tolist() == [True, False]


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("name", LAYOUTS)
def test_first_frame_stays_one_frame_and_each_further_one_becomes_as_many_as_the_factor(name: str, frames: int) -> None:
    config = TurboVAEDConfig(**LAYOUTS[name])
    video = TurboVAED(config)(torch.randn(2, 2, frames, 2, 3))
    space = config.spatial_factor
    assert video.shape == (2, 3, config.temporal_factor * (frames - 1) + 1, 2 * space, 3 * space)


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_frame_becomes_as_many_as_the_factor_where_the_first_ones_are_kept(name: str, frames: int) -> None:
    config = TurboVAEDConfig(**LAYOUTS[name], keep_first_frames=True)
    video = TurboVAED(config)(torch.randn(2, 2, frames, 2, 3))
    space = config.spatial_factor
    assert video.shape == (2, 3, config.temporal_factor * frames, 2 * space, 3 * space)


@pytest.mark.parametrize("layout", [LTX, HUNYUAN], ids=["LTX", "Hunyuan"])
def test_published_layouts_give_the_published_shapes(layout: dict[str, Any]) -> None:
    config = TurboVAEDConfig(**layout)
    with torch.device("meta"):
        video = TurboVAED(config)(torch.zeros(1, config.latent_channels, 3, 2, 4))
    factor, space = config.temporal_factor, config.spatial_factor
    assert video.shape == (1, 3, 2 * factor + 1, 2 * space, 4 * space)


def test_upsampler_drops_the_first_frames_not_the_last() -> None:
    torch.manual_seed(0)
    keeping = Upsampler3d(2, 3, 2, DENSE, keep_first_frames=True)
    dropping = Upsampler3d(2, 3, 2, DENSE, keep_first_frames=False)
    dropping.load_state_dict(keeping.state_dict())
    x = torch.randn(1, 2, 2, 3, 3)
    assert keeping(x).shape == (1, 2, 6, 6, 6)
    assert torch.equal(dropping(x), keeping(x)[:, :, 2:])


@pytest.mark.parametrize("block", [FrameConv2d(16, 8), Upsampler2d(16)], ids=["convolution", "upsampler"])
def test_two_dimensional_blocks_treat_every_frame_on_its_own(block: nn.Module) -> None:
    x = torch.randn(2, 16, 3, 4, 5)
    alone = torch.cat([block(x[:, :, t : t + 1]) for t in range(3)], dim=2)
    torch.testing.assert_close(block(x), alone)


def test_videos_of_a_batch_do_not_touch_each_other() -> None:
    torch.manual_seed(0)
    student = TurboVAED(TurboVAEDConfig(**TINY)).double()
    latent = torch.randn(2, 2, 2, 2, 2, dtype=torch.float64)
    alone = torch.cat([student(latent[:1]), student(latent[1:])])
    torch.testing.assert_close(student(latent), alone)


def test_every_frame_sees_its_neighbours_on_both_sides() -> None:
    torch.manual_seed(0)
    student = TurboVAED(TurboVAEDConfig(**LAYOUTS["no patch"]))
    latent = torch.randn(1, 2, 3, 2, 2, requires_grad=True)
    student(latent)[:, :, 2].sum().backward()
    assert latent.grad is not None
    assert (latent.grad[0, :, [0, 1, 2]].abs().amax(dim=(0, 2, 3)) > 0).all()


def test_residual_block_of_one_width_is_the_identity_where_its_last_convolution_is_zero() -> None:
    block = ResidualBlock(4, 4, DENSE)
    nn.init.zeros_(block.conv2.conv.weight)
    nn.init.zeros_(block.conv2.conv.bias)
    x = torch.randn(1, 4, 2, 3, 3)
    assert torch.equal(block(x), x)
    assert not any(name.startswith(("norm3", "conv_shortcut")) for name in block.state_dict())


def test_residual_block_that_changes_the_width_normalises_and_projects_its_shortcut() -> None:
    block = ResidualBlock(4, 6, DENSE)
    nn.init.zeros_(block.conv2.conv.weight)
    nn.init.zeros_(block.conv2.conv.bias)
    x = torch.randn(1, 4, 2, 3, 3)
    torch.testing.assert_close(block(x), block(x * 5 + 3), atol=1e-4, rtol=1e-4)
    assert block(x).shape == (1, 6, 2, 3, 3)
    assert block(x).abs().max() > 0


def test_every_parameter_takes_part() -> None:
    for layout in LAYOUTS.values():
        student = TurboVAED(TurboVAEDConfig(**layout))
        student(torch.randn(1, 2, 2, 2, 2)).square().sum().backward()
        assert [name for name, p in student.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    "change",
    [
        {"layers": (1, 1)},
        {"widths": (8, 4)},
        {"separable": (True,)},
        {"strides": ((1, 1), (2, 2), (2, 2))},
        {"strides": ()},
    ],
)
def test_refuses_lists_whose_lengths_disagree(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="one entry a stage, strides one less"):
        validate(TurboVAEDConfig, {**TINY, **change}, "recipe.yaml")


@pytest.mark.parametrize("change", [{"temporal_kernels": (3, 1)}, {"normed": (True,)}])
def test_refuses_options_that_are_not_one_a_stage(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="needs one a stage, 3"):
        validate(TurboVAEDConfig, {**TINY, **change}, "recipe.yaml")


def test_a_stage_without_temporal_kernels_sees_single_frames() -> None:
    config = TurboVAEDConfig(**{**TINY, "separable": (True,) * 3, "temporal_kernels": (1, 1, 1)})
    stage = TurboVAED(config).mid_block
    x = torch.randn(1, 8, 3, 4, 5)
    alone = torch.cat([stage(x[:, :, t : t + 1]) for t in range(3)], dim=2)
    torch.testing.assert_close(stage(x), alone)


def test_refuses_a_last_width_that_a_staged_tail_cannot_halve_twice() -> None:
    with pytest.raises(UserError, match="the last width, 24, must be a multiple of 16 with a staged tail"):
        validate(TurboVAEDConfig, {**TINY, "widths": (8, 4, 24)}, "recipe.yaml")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"widths": (8, 0, 16)}, "widths.1"),
        ({"layers": (1, 0, 1)}, "layers.1"),
        ({"strides": ((1, 1), (0, 2))}, "strides.1.0"),
        ({"depthwise_kernel": 4}, "depthwise_kernel"),
        ({"patch": 2}, "patch"),
        ({"tail": "none"}, "tail"),
    ],
)
def test_refuses_impossible_values_and_names_the_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(UserError, match=f"recipe.yaml: {field}: "):
        validate(TurboVAEDConfig, {**TINY, **change}, "recipe.yaml")
