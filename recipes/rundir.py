"""The run directory: what distillation leaves behind, and the only thing that export needs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import save

from recipes.schema import Recipe, load_recipe
from toolkit.errors import UserError
from toolkit.evaluation import EVALUATION_FILE, AnyEvaluation
from toolkit.files import write_atomic

#: What every checkpoint has; one of a run with an adversarial phase has its adversary too.
STATE = {"task", "average", "optimizer", "precision", "step", "samples", "best_score"}

#: What of `trainer` says where and in how much memory to train, not what: a run may be resumed with others.
PLACE = {"checkpoint_activations", "devices", "workers"}


class RunDirectory:
    """Paths and atomic writes of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.yaml"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples"
        self.sample_tensors = path / "samples.safetensors"
        self.evaluation = path / EVALUATION_FILE
        self.last = path / "checkpoints" / "last.pt"
        self.best = path / "checkpoints" / "best.pt"

    def open(self, recipe: Recipe, resume: bool) -> None:
        """Create the run, or check that it may be resumed with this recipe, whatever its `PLACE`."""
        text = recipe.to_yaml()
        if not self.recipe.exists():
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise UserError(f"{self.path}: exists and is no run; name another --output")
            write_atomic(self.recipe, text)
            return
        if not resume:
            raise UserError(f"{self.path}: a run is there already; add --resume to go on, or name another --output")
        if _without_place(load_recipe(self.recipe)) != _without_place(recipe):
            raise UserError(
                f"{self.recipe}: the run was started with another recipe; resume it with that one unchanged (only "
                f"trainer.{', trainer.'.join(sorted(PLACE))} may differ)"
            )

    def save_checkpoint(self, path: Path, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()  # torch's own writer turns a full disk into an unreadable RuntimeError
        torch.save(state, buffer)
        write_atomic(path, buffer.getvalue())

    def load_checkpoint(self, path: Path) -> dict[str, Any] | None:
        """The checkpoint, or None if there is none yet; raises `UserError` if it is damaged."""
        if not path.exists():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, ValueError, KeyError, OSError, UnpicklingError) as error:
            raise UserError(f"{path}: damaged checkpoint; delete it to start the run anew") from error
        if not isinstance(state, dict) or not state.keys() >= STATE:
            raise UserError(f"{path}: no checkpoint of this release; delete it to start the run anew")
        return state

    def truncate_metrics(self, step: int) -> None:
        """Drop what was logged after `step`, and a line cut off by a full disk: the run will log it again."""
        if self.metrics.exists():
            whole = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            try:
                rows = [line for line in whole if line.endswith("\n") and json.loads(line)["step"] <= step]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{self.metrics}: damaged; delete the file to go on without its history") from error
            write_atomic(self.metrics, "".join(rows))

    def log(self, row: dict[str, float | int]) -> None:
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def save_evaluation(self, evaluation: AnyEvaluation) -> None:
        write_atomic(self.evaluation, evaluation.model_dump_json(indent=2) + "\n")

    def save_samples(self, tensors: dict[str, torch.Tensor]) -> None:
        write_atomic(self.sample_tensors, save({k: v.contiguous() for k, v in tensors.items()}))


def _without_place(recipe: Recipe) -> dict[str, Any]:
    fields = recipe.model_dump()
    fields["trainer"] = {key: value for key, value in fields["trainer"].items() if key not in PLACE}
    return fields


def read_recipe(run: Path) -> Recipe:
    """The recipe that a run was made with; raises `UserError` where `run` is no run directory."""
    path = run / "recipe.yaml"
    if not path.is_file():
        raise UserError(f"{run}: no run directory (recipe.yaml is missing); make one with `handheld distill`")
    return load_recipe(path)
