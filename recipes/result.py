"""What a finished run delivers: a student file, or a folder that a teacher loads from."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save
from torch import nn

from recipes.rundir import RunDirectory
from recipes.schema import AutoencoderSpec, Recipe
from recipes.teachers.diffusers_vae import DiffusersVAE
from toolkit import students
from toolkit.files import atomic_directory

TEACHER_FOLDER = "teacher"


def save_result(run: RunDirectory, recipe: Recipe, student: nn.Module) -> None:
    """Write `student.json` + `student.safetensors`, or for an autoencoder the folder `teacher/` for diffusers."""
    if isinstance(recipe.student, AutoencoderSpec):
        assert isinstance(student, DiffusersVAE)
        _save_teacher(run, recipe.student.class_name, student)
    else:
        assert isinstance(student, students.Student)
        students.save(student, run.path)


def _save_teacher(run: RunDirectory, class_name: str, vae: DiffusersVAE) -> None:
    config = {"_class_name": class_name, **{k: v for k, v in vae.vae.config.items() if not k.startswith("_")}}
    weights = {name: value.to(torch.float16).contiguous() for name, value in vae.vae.state_dict().items()}
    with atomic_directory(run.path / TEACHER_FOLDER) as folder:
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (folder / "diffusion_pytorch_model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
