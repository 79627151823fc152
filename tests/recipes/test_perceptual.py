"""LPIPS and SSIM as losses: refused at the start without weights, zero for the truth, with a gradient elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import recipes
from recipes import perceptual
from recipes.perceptual import check_size, perceptual_distance, structural_similarity
from tests.conftest import RecipeWriter
from toolkit.errors import UserError

VIDEO = torch.rand(1, 3, 2, 40, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


class MeanDifference(nn.Module):
    """A stand-in for the network: a distance a frame."""

    def forward(self, ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        return (ours - theirs).abs().mean(dim=(1, 2, 3))


@pytest.mark.parametrize("net", ["vgg", "alex", "squeeze"])
def test_without_weights_the_recipe_is_refused_before_its_first_step(
    write_recipe: RecipeWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: str
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    path = write_recipe(lambda r: r["objective"].update(perceptual={"net": net}))
    with pytest.raises(UserError, match=rf"objective.perceptual: .*{net}.*curl .* --set objective.perceptual=null"):
        recipes.distill(recipes.load_recipe(path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_distances_are_taken_frame_by_frame_and_reach_values_out_of_range() -> None:
    decoded = (VIDEO * 1.5).requires_grad_()
    distance = perceptual_distance(MeanDifference(), decoded, VIDEO)
    torch.testing.assert_close(distance, (decoded - VIDEO).abs().mean())
    distance.backward()
    assert decoded.grad is not None
    assert (decoded.grad != 0).all()


def test_frames_too_small_for_the_network_are_refused() -> None:
    with pytest.raises(UserError, match="frames of 16x48 are too small for LPIPS"):
        check_size(16, 48)
    check_size(31, 48)


def test_ssim_is_one_for_the_truth_and_has_a_gradient_elsewhere() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert structural_similarity(VIDEO, VIDEO).item() == pytest.approx(1)
    decoded = (VIDEO * 0.5).requires_grad_()
    similarity = structural_similarity(decoded, VIDEO)
    assert 0 < similarity.item() < 1
    similarity.backward()
    assert decoded.grad is not None
    assert decoded.grad.abs().max() > 0


@pytest.mark.slow
def test_all_losses_are_logged_by_name(
    write_recipe: RecipeWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perceptual, "network_missing", lambda _net: None)
    monkeypatch.setattr(perceptual, "lpips_network", lambda _net: MeanDifference())

    def change(recipe: dict) -> None:
        recipe["objective"].update(perceptual={"net": "vgg", "weight": 0.5}, ssim={"weight": 0.2})
        recipe["data"]["train"]["size"] = [40, 40]
        recipe["phases"][0]["steps"] = 1

    recipes.distill(recipes.load_recipe(write_recipe(change)), tmp_path / "run")
    first = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0]
    assert all(f'"{name}"' in first for name in ("reconstruction", "perceptual", "ssim", "features"))
