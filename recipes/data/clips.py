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
from torch.utils.data import Sampler

from recipes.data.library import Library, check_crop, check_length, log_skipped, surveyed
from recipes.data.samples import Samples
from recipes.schema import ClipsSpec, asset_path
from toolkit.errors import UserError
from toolkit.progress import track
from toolkit.shards import Video, find_videos
from toolkit.video import iterate_video, stack_frames, to_unit_range


class Clips(Samples):
    """Random crops `(3, frames, h, w)` float in [-1, 1], numbered without end.

    Where a file breaks where a sample would lie, the sample is drawn anew: a function of seed, number and files still.
    After `log_to` a run's folder, the files that broke are listed there.
    """

    def __init__(self, spec: ClipsSpec, seed: int) -> None:
        self.spec, self.seed = spec, seed
        self.log: Path | None = None
        self.library = Library(spec)

    def log_to(self, run: Path, is_first: bool) -> None:
        """From now on list in the run's folder what breaks; the first process adds what the survey left out."""
        if is_first:
            log_skipped(run, self.library.skipped)
        self.log = run

    def __getitem__(self, number: int) -> torch.Tensor:
        random = np.random.default_rng([self.seed, number])
        for _ in range(self.library.total):
            file = self.library.files[random.integers(len(self.library.files))]
            height, width = file.height, file.width
            crop_height, crop_width = self.spec.size or (height, width)
            start = random.integers(file.frames - self.spec.frames + 1)
            top, left = random.integers(height - crop_height + 1), random.integers(width - crop_width + 1)
            flip = self.spec.flip and random.integers(2)
            try:
                clip = self.library.window(file, int(start))[..., top : top + crop_height, left : left + crop_width]
            except UserError as error:
                if self.library.skip(file, error) and self.log is not None:
                    log_skipped(self.log, {file.path: str(error)})
                continue
            return to_unit_range(clip.flip(-1) if flip else clip)
        raise UserError(
            f"{self.spec.path}: {self.library.total} draws in a row met a file that breaks; check the files"
        )


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

    path: Video
    start: int
    video: torch.Tensor


@dataclass(frozen=True)
class Survey:
    """What a file is expected to give: how many windows, and their height and width."""

    path: Video
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
        check_length(path, read, spec)


def survey(spec: ClipsSpec) -> list[Survey]:
    """What `windows` will give, from the files' own declarations; raises `UserError` if one is too short or small."""
    found = find_videos(asset_path(spec.path))
    files = []
    with track("survey", len(found)) as progress:
        for number, path in enumerate(found):
            files.append(surveyed(path, spec))
            progress.update(number + 1)
    return [Survey(f.path, f.frames // spec.frames, *(spec.size or (f.height, f.width))) for f in files]


def _centre(path: Video, frame: np.ndarray, spec: ClipsSpec) -> np.ndarray:
    height, width = frame.shape[:2]
    check_crop(path, height, width, spec)
    crop_height, crop_width = spec.size or (height, width)
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return frame[top : top + crop_height, left : left + crop_width]
