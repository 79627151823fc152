"""The adversarial phase's parts: scores of patches, the hinge loss, the adapted weight."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recipes.adversarial import Discriminator, Judge, Judged, adapted_weight


class Constant(nn.Module):
    """Scores true videos (positive) by one number, decoded ones (negative) by another."""

    def __init__(self, real: float, fake: float) -> None:
        super().__init__()
        self.real, self.fake = real, fake

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return torch.full((1, 1, 1, 2, 2), self.real if video.mean() > 0 else self.fake)


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_patches_are_scored_one_by_one_whatever_the_length_of_the_clip(frames: int) -> None:
    scores = Discriminator(width=8, layers=3)(torch.randn(2, 3, frames, 32, 48))
    assert scores.shape[:2] == (2, 1)
    assert scores.shape[3:] == (4, 6)


@pytest.mark.parametrize(
    ("real", "fake", "loss", "accuracy"),
    [(1.0, -1.0, 0.0, 1.0), (3.0, -2.0, 0.0, 1.0), (0.0, 0.0, 1.0, 0.0), (-1.0, 1.0, 2.0, 0.0), (0.5, 0.5, 1.0, 0.5)],
)
def test_the_hinge_loss_and_the_accuracy_are_those_of_their_definitions(
    real: float, fake: float, loss: float, accuracy: float
) -> None:
    judge = Judge(Constant(real, fake))  # type: ignore[arg-type]
    video = torch.ones(1, 3, 2, 4, 4)
    found, right = judge(video, -video)
    assert found.item() == pytest.approx(loss)
    assert right.item() == pytest.approx(accuracy)


def test_the_weight_brings_one_gradient_to_the_size_of_the_other() -> None:
    last = nn.Parameter(torch.tensor([1.0, -2.0]))
    reconstruction, score = (10 * last).sum(), (0.1 * last).sum()
    assert adapted_weight(reconstruction, score, last).item() == pytest.approx(100, rel=0.01)
    judged = Judged(lambda video: 0.1 * video.sum(), weight=0.5)
    (gradient,) = torch.autograd.grad(judged.loss(last, reconstruction, last), last)
    assert gradient.norm().item() == pytest.approx(0.5 * (10 * torch.ones(2)).norm().item(), rel=0.01)


def test_a_score_without_gradient_keeps_a_finite_weight() -> None:
    last = nn.Parameter(torch.ones(2))
    assert torch.isfinite(adapted_weight(last.sum(), (0 * last).sum(), last))
