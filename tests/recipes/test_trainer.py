"""The trainer: schedules, resuming bit for bit, what a run leaves behind."""

from __future__ import annotations

import copy
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import recipes
from recipes import adversarial
from recipes.rundir import RunDirectory
from recipes.schema import PhaseSpec
from recipes.trainer import Interrupted, learning_rate
from tests.conftest import LATENT_MEAN, LATENT_STD, RecipeWriter
from toolkit import students
from toolkit.errors import CheckFailed, UserError
from toolkit.latents import LatentStatistics, read_statistics

KILLED_AT_STEP = """
import os, signal, sys
from pathlib import Path
import recipes
from recipes.rundir import RunDirectory

log = RunDirectory.log

def log_or_die(self, row):
    log(self, row)
    if row["step"] == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

RunDirectory.log = log_or_die
recipes.distill(recipes.load_recipe(sys.argv[1]), Path(sys.argv[2]))
"""


def test_the_rate_warms_up_falls_along_a_cosine_and_starts_anew_in_each_phase() -> None:
    phases = [PhaseSpec(steps=10, lr=1.0, final_lr=0.2, warmup=2), PhaseSpec(steps=5, lr=0.1)]
    assert learning_rate(phases, 0) == pytest.approx(0.5)
    assert learning_rate(phases, 2) == pytest.approx(1.0)
    assert learning_rate(phases, 6) == pytest.approx(0.6)
    assert learning_rate(phases, 10) == learning_rate(phases, 14) == pytest.approx(0.1)


def test_a_finished_run_holds_all_that_the_next_stages_read(finished_run: Path) -> None:
    run = RunDirectory(finished_run)
    evaluation = json.loads(run.evaluation.read_text())
    assert evaluation["frames"] == 5
    assert evaluation["student_params"] == sum(p.numel() for p in students.load(finished_run).parameters())
    tensors = load_file(run.sample_tensors)
    assert tensors["latent.0"].shape[1] == 4
    assert {"truth.0", "teacher.0", "student.0"} <= set(tensors)
    assert sorted(path.name for path in run.samples.iterdir()) == ["step_0000003.png", "step_0000006.png"]
    assert run.last.is_file()
    assert run.best.is_file()
    assert list((finished_run / "tensorboard").iterdir())
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [row["step"] for row in rows if "lr" in row] == [1, 2, 3, 4, 5, 6]
    assert {"reconstruction", "features"} <= set(rows[0])


def test_a_finished_run_says_what_its_latents_are_normalised_by(finished_run: Path) -> None:
    expected = LatentStatistics(mean=LATENT_MEAN, std=LATENT_STD, origin="AutoencoderKLLTXVideo")
    assert read_statistics(finished_run) == expected


def test_resuming_a_finished_run_writes_statistics_that_it_lacks(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / "latent.json").unlink()
    recipes.distill(recipes.load_recipe(run / "recipe.yaml"), run, resume=True)
    assert read_statistics(run) == read_statistics(finished_run)


def test_statistics_that_are_none_are_refused_before_a_run_begins(
    write_recipe: RecipeWriter, teacher_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(teacher_folder, tmp_path / "teacher")
    weights = folder / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(weights), "latents_std": torch.zeros(4)}, weights, metadata={"format": "pt"})
    path = write_recipe(lambda r: r["teacher"].update(weights=str(folder)))
    with pytest.raises(UserError, match=r"statistics of its latents: std\.0: .*greater than 0"):
        recipes.distill(recipes.load_recipe(path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_scores_are_those_of_the_saved_student(finished_run: Path) -> None:
    tensors = load_file(finished_run / "samples.safetensors")
    student = students.load(finished_run)
    with torch.no_grad():
        decoded = student(tensors["latent.0"])[0]
    assert torch.allclose(decoded, tensors["student.0"].float(), atol=2e-3)
    error = ((decoded.clamp(-1, 1) - tensors["truth.0"].float()) ** 2).mean(dim=(0, 2, 3))
    psnr = (10 * torch.log10(4 / error)).mean().item()
    assert json.loads((finished_run / "evaluation.json").read_text())["student"]["psnr_db"] == pytest.approx(
        psnr, abs=0.05
    )


@pytest.mark.slow
def test_training_lowers_the_loss(write_recipe: RecipeWriter, tmp_path: Path) -> None:
    path = write_recipe(lambda r: (r["phases"][0].update(steps=60, lr=5e-3), r["trainer"].update(validate_every=60)))
    recipes.distill(recipes.load_recipe(path), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["reconstruction"] for row in rows if "reconstruction" in row]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def with_adversary(recipe: dict[str, Any]) -> None:
    """Three steps of pixels, then six in which student and discriminator take turns."""
    recipe["phases"] = [
        {"steps": 3, "lr": 1e-3},
        {"steps": 6, "lr": 5e-4, "adversarial": {"width": 8, "layers": 2, "weight": 0.1, "lr": 1e-3}},
    ]


def with_quantization(recipe: dict[str, Any]) -> None:
    """Three steps in fp32, then six with the rounding of int8."""
    recipe["phases"] = [{"steps": 3, "lr": 1e-3}, {"steps": 6, "lr": 5e-4, "quantization": "int8"}]


@pytest.mark.slow
def test_a_quantization_aware_phase_learns_otherwise_and_leaves_a_student_like_any_other(
    write_recipe: RecipeWriter, tmp_path: Path
) -> None:
    def in_fp32(recipe: dict[str, Any]) -> None:
        with_quantization(recipe)
        del recipe["phases"][1]["quantization"]

    for name, change in (("int8", with_quantization), ("fp32", in_fp32)):
        recipes.distill(recipes.load_recipe(write_recipe(change)), tmp_path / name)
    aware, plain = (load_file(tmp_path / name / "student.safetensors") for name in ("int8", "fp32"))
    assert aware.keys() == plain.keys()
    assert any(not torch.equal(aware[name], plain[name]) for name in plain)
    logs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("int8", "fp32")]
    losses = [{row["step"]: row["reconstruction"] for row in map(json.loads, log) if "lr" in row} for log in logs]
    assert [step for step in losses[0] if losses[0][step] != losses[1][step]] == [4, 5, 6, 7, 8, 9]
    tensors = load_file(tmp_path / "int8" / "samples.safetensors")
    with torch.no_grad():  # held-out samples are of the weights as they are, in fp32
        decoded = students.load(tmp_path / "int8")(tensors["latent.0"])[0]
    assert torch.allclose(decoded, tensors["student.0"].float(), atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [lambda _recipe: None, with_adversary, with_quantization],
    ids=["one phase", "adversarial phase", "quantization-aware phase"],
)
def test_a_run_killed_by_sigkill_resumes_to_the_same_bits(
    write_recipe: RecipeWriter, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    path = write_recipe(change)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    recipes.distill(recipes.load_recipe(path), whole)
    command = [sys.executable, "-c", KILLED_AT_STEP, str(path), str(killed), "5"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as in this process
    result = subprocess.run(command, capture_output=True, cwd=Path(__file__).parents[2], env=environment, timeout=300)
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()
    assert not (killed / "student.safetensors").exists()
    assert torch.load(killed / "checkpoints" / "last.pt")["step"] == 4
    recipes.distill(recipes.load_recipe(path), killed, resume=True)
    assert (killed / "student.safetensors").read_bytes() == (whole / "student.safetensors").read_bytes()
    assert (killed / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    assert (
        torch.load(killed / "checkpoints" / "last.pt")["best_score"]
        == torch.load(whole / "checkpoints" / "last.pt")["best_score"]
    )


@pytest.mark.slow
def test_student_and_discriminator_learn_in_turn_and_the_accuracy_is_logged(
    write_recipe: RecipeWriter, tmp_path: Path
) -> None:
    recipe = recipes.load_recipe(
        write_recipe(with_adversary), ["trainer.checkpoint_every=1", "trainer.validate_every=9"]
    )
    kept: list[dict[str, Any]] = []
    save = RunDirectory.save_checkpoint

    def keep(self: RunDirectory, path: Path, state: dict[str, Any]) -> None:
        if path == self.last:
            kept.append(copy.deepcopy({"student": state["task"], "discriminator": state["adversary"]["discriminator"]}))
        save(self, path, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "save_checkpoint", keep)
        recipes.distill(recipe, tmp_path / "run")

    def changed(step: int, part: str) -> bool:
        return any(not torch.equal(kept[step][part][name], kept[step - 1][part][name]) for name in kept[0][part])

    assert [changed(step, "student") for step in range(3, 9)] == [True, False] * 3
    assert [changed(step, "discriminator") for step in range(1, 9)] == [False] * 3 + [True, False] * 2 + [True]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    accuracies = [row["discriminator_accuracy"] for row in rows if "discriminator_accuracy" in row]
    assert len(accuracies) == 3
    assert all(0 <= accuracy <= 1 for accuracy in accuracies)
    assert sum("adversarial" in row for row in rows) == 3


@pytest.mark.slow
def test_a_discriminator_that_is_always_right_stops_the_run_with_advice(
    write_recipe: RecipeWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adversarial, "SATURATED", 0.0)
    monkeypatch.setattr(adversarial, "WINDOW", 2)
    recipe = recipes.load_recipe(write_recipe(with_adversary))
    with pytest.raises(CheckFailed, match=r"discriminator told .* Lower phases\.\*\.adversarial\.lr"):
        recipes.distill(recipe, tmp_path / "run")


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(
    write_recipe: RecipeWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipes.load_recipe(write_recipe())
    log = RunDirectory.log

    def interrupt_at_step_3(self: RunDirectory, row: dict[str, float | int]) -> None:
        log(self, row)
        if row["step"] == 3 and "lr" in row:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "log", interrupt_at_step_3)
        with pytest.raises(Interrupted, match=r"saved at step 3; go on with .*--resume"):
            recipes.distill(recipe, tmp_path / "run")
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.pt")["step"] == 3
    recipes.distill(recipe, tmp_path / "run", resume=True)
    recipes.distill(recipe, tmp_path / "whole")
    assert (tmp_path / "run" / "student.safetensors").read_bytes() == (
        tmp_path / "whole" / "student.safetensors"
    ).read_bytes()


def test_the_average_follows_its_formula(write_recipe: RecipeWriter, tmp_path: Path) -> None:
    recipe = recipes.load_recipe(write_recipe(), ["phases.0.steps=2", "trainer.ema=0.75", "trainer.checkpoint_every=1"])
    kept: list[dict[str, torch.Tensor]] = []
    save = RunDirectory.save_checkpoint

    def keep(self: RunDirectory, path: Path, state: dict[str, dict[str, torch.Tensor]]) -> None:
        if path == self.last:
            kept.append({name: value.clone() for name, value in state["task"].items()})
        save(self, path, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "save_checkpoint", keep)
        recipes.distill(recipe, tmp_path / "run")
    name = "student.conv_in.conv.weight"
    expected = 0.75 * kept[0][name] + 0.25 * kept[1][name]
    result = load_file(tmp_path / "run" / "student.safetensors")["conv_in.conv.weight"]
    assert torch.allclose(result, expected, atol=1e-7)


def test_a_run_that_is_there_is_not_overwritten(write_recipe: RecipeWriter, finished_run: Path) -> None:
    with pytest.raises(UserError, match="add --resume"):
        recipes.distill(recipes.load_recipe(write_recipe()), finished_run)


def test_a_run_is_not_resumed_with_another_recipe(write_recipe: RecipeWriter, finished_run: Path) -> None:
    with pytest.raises(UserError, match="another recipe"):
        recipes.distill(recipes.load_recipe(write_recipe(), ["trainer.seed=9"]), finished_run, resume=True)


def test_a_run_is_resumed_with_other_workers_and_devices(
    write_recipe: RecipeWriter, finished_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    recipe = recipes.load_recipe(write_recipe(), ["trainer.workers=1", "trainer.devices=1"])
    assert recipe.trainer != recipes.read_recipe(run).trainer
    evaluation = recipes.distill(recipe, run, resume=True)
    assert evaluation.model_dump() == json.loads((finished_run / "evaluation.json").read_text())


def test_a_folder_that_is_no_run_is_left_alone(write_recipe: RecipeWriter, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="no run"):
        recipes.distill(recipes.load_recipe(write_recipe()), folder)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_a_damaged_checkpoint_is_refused_by_name(write_recipe: RecipeWriter, tmp_path: Path) -> None:
    recipe = recipes.load_recipe(write_recipe())
    run = RunDirectory(tmp_path / "run")
    run.open(recipe, resume=False)
    run.last.parent.mkdir()
    run.last.write_bytes(b"half a checkpoint")
    with pytest.raises(UserError, match=r"last\.pt: damaged checkpoint"):
        recipes.distill(recipe, run.path, resume=True)


def test_a_diverging_run_stops_and_names_the_remedy(write_recipe: RecipeWriter, tmp_path: Path) -> None:
    path = write_recipe(lambda r: (r["phases"][0].update(steps=40, lr=1e30), r["trainer"].update(clip_grad=None)))
    with pytest.raises(CheckFailed, match=r"diverged at step \d+ .*lower phases"):
        recipes.distill(recipes.load_recipe(path), tmp_path / "run")
    assert not (tmp_path / "run" / "student.safetensors").exists()


def test_a_teacher_that_gives_no_numbers_is_named(
    write_recipe: RecipeWriter, teacher_folder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(teacher_folder, broken)
    weights = load_file(broken / "diffusion_pytorch_model.safetensors")
    weights["encoder.conv_in.conv.bias"].fill_(float("nan"))
    save_file(weights, broken / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    path = write_recipe(lambda r: r["teacher"].update(weights=str(broken)))
    with pytest.raises(
        CheckFailed, match=r"stopped at step 1: the teacher's latent .* not finite: check teacher\.weights"
    ):
        recipes.distill(recipes.load_recipe(path), tmp_path / "run")


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_the_checkpoint_before(
    write_recipe: RecipeWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipes.load_recipe(write_recipe())
    log = RunDirectory.log

    def no_space(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:

        def fill_at_step_4(self: RunDirectory, row: dict[str, float | int]) -> None:
            log(self, row)
            if row["step"] == 4:
                patch.setattr(os, "fsync", no_space)

        patch.setattr(RunDirectory, "log", fill_at_step_4)
        with pytest.raises(OSError, match="No space left"):
            recipes.distill(recipe, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    assert torch.load(checkpoints / "last.pt")["step"] == 2
    assert not [path for path in checkpoints.iterdir() if path.name.startswith(".")]
    recipes.distill(recipe, tmp_path / "run", resume=True)
    recipes.distill(recipe, tmp_path / "whole")
    ours, theirs = (tmp_path / name / "student.safetensors" for name in ("run", "whole"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_student_that_cannot_decode_the_latents_is_refused(write_recipe: RecipeWriter, tmp_path: Path) -> None:
    path = write_recipe(lambda r: r["student"].update(latent_channels=5))
    with pytest.raises(UserError, match="latents of 5 channels"):
        recipes.distill(recipes.load_recipe(path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_autoencoder_run_delivers_a_folder_that_a_teacher_loads_from(
    write_recipe: RecipeWriter, tmp_path: Path
) -> None:
    from recipes.schema import TeacherSpec
    from recipes.teachers import diffusers_vae
    from tests.conftest import TINY_VAE

    def autoencoder(recipe: dict) -> None:
        del recipe["teacher"]
        recipe["student"] = {"kind": "diffusers_vae", "class": "AutoencoderKLLTXVideo", "config": TINY_VAE}
        recipe["objective"] = {"autoencoder": {"loss": "l1"}}
        recipe["phases"][0]["steps"] = 2

    recipes.distill(recipes.load_recipe(write_recipe(autoencoder)), tmp_path / "run")
    spec = TeacherSpec.model_validate(
        {"kind": "diffusers_vae", "class": "AutoencoderKLLTXVideo", "weights": str(tmp_path / "run" / "teacher")}
    )
    assert diffusers_vae.load(spec).latent_channels == 4
