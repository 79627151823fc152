"""Windows of frames from video files, for training (random) and validation (fixed).

A training sample is a pure function of the seed and of its number, so a resumed run sees exactly the samples
that an uninterrupted one would: there is no sampler state to save.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from recipes.schema import ClipsSpec, asset_path
from toolkit.errors import UserError
from toolkit.video import find_videos, read_video, to_unit_range


class Clips(Dataset[torch.Tensor]):
    """Random crops `(3, frames, h, w)` float in [-1, 1], numbered without end. Videos are decoded once, into memory."""

    def __init__(self, spec: ClipsSpec, seed: int) -> None:
        self.spec, self.seed = spec, seed
        self.videos = load_videos(spec)

    def __getitem__(self, number: int) -> torch.Tensor:
        random = np.random.default_rng([self.seed, number])
        frames = self.videos[random.integers(len(self.videos))]
        length, height, width = frames.shape[0], *frames.shape[-2:]
        crop_height, crop_width = self.spec.size or (height, width)
        start = random.integers(length - self.spec.frames + 1)
        top, left = random.integers(height - crop_height + 1), random.integers(width - crop_width + 1)
        clip = frames[start : start + self.spec.frames, :, top : top + crop_height, left : left + crop_width]
        if self.spec.flip and random.integers(2):
            clip = clip.flip(-1)
        return to_unit_range(clip)


class FromStep(Sampler[int]):
    """Sample numbers `first, first + 1, ...` up to `stop`, dealt to `world` processes in turn."""

    def __init__(self, first: int, stop: int, rank: int = 0, world: int = 1) -> None:
        self.numbers = range(first + rank, stop, world)

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


def validation_windows(spec: ClipsSpec) -> list[torch.Tensor]:
    """All whole, non-overlapping windows `(3, frames, h, w)` of the data in order, cropped to the centre by `size`."""
    windows = []
    for video in load_videos(spec):
        height, width = video.shape[-2:]
        crop_height, crop_width = spec.size or (height, width)
        top, left = (height - crop_height) // 2, (width - crop_width) // 2
        video = video[:, :, top : top + crop_height, left : left + crop_width]
        for start in range(0, video.shape[0] - spec.frames + 1, spec.frames):
            windows.append(to_unit_range(video[start : start + spec.frames]))
    return windows


def load_videos(spec: ClipsSpec) -> list[torch.Tensor]:
    """All videos that `spec` names, `(T, 3, H, W)` uint8 each; raises `UserError` if one is too short or too small."""
    start, stop = spec.range or (0, None)
    videos = []
    for path in find_videos(asset_path(spec.path)):
        frames = read_video(path, start, stop, spec.resize)
        length, height, width = frames.shape[0], *frames.shape[-2:]
        if length < spec.frames:
            raise UserError(f"{path}: {length} frames are fewer than the {spec.frames} of a clip; lower data.*.frames")
        if spec.size and (height < spec.size[0] or width < spec.size[1]):
            raise UserError(
                f"{path}: frames of {height}x{width} are smaller than the crop {spec.size[0]}x{spec.size[1]}; "
                "lower data.*.size"
            )
        videos.append(frames)
    return videos
