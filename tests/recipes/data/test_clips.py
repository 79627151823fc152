"""Clips: random crops that depend on nothing but the seed and the sample's number."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recipes.data.clips import Clips, FromStep, validation_windows
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


def test_frames_too_few_for_a_clip_are_refused(clip_file: Path) -> None:
    with pytest.raises(UserError, match="20 frames are fewer than the 21"):
        Clips(spec(clip_file, frames=21), seed=0)


def test_frames_smaller_than_the_crop_are_refused(clip_file: Path) -> None:
    with pytest.raises(UserError, match="48x64 are smaller than the crop 64x64"):
        Clips(spec(clip_file, size=[64, 64]), seed=0)


def test_processes_share_the_samples_out_without_overlap() -> None:
    shares = [list(FromStep(10, 20, rank, 2)) for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == list(range(10, 20))
