"""Pairs of frames out of videos: how far apart, in both directions, and without a truth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recipes.data.flow_specs import AugmentationSpec, VideoPairsSpec
from recipes.data.video_pairs import VideoPairs
from tests.conftest import write_clip
from toolkit.errors import UserError
from toolkit.video import read_video

AS_IT_IS = AugmentationSpec(size=(48, 64), scale=(0, 0), stretch=0, flip=0, flip_vertical=0, eraser=0, photometric=None)


def spec(path: Path, gap: tuple[int, int] = (1, 3), augmentation: AugmentationSpec = AS_IT_IS) -> VideoPairsSpec:
    return VideoPairsSpec(kind="video_pairs", path=str(path), gap=gap, augmentation=augmentation)


def test_frames_are_so_far_apart_in_both_directions(clip_file: Path) -> None:
    frames = list(read_video(clip_file))
    data = VideoPairs(spec(clip_file), seed=0)

    def place(image: torch.Tensor) -> int:
        return min(range(len(frames)), key=lambda n: float((frames[n].float() - image.float()).abs().sum()))

    gaps = set()
    for number in range(40):
        pair = data[number]
        assert not pair.valid.any()
        assert not pair.visible.any()
        assert not pair.flow.any()
        gaps.add(place(pair.image2) - place(pair.image1))
    assert gaps == {-3, -2, -1, 1, 2, 3}


def test_a_pair_is_a_function_of_seed_and_number(clip_file: Path) -> None:
    one, again, other = (VideoPairs(spec(clip_file), seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one[7], again[7], strict=True))
    assert any(not torch.equal(one[n].image1, other[n].image1) for n in range(4))


def test_videos_of_several_sizes_mix_and_are_scaled_up_to_the_size_asked_for(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", height=48, width=64)
    write_clip(tmp_path / "b.mp4", height=64, width=96)
    data = VideoPairs(spec(tmp_path, augmentation=AugmentationSpec(size=(80, 112))), seed=0)
    assert {tuple(data[number].image1.shape) for number in range(6)} == {(3, 80, 112)}


def test_a_video_shorter_than_the_gap_is_refused(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4", frames=3)
    with pytest.raises(UserError, match="3 frames are fewer than the 5"):
        VideoPairs(spec(clip, gap=(1, 4)), seed=0)
