"""Several processes, on one node or several: the gradients, samples, scores and bits of one process."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.conftest import RecipeWriter, tiny_recipe
from tests.recipes.test_trainer import with_adversary

#: The command line in a script, so that each process that a launcher starts takes up the same patch of it.
SCRIPT = """
import os, signal, sys
from pathlib import Path

def note(text):
    rank = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
    with open(Path(__file__).with_name("notes.txt"), "a") as file:
        file.write(rank + " " + text + chr(10))

{patch}
from toolkit.cli.main import main
main(sys.argv[1:])
"""

#: Ends the first process by {signal} after step {step}; without a word where that is SIGKILL.
STOP = """
from recipes.rundir import RunDirectory
log = RunDirectory.log

def log_and_stop(self, row):
    log(self, row)
    if row["step"] == {step}:
        os.kill(os.getpid(), signal.{signal})

RunDirectory.log = log_and_stop
"""

#: Notes each clip that is scored, by its sum, and the PSNR that a validation gives.
NOTE_SCORES = """
from recipes import evaluate
score, validate = evaluate.score, evaluate.HeldOutClips.validate

def noted_score(decoded, clip):
    note(f"scored {clip.double().sum():.6f}")
    return score(decoded, clip)

def noted_validate(*arguments):
    found = validate(*arguments)
    note(f"validated {found.figures['psnr_db']!r}")
    return found

evaluate.score, evaluate.HeldOutClips.validate = noted_score, noted_validate
"""

#: Notes each sample that is drawn, behind the first: that one is looked at before training.
NOTE_SAMPLES = """
from recipes.data.clips import Clips
draw, drawn = Clips.__getitem__, []

def noted(self, number):
    if drawn:
        note(f"drew {number}")
    drawn.append(number)
    return draw(self, number)

Clips.__getitem__ = noted
"""


def start(folder: Path, patch: str, *arguments: str | Path, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """The script in a session of its own."""
    script = folder / "train.py"
    script.write_text(SCRIPT.replace("{patch}", patch))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, *launcher, str(script), *map(str, arguments)],
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, output and errors; no process of the session is left."""
    try:
        output, errors = process.communicate(timeout=300)
        return process.returncode, output, errors
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def distil(folder: Path, recipe: Path, run: Path, *options: str, patch: str = "") -> tuple[int, str, str]:
    return ended(start(folder, patch, "distill", recipe, "--output", run, *options))


def notes(folder: Path, word: str) -> list[tuple[str, str]]:
    """What was noted under this word: ranks and values. The file is emptied."""
    path = folder / "notes.txt"
    rows = [line.split() for line in path.read_text().splitlines()]
    path.unlink()
    return [(rank, value) for rank, kind, value in rows if kind == word]


def on_two(recipe: dict[str, Any]) -> None:
    recipe["trainer"]["devices"] = 2


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one_with_the_joint_batch(
    write_recipe: RecipeWriter, tmp_path: Path
) -> None:
    gradients, losses = {}, {}
    for devices, batch in ((1, 2), (2, 1)):

        def change(recipe: dict[str, Any], devices: int = devices, batch: int = batch) -> None:
            recipe["objective"]["features"] = []
            recipe["phases"] = [{"steps": 1, "lr": 1e-3}]
            recipe["trainer"].update(batch=batch, accumulate=2, devices=devices, clip_grad=None)

        run = tmp_path / f"run{devices}"
        assert distil(tmp_path, write_recipe(change), run)[0] == 0
        state = torch.load(run / "checkpoints" / "last.pt")["optimizer"]["state"]
        gradients[devices] = [entry["exp_avg"] for entry in state.values()]  # a share of the only gradient so far
        losses[devices] = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["reconstruction"]
    for one, two in zip(gradients[1], gradients[2], strict=True):
        assert one.abs().max() > 0
        assert (one - two).abs().max() <= 1e-5 * one.abs().max()
    assert losses[2] == pytest.approx(losses[1], rel=1e-5)


def adversarial_on_two(clip: Path, teacher: Path, path: Path) -> Path:
    """A recipe of both kinds of phases for two processes."""
    recipe = tiny_recipe(clip, teacher)
    with_adversary(recipe)
    on_two(recipe)
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, clip_file: Path, teacher_folder: Path) -> Path:
    """A run by two processes that nothing interrupted. Read only."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = adversarial_on_two(clip_file, teacher_folder, folder / "recipe.yaml")
    assert distil(folder, recipe, folder / "run")[0] == 0
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 5], ids=["in the first phase", "in the adversarial phase"])
def test_two_processes_resume_to_the_same_bits(
    step: int, whole: Path, clip_file: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    path, killed = adversarial_on_two(clip_file, teacher_folder, tmp_path / "recipe.yaml"), tmp_path / "killed"
    assert distil(tmp_path, path, killed, patch=STOP.format(step=step, signal="SIGKILL"))[0] == -signal.SIGKILL
    assert not (killed / "student.safetensors").exists()
    assert distil(tmp_path, path, killed, "--resume")[0] == 0
    assert (killed / "student.safetensors").read_bytes() == (whole / "student.safetensors").read_bytes()
    assert (killed / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_held_out_clips_are_scored_once_whatever_the_number_of_processes(
    write_recipe: RecipeWriter, tmp_path: Path
) -> None:
    def three_clips(recipe: dict[str, Any]) -> None:
        recipe["data"]["validation"]["range"] = [5, 20]
        recipe["phases"][0]["steps"] = 3

    path, run = write_recipe(three_clips), tmp_path / "run"
    files = [run / "evaluation.json", run / "samples.safetensors"]
    assert distil(tmp_path, path, run)[0] == 0
    alone = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    code, output, _ = distil(tmp_path, path, run, "--resume", "--set", "trainer.devices=2", patch=NOTE_SCORES)
    assert code == 0
    scored = notes(tmp_path, "scored")
    assert Counter(rank for rank, _ in scored) == {"0": 4, "1": 2}  # teacher and student of two clips and of one
    assert list(Counter(clip for _, clip in scored).values()) == [2, 2, 2]
    assert [file.read_bytes() for file in files] == alone
    assert output.count("held-out") == output.count("run: ") == 1


@pytest.mark.slow
def test_all_processes_know_the_same_best_score_and_more_of_them_than_clips_is_well(
    write_recipe: RecipeWriter, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert distil(tmp_path, write_recipe(on_two), run, patch=NOTE_SCORES)[0] == 0
    validated = notes(tmp_path, "validated")
    first, second = ([value for rank, value in validated if rank == which] for which in "01")
    assert len(first) == 2
    assert first == second
    assert torch.load(run / "checkpoints" / "best.pt")["best_score"] == max(map(float, first))
    assert json.loads((run / "evaluation.json").read_text())["clips"] == 1


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_and_one_alone_goes_on_with_the_next_samples(
    write_recipe: RecipeWriter, tmp_path: Path
) -> None:
    path, run = write_recipe(on_two), tmp_path / "run"
    code, _, errors = distil(tmp_path, path, run, patch=STOP.format(step=3, signal="SIGTERM") + NOTE_SAMPLES)
    assert code == 130, errors
    assert [line for line in errors.splitlines() if "stopped and saved at step 3" in line] == errors.splitlines()[-1:]
    before = notes(tmp_path, "drew")
    assert [int(number) for rank, number in before if rank == "0"] == list(range(0, 12, 2))
    assert [int(number) for rank, number in before if rank == "1"] == list(range(1, 12, 2))
    resumed = distil(tmp_path, path, run, "--resume", "--set", "trainer.devices=1", patch=NOTE_SAMPLES)
    assert resumed[0] == 0, resumed
    assert [int(number) for _, number in notes(tmp_path, "drew")] == list(range(12, 18))


@pytest.mark.slow
def test_a_fault_of_one_process_ends_both_with_one_line(write_recipe: RecipeWriter, tmp_path: Path) -> None:
    patch = """
from recipes.data.clips import Clips
from toolkit.errors import UserError
draw = Clips.__getitem__

def broken(self, number):
    if number == 5:
        raise UserError("a.mp4: breaks; copy it again")
    return draw(self, number)

Clips.__getitem__ = broken
"""
    code, output, errors = distil(tmp_path, write_recipe(on_two), tmp_path / "run", "-q", patch=patch)
    assert (code, output) == (2, "")
    assert errors.splitlines()[-1] == "handheld: a.mp4: breaks; copy it again"
    assert "Traceback" not in errors
    assert errors.count("handheld:") == 1


def on_nodes(folder: Path, *arguments: str | Path, second: tuple[str | Path, ...] = ()) -> list[tuple[int, str, str]]:
    """Two nodes on this host, each with one process, started by torchrun: how each of them ended.

    The `second` one has these arguments, which override the first's, beside them.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = []
    for rank in "01":
        launcher = ("-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", rank, "--nproc-per-node", "1")
        meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1")
        more = second if rank == "1" else ()
        nodes.append(start(folder, "", *arguments, *more, launcher=launcher + meeting))
    return [ended(node) for node in nodes]


@pytest.mark.slow
def test_two_nodes_by_torchrun_give_the_bits_of_two_processes_on_one(
    write_recipe: RecipeWriter, tmp_path: Path
) -> None:
    path, one, two = write_recipe(), tmp_path / "one", tmp_path / "two"
    assert distil(tmp_path, path, one, "--set", "trainer.devices=2")[0] == 0
    nodes = on_nodes(tmp_path, "distill", path, "--output", two, "-q")
    assert [code for code, _, _ in nodes] == [0, 0], nodes
    assert (two / "student.safetensors").read_bytes() == (one / "student.safetensors").read_bytes()
    assert (two / "metrics.jsonl").read_text() == (one / "metrics.jsonl").read_text()
    assert sorted(output.count("held-out") for _, output, _ in nodes) == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("both", "second", "reason"),
    [
        ([], [], "a run is there already"),
        (
            ["--resume"],
            ["--output", "elsewhere"],
            "last.pt: not seen by all nodes; name an --output on a file system they share",
        ),
        (["--resume"], ["--set", "trainer.seed=9"], "the processes were given different recipes"),
    ],
    ids=["a run is there", "no shared folder", "other recipes"],
)
def test_nodes_that_cannot_begin_are_refused_in_one_line(
    write_recipe: RecipeWriter, finished_run: Path, tmp_path: Path, both: list[str], second: list[str], reason: str
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    given = [str(tmp_path / option) if option == "elsewhere" else option for option in second]
    nodes = on_nodes(tmp_path, "distill", write_recipe(), "--output", run, *both, second=tuple(given))
    assert all(code != 0 for code, _, _ in nodes)
    errors = "".join(errors for _, _, errors in nodes)
    assert errors.count("handheld:") == errors.count(reason) == 1, errors
    assert (run / "student.safetensors").read_bytes() == (finished_run / "student.safetensors").read_bytes()


@pytest.mark.slow
def test_torchrun_and_the_recipe_must_name_the_same_number(write_recipe: RecipeWriter, tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "1")
    process = start(tmp_path, "", "distill", write_recipe(on_two), "--output", tmp_path / "run", launcher=launcher)
    code, _, errors = ended(process)
    assert code != 0
    assert "torchrun started 1 processes on this node, the recipe says 2" in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_recomputed_activations_leave_the_bits_of_two_processes(
    whole: Path, clip_file: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    path, run = adversarial_on_two(clip_file, teacher_folder, tmp_path / "recipe.yaml"), tmp_path / "recomputed"
    assert distil(tmp_path, path, run, "--set", "trainer.checkpoint_activations=true")[0] == 0
    assert (run / "student.safetensors").read_bytes() == (whole / "student.safetensors").read_bytes()
