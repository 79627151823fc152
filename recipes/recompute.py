"""Activation checkpointing: of the blocks of what learns only inputs are kept, and the backward pass computes the rest
once more. Gradients stay the same. Nothing in these blocks draws random numbers, so no generator's state is kept.

Source: Training Deep Nets with Sublinear Memory Cost (arXiv 1604.06174).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from recipes.objectives import DistillationTask
from recipes.task import Task
from recipes.teachers.diffusers_vae import DiffusersVAE
from toolkit.errors import UserError
from toolkit.students.turbo_vaed import ResidualBlock, Upsampler2d, Upsampler3d

BLOCKS = (ResidualBlock, Upsampler3d, Upsampler2d)

#: LPIPS recomputes as many frames at a time, so that its activations of no more of them are ever held.
FRAMES = 4

_recomputed = functools.partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


def recompute_activations(task: Task) -> None:
    """From now on recompute the student's blocks and the LPIPS network in the backward pass.

    Names of weights stay, and so do forward hooks: those on a recomputed block itself are not called again. Raises
    `UserError` for a diffusers class that does not offer it.
    """
    if isinstance(task.student, DiffusersVAE):
        _recompute_vae(task.student)
    for block in task.student.modules():
        if isinstance(block, BLOCKS):
            _replace_forward(block, functools.partial(_recomputed, block.forward))
    if isinstance(task, DistillationTask) and task.lpips is not None:
        _replace_forward(task.lpips, functools.partial(_by_frames, task.lpips.forward))


def _replace_forward(module: nn.Module, forward: Any) -> None:
    """On the instance, behind its hooks: a module around it would change the names of its weights."""
    module.forward = forward  # type: ignore[method-assign]


def _by_frames(network: Any, ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Distances of two batches of images `(N, 3, H, W)`, `FRAMES` of them at a time."""
    pieces = zip(ours.split(FRAMES), theirs.split(FRAMES), strict=True)
    return torch.cat([_recomputed(network, a, b) for a, b in pieces])


def _recompute_vae(vae: DiffusersVAE) -> None:
    try:
        vae.vae.enable_gradient_checkpointing()
    except ValueError as error:
        name = type(vae.vae).__name__
        raise UserError(
            f"trainer.checkpoint_activations: diffusers.{name} does not offer it; set it to false"
        ) from error
