"""Windows of frames from video files, for training (random) and validation (fixed).

A training sample is a pure function of the seed and of its number, so a resumed run sees exactly the samples
that an uninterrupted one would: there is no sampler state to save.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from recipes.schema import ClipsSpec, asset_path
from toolkit.errors import UserError
from toolkit.video import find_videos, iterate_video, probe, read_video, stack_frames, to_unit_range


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


@dataclass(frozen=True)
class Window:
    """A held-out clip: `video` is `(3, frames, h, w)` float in [-1, 1], from frame `start` of the file `path` on."""

    path: Path
    start: int
    video: torch.Tensor


@dataclass(frozen=True)
class Survey:
    """What a file is expected to give: how many windows, and their height and width."""

    path: Path
    windows: int
    height: int
    width: int


def validation_windows(spec: ClipsSpec) -> list[torch.Tensor]:
    """The videos of all `windows`, in memory."""
    return [window.video for window in windows(spec)]


def windows(spec: ClipsSpec) -> Iterator[Window]:
    """All whole, non-overlapping windows of the data in order, cropped to the centre by `size`.

    Holds one window in memory. Raises `UserError` as `survey` does, but only when it comes to the file.
    """
    start, stop = spec.range or (0, None)
    for path in find_videos(asset_path(spec.path)):
        held: list[np.ndarray] = []
        read = 0
        for frame in iterate_video(path, start, stop, spec.resize):
            held.append(_centre(path, frame, spec))
            read += 1
            if len(held) == spec.frames:
                yield Window(path, start + read - spec.frames, to_unit_range(stack_frames(held)))
                held = []
        _check_length(path, read, spec)


def survey(spec: ClipsSpec) -> list[Survey]:
    """What `windows` will give, from the files' own declarations; raises `UserError` if one is too short or small."""
    start, stop = spec.range or (0, None)
    found = []
    for path in find_videos(asset_path(spec.path)):
        info = probe(path)
        length = (info.frames if stop is None else min(stop, info.frames)) - start
        _check_length(path, max(length, 0), spec)
        height, width = spec.resize or (info.height, info.width)
        _check_crop(path, height, width, spec)
        found.append(Survey(path, length // spec.frames, *(spec.size or (height, width))))
    return found


def load_videos(spec: ClipsSpec) -> list[torch.Tensor]:
    """All videos that `spec` names, `(T, 3, H, W)` uint8 each; raises `UserError` if one is too short or too small."""
    start, stop = spec.range or (0, None)
    videos = []
    for path in find_videos(asset_path(spec.path)):
        frames = read_video(path, start, stop, spec.resize)
        _check_length(path, frames.shape[0], spec)
        _check_crop(path, frames.shape[-2], frames.shape[-1], spec)
        videos.append(frames)
    return videos


def _centre(path: Path, frame: np.ndarray, spec: ClipsSpec) -> np.ndarray:
    height, width = frame.shape[:2]
    _check_crop(path, height, width, spec)
    crop_height, crop_width = spec.size or (height, width)
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return frame[top : top + crop_height, left : left + crop_width]


def _check_length(path: Path, length: int, spec: ClipsSpec) -> None:
    if length < spec.frames:
        raise UserError(
            f"{path}: {length} frames are fewer than the {spec.frames} of a clip; lower data.*.frames "
            "(--frames of evaluate)"
        )


def _check_crop(path: Path, height: int, width: int, spec: ClipsSpec) -> None:
    if spec.size and (height < spec.size[0] or width < spec.size[1]):
        raise UserError(
            f"{path}: frames of {height}x{width} are smaller than the crop {spec.size[0]}x{spec.size[1]}; "
            "lower data.*.size (--size of evaluate)"
        )
