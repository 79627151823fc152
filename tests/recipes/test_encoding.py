"""Clips encoded ahead: the training that they replace, going on, and what does not fit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import recipes
from recipes import encoding
from recipes.data.latents import Latents, shard_path
from recipes.schema import load_recipe
from recipes.trainer import Interrupted
from tests.conftest import RecipeWriter
from toolkit.errors import UserError

CLIPS = 12  # as many as the recipe's six steps of two micro-batches draw


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory, clip_file: Path, teacher_folder: Path) -> Path:
    from tests.conftest import tiny_recipe

    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe(clip_file, teacher_folder)))
    return path


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory, recipe_file: Path) -> Path:
    """Twelve clips in shards of five. Read only: copy it to change it."""
    folder = tmp_path_factory.mktemp("encoded") / "latents"
    recipes.encode(load_recipe(recipe_file), folder, CLIPS, clips_per_shard=5)
    return folder


def from_latents(write_recipe: RecipeWriter, folder: Path, **trainer: Any) -> recipes.schema.Recipe:
    def change(recipe: dict[str, Any]) -> None:
        recipe["data"]["train"] = {"kind": "latents", "path": str(folder)}
        recipe["trainer"].update(trainer)

    return load_recipe(write_recipe(change))


def test_a_training_on_encoded_clips_is_the_one_that_encodes_them_itself(
    write_recipe: RecipeWriter, encoded: Path, finished_run: Path, tmp_path: Path
) -> None:
    recipes.distill(from_latents(write_recipe, encoded), tmp_path / "run")
    for name in ("student.safetensors", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (finished_run / name).read_bytes()


@pytest.mark.slow
def test_readers_in_other_processes_change_nothing(
    write_recipe: RecipeWriter, encoded: Path, finished_run: Path, tmp_path: Path
) -> None:
    recipes.distill(from_latents(write_recipe, encoded, workers=2), tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (finished_run / "metrics.jsonl").read_bytes()


def test_the_shards_hold_all_clips_once(encoded: Path) -> None:
    shards = [load_file(path) for path in sorted(encoded.glob("*.safetensors"))]
    assert [len(shard) for shard in shards] == [10, 10, 4]
    videos = {name: value for shard in shards for name, value in shard.items() if name.startswith("video.")}
    assert sorted(videos) == sorted(f"video.{number}" for number in range(CLIPS))
    assert {(value.shape, value.dtype) for value in videos.values()} == {((5, 3, 32, 32), torch.uint8)}


def test_every_turn_gives_all_clips_in_an_order_of_its_own(encoded: Path) -> None:
    def turn(number: int) -> list[float]:
        clips = Latents(encoded)
        return [float(clips[n].latent.flatten()[0]) for n in range(number * CLIPS, (number + 1) * CLIPS)]  # type: ignore[union-attr]

    first, second, third = turn(0), turn(1), turn(2)
    assert sorted(first) == sorted(second) == sorted(third)
    assert first != second != third != first
    assert second == turn(1)


def test_going_on_makes_what_is_missing_or_broken_and_nothing_else(
    encoded: Path, recipe_file: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(encoded, tmp_path / "latents")
    shard_path(folder, 0).unlink()
    whole = shard_path(folder, 2).read_bytes()
    shard_path(folder, 2).write_bytes(whole[:-7])
    kept = shard_path(folder, 1).stat().st_mtime_ns
    with pytest.raises(UserError, match=r"shard 0 of 3 is missing; .*--resume"):
        Latents(folder)
    recipes.encode(load_recipe(recipe_file), folder, CLIPS, clips_per_shard=5, resume=True)
    for shard in range(3):
        assert shard_path(folder, shard).read_bytes() == shard_path(encoded, shard).read_bytes()
    assert shard_path(folder, 1).stat().st_mtime_ns == kept


def test_a_broken_shard_is_named(encoded: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(encoded, tmp_path / "latents")
    shard_path(folder, 1).write_bytes(shard_path(folder, 1).read_bytes()[:1000])
    with pytest.raises(UserError, match=r"latents-00001.safetensors: damaged; delete it"):
        Latents(folder)


def test_a_signal_ends_it_after_the_clip_at_hand_and_it_can_go_on(
    encoded: Path, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latent, calls = encoding._latent, []

    def interrupted(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return latent(*arguments)

    folder = tmp_path / "latents"
    with monkeypatch.context() as patch:
        patch.setattr(encoding, "_latent", interrupted)
        with pytest.raises(Interrupted, match=r"latents-00001.*--resume"):
            recipes.encode(load_recipe(recipe_file), folder, CLIPS, clips_per_shard=5)
    assert sorted(path.name for path in folder.iterdir()) == ["latents-00000.safetensors", "manifest.json"]
    recipes.encode(load_recipe(recipe_file), folder, CLIPS, clips_per_shard=5, resume=True)
    assert shard_path(folder, 2).read_bytes() == shard_path(encoded, 2).read_bytes()


@pytest.mark.slow
def test_two_processes_share_the_shards(encoded: Path, recipe_file: Path, tmp_path: Path) -> None:
    script, folder = tmp_path / "encode.py", tmp_path / "latents"
    script.write_text(
        "import sys, recipes\nfrom pathlib import Path\n"
        "recipe = recipes.load_recipe(sys.argv[1], ['trainer.devices=2'])\n"
        f"recipes.encode(recipe, Path(sys.argv[2]), {CLIPS}, clips_per_shard=5)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script), str(recipe_file), str(folder)]
    subprocess.run(command, env=environment, check=True, timeout=300, capture_output=True)
    for shard in range(3):
        assert shard_path(folder, shard).read_bytes() == shard_path(encoded, shard).read_bytes()


def test_what_does_not_fit_is_refused(
    write_recipe: RecipeWriter, encoded: Path, recipe_file: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(recipe_file)
    with pytest.raises(UserError, match="are there already; add --resume"):
        recipes.encode(recipe, encoded, CLIPS, clips_per_shard=5)
    with pytest.raises(UserError, match="begun with another recipe, teacher or number"):
        recipes.encode(recipe, encoded, CLIPS + 1, clips_per_shard=5, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("")
    with pytest.raises(UserError, match="exists and holds no encoded clips"):
        recipes.encode(recipe, tmp_path / "other", CLIPS)
    with pytest.raises(UserError, match=r"only data\.train of kind clips can be encoded"):
        recipes.encode(from_latents(write_recipe, encoded), tmp_path / "again", CLIPS)
    with pytest.raises(UserError, match=r"holds no encoded clips .*handheld encode"):
        recipes.distill(from_latents(write_recipe, tmp_path / "other"), tmp_path / "run")
    with pytest.raises(UserError, match="was encoded in 32-true, the recipe trains in bf16-mixed"):
        recipes.distill(from_latents(write_recipe, encoded, precision="bf16-mixed"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_teachers_latents_are_refused(
    write_recipe: RecipeWriter, encoded: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    from recipes.schema import TeacherSpec
    from recipes.teachers.diffusers_vae import load

    vae = load(TeacherSpec(kind="diffusers_vae", class_name="AutoencoderKLLTXVideo", weights=str(teacher_folder))).vae
    vae.encoder.conv_in.conv.weight.data[0, 0] += 1e-3  # type: ignore[union-attr, operator]
    vae.save_pretrained(tmp_path / "teacher")

    def change(recipe: dict[str, Any]) -> None:
        recipe["data"]["train"] = {"kind": "latents", "path": str(encoded)}
        recipe["teacher"]["weights"] = str(tmp_path / "teacher")

    with pytest.raises(UserError, match="was encoded by another teacher"):
        recipes.distill(load_recipe(write_recipe(change)), tmp_path / "run")


def test_a_disk_too_small_is_known_before_the_work(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(encoding.shutil, "disk_usage", lambda _path: usage(10**6, 10**6, 10**4))
    with pytest.raises(UserError, match=r"12 clips of 0.0 MB take 0.0 GB.*lower --clips"):
        recipes.encode(load_recipe(recipe_file), tmp_path / "latents", CLIPS)
    assert not list((tmp_path / "latents").glob("*.safetensors"))
