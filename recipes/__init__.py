"""Distillation: recipe files, teachers, data, objectives, the trainer and evaluation.

`recipes.distill` trains; `recipes.encode` encodes its clips ahead; `recipes.evaluate_run` sets a run's student beside
its teacher, `recipes.evaluate_flow` one of optical flow; `recipes.load_recipe` reads a recipe; `recipes.load_teacher`
gives a run's frozen teacher.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "distill": "recipes.trainer",
    "encode": "recipes.encoding",
    "evaluate_flow": "recipes.flow_side_by_side",
    "evaluate_run": "recipes.side_by_side",
    "load_recipe": "recipes.schema",
    "load_teacher": "recipes.teachers.diffusers_vae",
    "read_recipe": "recipes.rundir",
    "read_skipped": "recipes.data.library",
}
__all__ = [
    "distill",
    "encode",
    "evaluate_flow",
    "evaluate_run",
    "load_recipe",
    "load_teacher",
    "read_recipe",
    "read_skipped",
]


def __getattr__(name: str) -> Any:  # importing the trainer takes seconds, reading a recipe must not
    if name not in _PUBLIC:
        raise AttributeError(f"module 'recipes' has no attribute '{name}'")
    return getattr(import_module(_PUBLIC[name]), name)
