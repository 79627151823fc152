"""Folders of videos: unusable files are left out, counted and named; memory or not, the samples are the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import recipes
from recipes.data.clips import Clips
from recipes.data.library import Library, read_skipped
from recipes.schema import ClipsSpec
from tests.conftest import RecipeWriter, write_clip
from toolkit.errors import UserError


@pytest.fixture
def folder(tmp_path: Path, clip_file: Path) -> Path:
    """Two good videos of several sizes, one too short, one too small, one that is no video, one cut short."""
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(clip_file, folder / "a.mp4")
    write_clip(folder / "b.mp4", frames=12, height=32, width=80)
    write_clip(folder / "short.mp4", frames=3)
    write_clip(folder / "small.mp4", height=16, width=16)
    (folder / "text.mp4").write_text("no video")
    content = clip_file.read_bytes()
    (folder / "cut.mp4").write_bytes(content[: len(content) // 2])
    return folder


def spec(path: Path, **changes: object) -> ClipsSpec:
    return ClipsSpec.model_validate({"kind": "clips", "path": str(path), "frames": 5, "size": [24, 32], **changes})


def test_files_that_cannot_be_used_are_left_out_with_the_reason(folder: Path) -> None:
    library = Library(spec(folder))
    assert [file.path.name for file in library.files] == ["a.mp4", "b.mp4"]
    assert {path.name: reason.split(": ")[1][:20] for path, reason in library.skipped.items()} == {
        "cut.mp4": "cannot be decoded as",
        "short.mp4": "3 frames are fewer t",
        "small.mp4": "frames of 16x16 are ",
        "text.mp4": "cannot be decoded as",
    }


def test_samples_are_the_same_whether_files_are_held_or_read_anew(folder: Path) -> None:
    held, read = Clips(spec(folder), seed=1), Clips(spec(folder, memory_gb=0), seed=1)
    for number in range(8):
        assert torch.equal(held[number], read[number])


def test_a_file_that_breaks_later_is_left_out_then_and_the_sample_drawn_anew(folder: Path, tmp_path: Path) -> None:
    clips = Clips(spec(folder, memory_gb=0), seed=1)
    clips.log_to(tmp_path, is_first=False)
    whole = [clips[number] for number in range(12)]
    (folder / "b.mp4").write_text("gone")
    broken = [clips[number] for number in range(12)]
    assert all(sample.shape == (3, 5, 24, 32) for sample in broken)
    same = [torch.equal(one, two) for one, two in zip(whole, broken, strict=True)]
    assert any(same)
    assert not all(same)
    assert [Path(path).name for path in read_skipped(tmp_path)] == ["b.mp4"]
    assert all(torch.equal(clips[number], broken[number]) for number in range(12))


def test_a_single_file_or_nothing_usable_is_an_error(folder: Path) -> None:
    with pytest.raises(UserError, match="3 frames are fewer"):
        Library(spec(folder / "short.mp4"))
    with pytest.raises(UserError, match=r"none of its 6 videos can be used; the first: .*a\.mp4: 20 frames"):
        Library(spec(folder, frames=30))


def test_mixed_sizes_need_a_crop_or_a_common_size(folder: Path) -> None:
    with pytest.raises(UserError, match=r"frames of 3 sizes, from 16x16 to 48x64; set data\.\*\.size .*resize"):
        Library(spec(folder, size=None))
    assert len(Library(spec(folder, size=None, resize=[24, 32])).files) == 3


@pytest.mark.slow
def test_a_run_names_what_it_left_out_and_readers_in_other_processes_change_nothing(
    folder: Path, write_recipe: RecipeWriter, tmp_path: Path
) -> None:
    def change(recipe: dict[str, Any]) -> None:
        recipe["data"]["train"].update(path=str(folder), range=None, memory_gb=0)

    path = write_recipe(change)
    for workers in (0, 2):
        recipes.distill(recipes.load_recipe(path, [f"trainer.workers={workers}"]), tmp_path / f"run{workers}")
    weights = [(tmp_path / f"run{workers}" / "student.safetensors").read_bytes() for workers in (0, 2)]
    assert weights[0] == weights[1]
    assert {Path(path).name for path in recipes.read_skipped(tmp_path / "run0")} >= {"cut.mp4", "short.mp4", "text.mp4"}
