"""Activation checkpointing: fewer bytes held for the backward pass, the same losses, gradients and names."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import recipes
from recipes import objectives
from recipes.adversarial import Discriminator, Judged
from recipes.data.latents import Batch
from recipes.objectives import build_task
from recipes.recompute import recompute_activations
from recipes.task import Task
from tests.conftest import TINY_VAE, RecipeWriter
from tests.recipes.test_trainer import with_adversary
from toolkit.errors import UserError

VIDEO = torch.rand(2, 3, 5, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Distance(nn.Module):
    """A stand-in for LPIPS: distances of pictures by the features of a few layers."""

    def __init__(self) -> None:
        super().__init__()
        layers = [layer for _ in range(4) for layer in (nn.Conv2d(3, 3, 3, padding=1), nn.Tanh())]
        self.layers = nn.Sequential(*layers).requires_grad_(False)

    def forward(self, ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        return (self.layers(ours) - self.layers(theirs)).square().mean(dim=(1, 2, 3), keepdim=True)


class Pass(NamedTuple):
    losses: dict[str, float]
    gradients: dict[str, torch.Tensor]
    held: int


def run(task: Task, adversarial: bool = False, half: bool = False) -> Pass:
    """Forward and backward; `held` counts the bytes of tensors that the forward pass kept for the backward one."""
    held: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)
    judge = Discriminator(2, 1).requires_grad_(False)
    judged = Judged(lambda video: -judge(video).mean(), 0.5) if adversarial else None
    task.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses = task(Batch(VIDEO), judged)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
    kept = sum(held.values())
    total.backward()
    gradients = {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}
    return Pass({name: float(loss.detach()) for name, loss in losses.items()}, gradients, kept)


def assert_same(ours: Pass, theirs: Pass) -> None:
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-6)
    assert ours.gradients.keys() == theirs.gradients.keys()
    for name, gradient in ours.gradients.items():
        torch.testing.assert_close(gradient, theirs.gradients[name], rtol=1e-6, atol=1e-6)


def deep(recipe: dict[str, Any]) -> None:
    recipe["student"].update(layers=[3, 3, 6])


@pytest.mark.slow
@pytest.mark.parametrize("tap", ["up_blocks.1", "up_blocks.1.resnets.0", "up_blocks.1.resnets.0.conv1"])
@pytest.mark.parametrize("adversarial", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_gradients_are_the_same_from_a_fraction_of_the_memory(
    write_recipe: RecipeWriter, tap: str, adversarial: bool, half: bool
) -> None:
    recipe = recipes.load_recipe(write_recipe(deep), [f"objective.features.0.student={tap}"])
    torch.manual_seed(0)
    task = build_task(recipe)
    names = list(task.state_dict())
    kept = run(task, adversarial, half)
    task.zero_grad()
    recompute_activations(task)
    recomputed = run(task, adversarial, half)
    assert_same(recomputed, kept)
    assert list(task.state_dict()) == names
    assert "features" in kept.losses
    assert ("adversarial" in kept.losses) == adversarial
    assert recomputed.held < 0.5 * kept.held


def test_the_lpips_network_is_recomputed_a_few_frames_at_a_time(
    write_recipe: RecipeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objectives, "perceptual_network", lambda _net: Distance())
    recipe = recipes.load_recipe(write_recipe(lambda r: r["objective"].update(perceptual={"net": "vgg"}, features=[])))
    torch.manual_seed(0)
    task = build_task(recipe)
    kept = run(task)
    task.zero_grad()
    recompute_activations(task)
    sizes: list[int] = []
    task.lpips.layers[0].register_forward_hook(lambda _m, inputs, _o: sizes.append(len(inputs[0])))  # type: ignore
    recomputed = run(task)
    assert_same(recomputed, kept)
    assert recomputed.held < 0.5 * kept.held
    assert max(sizes) < 10 < sum(sizes)


def test_a_vae_that_is_trained_whole_uses_the_recomputation_of_diffusers(write_recipe: RecipeWriter) -> None:
    def autoencoder(recipe: dict[str, Any]) -> None:
        del recipe["teacher"]
        recipe["student"] = {"kind": "diffusers_vae", "class": "AutoencoderKLLTXVideo", "config": TINY_VAE}
        recipe["objective"] = {"autoencoder": {"loss": "l1"}}

    torch.manual_seed(0)
    task = build_task(recipes.load_recipe(write_recipe(autoencoder)))
    kept = run(task)
    task.zero_grad()
    recompute_activations(task)
    recomputed = run(task)
    assert_same(recomputed, kept)
    assert recomputed.held < 0.5 * kept.held


def test_a_vae_without_recomputation_is_refused(write_recipe: RecipeWriter) -> None:
    def wan(recipe: dict[str, Any]) -> None:
        del recipe["teacher"]
        config = {"base_dim": 8, "z_dim": 4, "num_res_blocks": 1}
        recipe["student"] = {"kind": "diffusers_vae", "class": "AutoencoderKLWan", "config": config}
        recipe["objective"] = {"autoencoder": {"loss": "l1"}}

    task = build_task(recipes.load_recipe(write_recipe(wan)))
    with pytest.raises(UserError, match=r"checkpoint_activations: diffusers\.AutoencoderKLWan .* set it to false"):
        recompute_activations(task)


@pytest.mark.slow
def test_a_run_learns_the_same_and_may_change_over_when_resumed(write_recipe: RecipeWriter, tmp_path: Path) -> None:
    path = write_recipe(with_adversary)
    recipe = recipes.load_recipe(path)
    saving = recipes.load_recipe(path, ["trainer.checkpoint_activations=true"])
    recipes.distill(recipe, tmp_path / "kept")
    recipes.distill(saving, tmp_path / "saving")
    ours, theirs = (load_file(tmp_path / name / "student.safetensors") for name in ("saving", "kept"))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    recipes.distill(recipe, tmp_path / "saving", resume=True)
