"""Feature alignment: taps by dotted name, heads that fit, errors relative to the teacher."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recipes.alignment import Alignment, relative_mse, tapped
from recipes.schema import FeatureSpec
from toolkit.errors import UserError


def test_taps_hold_the_named_outputs_and_leave_no_hook_behind() -> None:
    network = nn.Sequential(nn.Conv3d(2, 3, 1), nn.ReLU())
    x = torch.randn(1, 2, 2, 4, 4)
    with tapped(network, ["0"]) as features:
        network(x)
    assert torch.equal(features["0"], network[0](x))
    assert not network[0]._forward_hooks


def test_outputs_of_a_block_called_several_times_are_joined_in_time() -> None:
    network = nn.Sequential(nn.Conv3d(2, 3, 1))
    x = torch.randn(2, 2, 5, 4, 4)
    with tapped(network, ["0"]) as features:
        for part in x.split(2, dim=2):
            network(part)
    assert torch.equal(features["0"], network(x))


def test_a_block_that_gives_a_tuple_is_known_by_the_first_of_it() -> None:
    class Cached(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
            return 2 * x, None

    x = torch.randn(1, 2, 2, 4, 4)
    block = Cached()
    with tapped(nn.ModuleDict({"block": block}), ["block"]) as features:
        block(x)
    assert torch.equal(features["block"], 2 * x)


def test_a_block_whose_outputs_are_no_parts_of_one_video_is_refused() -> None:
    network = nn.Sequential(nn.ReLU())
    parts = [torch.zeros(1, 2, 2, 4, 4), torch.zeros(1, 3, 2, 4, 4)]
    with pytest.raises(UserError, match="name the block around it"), tapped(network, ["0"]):
        _ = [network(part) for part in parts]
    assert not network[0]._forward_hooks


def test_an_unknown_block_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"no block 'mid'.*Known: 0"), tapped(nn.Sequential(nn.ReLU()), ["mid"]):
        pass


def test_the_relative_error_of_zeros_is_one_at_any_scale() -> None:
    target = torch.randn(2, 3, 4)
    for scale in (1e-2, 1.0, 1e3):
        assert relative_mse(torch.zeros_like(target), scale * target) == pytest.approx(1.0, rel=1e-5)


def test_blocks_of_resolutions_without_a_whole_factor_are_refused_with_both_sizes() -> None:
    pair = FeatureSpec(student="a", teacher="b")
    with pytest.raises(UserError, match=r"student a does not fit teacher b \(4x4 does not become 6x6"):
        Alignment([pair], {"a": torch.zeros(1, 2, 2, 4, 4)}, {"b": torch.zeros(1, 2, 2, 6, 6)})


def test_a_teacher_that_has_upsampled_already_is_met_on_its_own_grid() -> None:
    pair = FeatureSpec(student="a", teacher="b")
    ours, theirs = torch.randn(1, 2, 2, 4, 4), torch.randn(1, 3, 3, 8, 8)
    alignment = Alignment([pair], {"a": ours}, {"b": theirs})
    assert torch.isfinite(alignment({"a": ours}, {"b": theirs}))


def test_a_list_of_blocks_is_refused_since_it_is_never_called() -> None:
    pair = FeatureSpec(student="up_blocks", teacher="b")
    with pytest.raises(UserError, match=r"'up_blocks' gives no feature of images.*up_blocks\.0"):
        Alignment([pair], {}, {"b": torch.zeros(1, 2, 2, 4, 4)})


def test_heads_carry_the_students_width_to_the_teachers() -> None:
    pair = FeatureSpec(student="a", teacher="b", weight=2.0)
    ours, theirs = torch.randn(1, 2, 2, 4, 4), torch.randn(1, 5, 2, 4, 4)
    alignment = Alignment([pair], {"a": ours}, {"b": theirs})
    head = alignment.heads[0]
    expected = 2.0 * ((head(ours) - theirs) ** 2).mean() / (theirs**2).mean()
    assert alignment({"a": ours}, {"b": theirs}).item() == pytest.approx(expected.item(), rel=1e-5)
