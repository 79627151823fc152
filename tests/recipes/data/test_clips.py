"""Clips: random crops that depend on nothing but the seed and the sample's number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from recipes.data.clips import Clips, FromStep, survey, validation_windows, windows
from recipes.schema import ClipsSpec
from toolkit.errors import UserError
from toolkit.video import read_video


def spec(path: Path, **changes: object) -> ClipsSpec:
    return ClipsSpec.model_validate({"kind": "clips", "path": str(path), "frames": 5, "size": [16, 24], **changes})


def test_a_sample_depends_on_seed_and_number_alone(clip_file: Path) -> None:
    first, second = Clips(spec(clip_file), seed=3), Clips(spec(clip_file), seed=3)
    for number in (41, 7):
        second[number - 1]
        assert torch.equal(first[number], second[number])
    assert not torch.equal(first[7], Clips(spec(clip_file), seed=4)[7])
    assert not torch.equal(first[7], first[8])


@pytest.mark.slow
def test_every_sample_is_a_window_of_the_video(clip_file: Path) -> None:
    video = read_video(clip_file).float().div(127.5).sub(1)  # (T, 3, H, W)
    windows = video.unfold(0, 5, 1).unfold(2, 16, 1).unfold(3, 24, 1)  # (t, 3, y, x, 5, 16, 24)
    clips = Clips(spec(clip_file, flip=False), seed=0)
    for number in range(4):
        sample = clips[number]
        assert sample.shape == (3, 5, 16, 24)
        distances = (windows - sample[None, :, None, None]).abs().amax(dim=(1, 4, 5, 6))
        assert distances.min() == 0


def test_the_range_keeps_held_out_frames_out(clip_file: Path) -> None:
    held_out = read_video(clip_file, 10, 20)
    windows = validation_windows(spec(clip_file, range=[10, 20], size=None))
    assert len(windows) == 2
    assert torch.allclose(windows[0], held_out[:5].transpose(0, 1).float() / 127.5 - 1)


@pytest.mark.parametrize("changes", [{}, {"size": None}, {"resize": [32, 40]}, {"range": [3, 14]}, {"frames": 20}])
def test_a_survey_foretells_the_windows(clip_file: Path, changes: dict[str, object]) -> None:
    asked = spec(clip_file, **changes)
    (file,) = survey(asked)
    found = list(windows(asked))
    assert len(found) == file.windows
    assert {tuple(window.video.shape) for window in found} == {(3, asked.frames, file.height, file.width)}
    first = asked.range[0] if asked.range else 0
    assert [window.start for window in found] == list(range(first, first + len(found) * asked.frames, asked.frames))


@pytest.mark.parametrize("read", [survey, validation_windows])
def test_what_is_too_short_or_too_small_is_refused_with_the_file(
    clip_file: Path, read: Callable[[ClipsSpec], object]
) -> None:
    with pytest.raises(UserError, match=r"clip\.mp4: 20 frames are fewer .*--frames"):
        read(spec(clip_file, frames=21))
    with pytest.raises(UserError, match=r"clip\.mp4: frames of 48x64 are smaller .*--size"):
        read(spec(clip_file, size=[49, 64]))


def test_frames_too_few_for_a_clip_are_refused(clip_file: Path) -> None:
    with pytest.raises(UserError, match="20 frames are fewer than the 21"):
        Clips(spec(clip_file, frames=21), seed=0)


def test_frames_smaller_than_the_crop_are_refused(clip_file: Path) -> None:
    with pytest.raises(UserError, match="48x64 are smaller than the crop 64x64"):
        Clips(spec(clip_file, size=[64, 64]), seed=0)


def test_processes_share_the_samples_out_without_overlap() -> None:
    shares = [list(FromStep(10, 20, rank, 2)) for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == list(range(10, 20))
