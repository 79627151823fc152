"""What a finished run delivers: a student with its latents' statistics, or a folder that a teacher loads from."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save
from torch import nn

from recipes.rundir import RunDirectory
from recipes.schema import AutoencoderSpec, Recipe
from recipes.teachers.diffusers_vae import DiffusersVAE
from toolkit import students
from toolkit.files import atomic_directory, write_atomic
from toolkit.latents import LATENT_FILE

TEACHER_FOLDER = "teacher"


def save_result(run: RunDirectory, recipe: Recipe, student: nn.Module, vae: DiffusersVAE) -> None:
    """Write a student, which decodes the latents of `vae`, or for an autoencoder the folder `teacher/` for diffusers.

    A student is `student.json` + `student.safetensors`, and beside them `latent.json`, the statistics of its latents;
    an autoencoder has these in its own configuration.
    """
    if isinstance(recipe.student, AutoencoderSpec):
        assert isinstance(student, DiffusersVAE)
        _save_teacher(run, recipe.student.class_name, student)
    else:
        assert isinstance(student, students.Student)
        write_atomic(run.path / LATENT_FILE, vae.latent_statistics.model_dump_json(indent=2) + "\n")
        students.save(student, run.path)


def _save_teacher(run: RunDirectory, class_name: str, vae: DiffusersVAE) -> None:
    config = {"_class_name": class_name, **{k: v for k, v in vae.vae.config.items() if not k.startswith("_")}}
    weights = {name: value.to(torch.float16).contiguous() for name, value in vae.vae.state_dict().items()}
    with atomic_directory(run.path / TEACHER_FOLDER) as folder:
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (folder / "diffusion_pytorch_model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
