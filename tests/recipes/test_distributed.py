"""Several processes: the gradients of one process with the joint batch, and resuming to the same bits."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import RecipeWriter
from tests.recipes.test_trainer import with_adversary

#: Trains as its arguments say, and where the third is not 0 ends the first process without a word after that step.
SCRIPT = """
import os, signal, sys
from pathlib import Path
import recipes
from recipes.rundir import RunDirectory

log, last = RunDirectory.log, int(sys.argv[3])

def log_or_die(self, row):
    log(self, row)
    if row["step"] == last:
        os.kill(os.getpid(), signal.SIGKILL)

RunDirectory.log = log_or_die
recipes.distill(recipes.load_recipe(sys.argv[1]), Path(sys.argv[2]), resume=True)
"""


def train(folder: Path, recipe: Path, run: Path, killed_after: int = 0) -> int:
    """The exit code of a training in a session of its own, none of whose processes is left."""
    script = folder / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(recipe), str(run), str(killed_after)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        return process.wait(timeout=300)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one_with_the_joint_batch(
    write_recipe: RecipeWriter, tmp_path: Path
) -> None:
    gradients = {}
    for devices, batch in ((1, 2), (2, 1)):

        def change(recipe: dict[str, Any], devices: int = devices, batch: int = batch) -> None:
            recipe["objective"]["features"] = []
            recipe["phases"] = [{"steps": 1, "lr": 1e-3}]
            recipe["trainer"].update(batch=batch, accumulate=2, devices=devices, clip_grad=None)

        run = tmp_path / f"run{devices}"
        assert train(tmp_path, write_recipe(change), run) == 0
        state = torch.load(run / "checkpoints" / "last.pt")["optimizer"]["state"]
        gradients[devices] = [entry["exp_avg"] for entry in state.values()]  # a share of the only gradient so far
    for one, two in zip(gradients[1], gradients[2], strict=True):
        assert one.abs().max() > 0
        assert (one - two).abs().max() <= 1e-5 * one.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("change", [lambda _recipe: None, with_adversary], ids=["one phase", "adversarial phase"])
def test_two_processes_resume_to_the_same_bits(
    write_recipe: RecipeWriter, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    def on_two(recipe: dict[str, Any]) -> None:
        change(recipe)
        recipe["trainer"]["devices"] = 2

    path, whole, killed = write_recipe(on_two), tmp_path / "whole", tmp_path / "killed"
    assert train(tmp_path, path, whole) == 0
    assert train(tmp_path, path, killed, killed_after=5) != 0
    assert not (killed / "student.safetensors").exists()
    assert train(tmp_path, path, killed) == 0
    assert (killed / "student.safetensors").read_bytes() == (whole / "student.safetensors").read_bytes()
    assert (killed / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
