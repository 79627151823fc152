"""What a finished run delivers: a student with its latents' statistics, or a folder that a teacher loads from."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save

from recipes.teachers.diffusers_vae import DiffusersVAE
from toolkit import students
from toolkit.files import atomic_directory, write_atomic
from toolkit.latents import LATENT_FILE, LatentStatistics

TEACHER_FOLDER = "teacher"


def save_decoder(run: Path, student: students.Student, statistics: LatentStatistics) -> None:
    """Write `student.json` and `student.safetensors`, and in `latent.json` the statistics of the latents it decodes."""
    write_atomic(run / LATENT_FILE, statistics.model_dump_json(indent=2) + "\n")
    students.save(student, run)


def save_teacher(run: Path, vae: DiffusersVAE) -> None:
    """Write the folder `teacher/`, as diffusers loads it; its configuration has the statistics of its latents."""
    fields = {key: value for key, value in vae.vae.config.items() if not key.startswith("_")}
    config = {"_class_name": type(vae.vae).__name__, **fields}
    weights = {name: value.to(torch.float16).contiguous() for name, value in vae.vae.state_dict().items()}
    with atomic_directory(run / TEACHER_FOLDER) as folder:
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (folder / "diffusion_pytorch_model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
