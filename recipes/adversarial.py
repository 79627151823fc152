"""An adversarial phase: a 3-D PatchGAN judges the student's videos, in turn with the student's own steps.

Source: Turbo-VAED (arXiv 2508.09136), its second stage: hinge loss, a weight adapted to the reconstruction's gradient,
student and discriminator on alternate steps. Group norm replaces its batch norm, whose statistics of one or two clips
tell true from decoded by themselves, which is how users saw its discriminator's loss go to zero.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.nn import functional as F

from recipes.schema import AdversarialSpec
from toolkit.errors import CheckFailed

#: A discriminator that has been right this often, on average over so many of its steps, has nothing more to teach.
SATURATED, WINDOW = 0.98, 200
LARGEST_WEIGHT = 1e4
SCALE = 2.0**12  # of losses whose gradients alone are wanted


class Discriminator(nn.Module):
    """Scores of patches: `(B, 3, T, H, W)` to `(B, 1, t, h, w)`; space halves `layers` times, time once less."""

    def __init__(self, width: int = 64, layers: int = 3, groups: int = 8) -> None:
        super().__init__()
        widths = [min(width * 2**number, width * 8) for number in range(layers)]
        blocks: list[nn.Module] = [nn.Conv3d(3, widths[0], 3, stride=(1, 2, 2), padding=1), nn.LeakyReLU(0.2)]
        for before, here in itertools.pairwise(widths):
            blocks += [
                nn.Conv3d(before, here, 3, stride=2, padding=1, bias=False),
                nn.GroupNorm(math.gcd(groups, here), here),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*blocks, nn.Conv3d(widths[-1], 1, 3, padding=1))

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.layers(video)
        return scores


def adapted_weight(reconstruction: torch.Tensor, adversarial: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """The ratio of the two losses' gradients at the student's last weights, so that neither drowns the other.

    Source: VQGAN (arXiv 2012.09841), section 3.
    """
    wanted, given = (  # scaled, for in half precision small gradients would vanish
        torch.autograd.grad(SCALE * loss, last, retain_graph=True)[0].float().norm() / SCALE
        for loss in (reconstruction, adversarial)
    )
    return (wanted / (given + 1e-4)).clamp(0, LARGEST_WEIGHT).detach()


class Judged(NamedTuple):
    """What a student's step needs of an adversarial phase: a loss of its videos, and the weight of that loss."""

    score: Callable[[torch.Tensor], torch.Tensor]
    weight: float

    def loss(self, video: torch.Tensor, reconstruction: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """The weighted adversarial loss of decoded videos, its gradient brought to the pixel loss's at `last`."""
        score = self.score(video)
        return self.weight * adapted_weight(reconstruction, score, last) * score


class Judge(nn.Module):
    """The discriminator's own task: its loss and accuracy on true and decoded videos."""

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, real: torch.Tensor, fake: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The hinge loss, zero where true patches score above 1 and decoded ones below -1; the share told right."""
        real, fake = self.discriminator(real), self.discriminator(fake)
        loss = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
        right = 0.5 * ((real > 0).float().mean() + (fake < 0).float().mean())
        return loss, right.detach()


class Adversary:
    """The discriminator of a run under Fabric, its optimizer, and how often it was right of late.

    Where the precision `scales_losses`, infinite gradients are its scaler's to skip.
    """

    def __init__(self, fabric: Fabric, spec: AdversarialSpec, scales_losses: bool) -> None:
        self.fabric, self.scales_losses = fabric, scales_losses
        judge = Judge(Discriminator(spec.width, spec.layers))
        optimizer = torch.optim.AdamW(judge.parameters(), lr=spec.lr, betas=(0.5, 0.9))
        self.discriminator = judge.discriminator
        self.wrapped, self.optimizer = fabric.setup(judge, optimizer)
        self.recent: deque[float] = deque(maxlen=WINDOW)

    def score(self, video: torch.Tensor) -> torch.Tensor:
        """What the student lowers: minus the mean score of its patches; the discriminator learns nothing here."""
        self.discriminator.requires_grad_(False)
        return -self.discriminator(video).mean()

    def step(
        self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]], count: int, lr: float, number: int
    ) -> dict[str, float]:
        """One optimizer step on `count` pairs of true and decoded videos; returns the loss and the accuracy.

        Raises `CheckFailed` before anything is spoilt where loss or gradient are not finite, and with advice where a
        whole window of steps was told all but perfectly.
        """
        self.discriminator.requires_grad_(True)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        losses, rights = [], []
        for place, (real, fake) in enumerate(pairs):
            with self.fabric.no_backward_sync(self.wrapped, enabled=place + 1 < count):
                loss, right = self.wrapped(real, fake)
                self.fabric.backward(loss / count)
            losses.append(float(self.fabric.all_reduce(loss.detach())))  # type: ignore[arg-type]
            rights.append(float(self.fabric.all_reduce(right)))  # type: ignore[arg-type]
        norm = self.fabric.clip_gradients(self.wrapped, self.optimizer, max_norm=1.0, error_if_nonfinite=False)
        gradient_holds = norm is None or self.scales_losses or math.isfinite(float(norm))
        if not (gradient_holds and math.isfinite(sum(losses))):
            raise CheckFailed(f"the discriminator diverged at step {number}; lower phases.*.adversarial.lr")
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.recent.append(sum(rights) / len(rights))
        self._check(number)
        return {"discriminator": sum(losses) / len(losses), "discriminator_accuracy": self.recent[-1]}

    def _check(self, number: int) -> None:
        if len(self.recent) == WINDOW and sum(self.recent) / WINDOW >= SATURATED:
            raise CheckFailed(
                f"the discriminator told {sum(self.recent) / WINDOW:.1%} of all patches right in its last {WINDOW} "
                f"steps (step {number}): the student learns nothing more from it. Lower phases.*.adversarial.lr or "
                "make the phase before it longer, and name another --output"
            )

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "recent": list(self.recent),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.recent.extend(state["recent"])
