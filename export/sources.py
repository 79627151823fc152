"""What can be exported: a PyTorch module with a real example of its input."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from toolkit import students
from toolkit.errors import UserError
from toolkit.evaluation import Evaluation, read_evaluation
from toolkit.schema import read_yaml

MAX_ELEMENTS = 2**28  # of a latent: 1 GB in fp32


@dataclass(frozen=True)
class Source:
    """A video decoder to export: latent `(1, C, T, h, w)` in, video `(1, 3, T', H, W)` in [-1, 1] out."""

    name: str
    module: nn.Module
    latent: torch.Tensor
    role: Literal["student", "teacher"]
    class_name: str
    config: dict[str, Any] = field(default_factory=dict)
    quality: Evaluation | None = None
    recipe: Path | None = None


def from_run(run: Path) -> Source:
    """The student of a run directory; raises `UserError` where `run` is none or not finished."""
    if not (run / "recipe.yaml").is_file():
        raise UserError(f"{run}: no run directory; make one with `handheld distill`")
    student = students.load(run)
    return Source(
        name=run_name(run),
        module=student,
        latent=sample_latent(run),
        role="student",
        class_name=f"toolkit.students.{student.kind}",
        config=student.config.model_dump(mode="json"),
        quality=read_evaluation(run),
        recipe=run / "recipe.yaml",
    )


def run_name(run: Path) -> str:
    """The recipe's name as the run recorded it."""
    recipe = read_yaml(run / "recipe.yaml")
    if not isinstance(recipe, dict) or "name" not in recipe:
        raise UserError(f"{run / 'recipe.yaml'}: names no recipe; the file is damaged")
    return str(recipe["name"])


def sample_latent(run: Path) -> torch.Tensor:
    """A held-out latent `(1, C, T, h, w)` of the run; raises `UserError` if the run kept none."""
    path = run / "samples.safetensors"
    try:
        latent: torch.Tensor = load_file(path)["latent.0"]
    except (OSError, KeyError, SafetensorError) as error:
        raise UserError(f"{path}: no held-out sample to export with; finish the run with `handheld distill`") from error
    return latent


def fit(latent: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """The latent repeated and cropped to (T, h, w): real values at any size."""
    if latent.shape[1] * math.prod(shape) > MAX_ELEMENTS:
        raise UserError(f"a latent of {'x'.join(map(str, shape))} is larger than any memory; name a smaller --shape")
    repeats = [-(-wanted // have) for wanted, have in zip(shape, latent.shape[2:], strict=True)]
    time, height, width = shape
    return latent.repeat(1, 1, *repeats)[:, :, :time, :height, :width].contiguous()
