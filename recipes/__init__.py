"""Distillation: recipe files, teachers, data, objectives, the trainer and evaluation.

`recipes.distill` trains; `recipes.load_recipe` reads a recipe; `recipes.load_teacher` gives a run's frozen teacher.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "distill": "recipes.trainer",
    "load_recipe": "recipes.schema",
    "load_teacher": "recipes.teachers.diffusers_vae",
    "read_recipe": "recipes.rundir",
}
__all__ = ["distill", "load_recipe", "load_teacher", "read_recipe"]


def __getattr__(name: str) -> Any:  # importing the trainer takes seconds, reading a recipe must not
    if name not in _PUBLIC:
        raise AttributeError(f"module 'recipes' has no attribute '{name}'")
    return getattr(import_module(_PUBLIC[name]), name)
