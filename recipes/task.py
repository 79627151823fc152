"""What the trainer needs of any recipe: a student that learns, samples to learn from, and data to score it on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import nn

from recipes.adversarial import Judged
from recipes.data.samples import Samples
from recipes.quantization import QuantizationAwareness
from toolkit.evaluation import AnyEvaluation

Losses = dict[str, torch.Tensor]


class Task(nn.Module):
    """A student and its losses. The trainer wraps the whole task, so that gradients synchronise across processes."""

    student: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.awareness: QuantizationAwareness | None = None

    @abstractmethod
    def forward(self, batch: Any, judged: Judged | None = None) -> Losses:
        """Weighted losses of a batch as `batch` makes it; their sum is minimised.

        With `judged`, one of them is the adversarial loss of what the student makes.
        """

    @abstractmethod
    def save(self, run: Path, student: nn.Module) -> None:
        """Write what a run delivers: `student`, which is this task's or its average."""

    def batch(self, collated: Any) -> Any:
        """What `forward` takes, of samples that torch's default collation put together."""
        return collated

    def pair(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The truth of a batch and what the student makes of it, for a discriminator to tell apart."""
        raise NotImplementedError(f"{type(self).__name__} has no adversarial phase")

    def fault(self, batch: Any) -> str | None:
        """What, beside training itself, makes losses of this batch that are not finite; None where nothing does."""
        return None

    def trainable_state(self) -> dict[str, torch.Tensor]:
        """Everything that learns, by name: the student, heads that only training needs, and ranges for int8."""
        learns = {name for name, p in self.named_parameters() if p.requires_grad}
        buffers = {name for name, _ in self.named_buffers() if name.startswith(("student.", "awareness."))}
        return {name: value for name, value in self.state_dict().items() if name in learns | buffers}


@dataclass(frozen=True)
class Validation:
    """Held-out figures during training: by name for the log, in words, and as one score, the higher the better.

    `picture` writes a PNG; only the first process has one.
    """

    figures: dict[str, float]
    text: str
    score: float
    picture: Callable[[Path], None] | None


class HeldOut(Protocol):
    """Data that never trains, of which each process holds its share; the figures are those of all shares together."""

    def validate(self, fabric: Fabric, student: nn.Module) -> Validation:
        """How good the student is at this moment."""

    def evaluate(self, fabric: Fabric, student: nn.Module) -> tuple[AnyEvaluation, dict[str, torch.Tensor]]:
        """How good it is at the end, and tensors of a few samples, which only the first process gets."""


@dataclass(frozen=True)
class Work:
    """All that a recipe asks for, loaded and checked; `samples` are those of each phase."""

    task: Task
    samples: list[Samples]
    held_out: HeldOut
