"""Shards as data: the samples of the same videos unpacked, and a damaged shard that is left out by name."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import recipes
from recipes.data.clips import Clips, FromStep, survey, validation_windows, windows
from recipes.data.library import Library
from recipes.schema import ClipsSpec
from tests.conftest import RecipeWriter, write_clip
from toolkit.errors import UserError


def spec(path: Path, **changes: object) -> ClipsSpec:
    return ClipsSpec.model_validate({"kind": "clips", "path": str(path), "frames": 5, "size": [24, 32], **changes})


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    folder = tmp_path / "unpacked"
    for number, name in enumerate(["a/0.mp4", "a/1.mp4", "a/k/2.mp4", "b/0.mp4", "b/1.mp4"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_clip(folder / name, frames=8 + number, height=32 + 8 * number)
        (folder / name).with_suffix(".json").write_text('{"caption": "a clip"}')
    write_clip(folder / "c.mp4", frames=9)
    return folder


@pytest.fixture
def packed(unpacked: Path, tmp_path: Path) -> Path:
    """Two shards, members in reverse, and a file beside them."""
    folder = tmp_path / "packed"
    folder.mkdir()
    for name in ("a", "b"):
        with tarfile.open(folder / f"{name}.tar", "w") as archive:
            for path in sorted((unpacked / name).rglob("*.*"), reverse=True):
                archive.add(path, path.relative_to(unpacked / name))
    shutil.copy(unpacked / "c.mp4", folder)
    return folder


def cut(shard: Path) -> Path:
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    return shard


@pytest.mark.parametrize("memory_gb", [0, 8])
def test_samples_from_shards_are_those_from_the_same_videos_unpacked(
    unpacked: Path, packed: Path, memory_gb: float
) -> None:
    files = Clips(spec(unpacked, memory_gb=memory_gb), seed=1)
    shards = Clips(spec(packed, memory_gb=memory_gb), seed=1)
    assert len(shards.library.files) == 6
    for number in range(12):
        assert torch.equal(files[number], shards[number])


@pytest.mark.slow
def test_samples_are_the_same_in_other_processes_and_after_a_resume(packed: Path) -> None:
    """Workers are started anew, so that what they read was pickled."""
    expected = [Clips(spec(packed), seed=1)[number] for number in range(8)]
    clips = Clips(spec(packed, memory_gb=0), seed=1)
    loader = DataLoader(clips, batch_size=None, sampler=FromStep(3, 8), num_workers=2, multiprocessing_context="spawn")
    resumed = list(loader)
    assert len(resumed) == 5
    assert all(torch.equal(one, two) for one, two in zip(resumed, expected[3:], strict=True))


@pytest.mark.parametrize(("path", "same"), [("", ""), ("a.tar", "a"), ("{b,b}.tar", "b")])
def test_validation_windows_are_those_of_the_unpacked_videos(
    unpacked: Path, packed: Path, path: str, same: str
) -> None:
    found, expected = list(windows(spec(packed / path))), validation_windows(spec(unpacked / same))
    assert len(found) == len(expected) > 0
    assert all(torch.equal(one.video, two) for one, two in zip(found, expected, strict=True))
    assert sum(file.windows for file in survey(spec(packed / path))) == len(list(windows(spec(packed / path))))


def test_a_damaged_shard_among_several_is_left_out_by_name_and_a_single_one_refused(packed: Path) -> None:
    whole = [file.path for file in Library(spec(packed)).files]
    cut(packed / "a.tar")
    library = Library(spec(packed))
    left = [file.path for file in library.files]
    assert 3 < len(left) < 6
    assert set(left) < set(whole)
    assert [Path(str(path)).name for path in library.skipped] == ["a.tar"]
    assert "breaks off after" in library.skipped[packed / "a.tar"]
    for single in (packed / "a.tar", packed / "{a,a}.tar"):
        with pytest.raises(UserError, match=r"a\.tar: .*copy it again"):
            Library(spec(single))
    with pytest.raises(UserError, match=r"a\.tar: .*copy it again"):
        validation_windows(spec(packed))


def test_nothing_usable_in_several_shards_is_an_error_with_the_first_reason(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        (tmp_path / name).write_text("no archive")
    with pytest.raises(UserError, match=r"holds no video file .*a\.tar: is no uncompressed tar archive"):
        Library(spec(tmp_path))


@pytest.mark.slow
def test_a_run_on_shards_is_the_run_on_files_and_names_what_it_left_out(
    unpacked: Path, packed: Path, write_recipe: RecipeWriter, tmp_path: Path
) -> None:
    weights = []
    for folder, workers in ((unpacked, 0), (packed, 2)):
        small = next(folder.glob("c.mp4")).with_name("d.mp4")
        small.write_text("no video")

        def change(recipe: dict[str, Any], folder: Path = folder) -> None:
            recipe["data"]["train"].update(path=str(folder), range=None, memory_gb=0)

        run = tmp_path / f"run-{folder.name}"
        recipes.distill(recipes.load_recipe(write_recipe(change), [f"trainer.workers={workers}"]), run)
        weights.append((run / "student.safetensors").read_bytes())
    assert weights[0] == weights[1]
    cut(packed / "b.tar")
    recipes.distill(recipes.load_recipe(write_recipe(change)), tmp_path / "cut")
    assert [Path(path).name for path in recipes.read_skipped(tmp_path / "cut")] == ["b.tar", "d.mp4"]


def test_members_that_cannot_be_used_are_named_with_their_shard(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with tarfile.open(packed / "b.tar", "a") as archive:
        archive.add(tmp_path / "text.mp4", "k/text.mp4")
    library = Library(spec(packed / "b.tar"))
    assert len(library.files) == 2
    ((path, reason),) = library.skipped.items()
    assert str(path) == f"{packed}/b.tar/k/text.mp4"
    assert reason.startswith(f"{path}: cannot be decoded")
