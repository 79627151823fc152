"""The video files that training draws from: surveyed once, held in memory where they fit, read on demand elsewhere.

Of several, videos and parts of shards that cannot be used are left out, counted and named; a single one that cannot be
used is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from recipes.schema import ClipsSpec, asset_path
from toolkit.errors import UserError
from toolkit.progress import track
from toolkit.shards import Video, find_videos
from toolkit.video import probe, read_video

SKIPPED_FILE = "skipped.jsonl"


@dataclass(frozen=True)
class File:
    """A usable video: its frames within `range`, and their height and width after `resize`."""

    path: Video
    frames: int
    height: int
    width: int

    @property
    def bytes(self) -> int:
        return 3 * self.frames * self.height * self.width


class Library:
    """`files` in order of their paths, and why others were `skipped`.

    Raises `UserError` where no file can be used, or where files of several sizes would have to share a batch.
    """

    def __init__(self, spec: ClipsSpec) -> None:
        self.spec, self.skipped = spec, dict[Video, str]()
        found = find_videos(asset_path(spec.path), self.skipped)
        self.total, self._alone = len(found), len(found) == 1
        self._held: dict[Video, torch.Tensor] = {}
        with track("survey", len(found)) as progress:
            self.files: list[File] = []
            for number, path in enumerate(found):
                progress.update(number)
                with self._or_skipped(path):
                    self.files.append(surveyed(path, spec))
            progress.update(len(found), "done")
        self._check_sizes()
        if sum(file.bytes for file in self.files) <= spec.memory_gb * 1e9:
            self._hold_all()
        if not self.files:
            reason = next(iter(self.skipped.values()))
            raise UserError(f"{spec.path}: none of its {self.total} videos can be used; the first: {reason}")

    def window(self, file: File, start: int) -> torch.Tensor:
        """`frames` frames `(T, 3, H, W)` uint8 from `start` on; raises `UserError` where the file breaks there."""
        if file.path in self._held:
            return self._held[file.path][start : start + self.spec.frames]
        first = start + (self.spec.range or (0, None))[0]
        frames = read_video(file.path, first, first + self.spec.frames, self.spec.resize)
        if frames.shape[-2:] != (file.height, file.width):
            raise UserError(f"{file.path}: frames of {frames.shape[-2]}x{frames.shape[-1]} in a video of another size")
        return frames

    def skip(self, file: File, reason: UserError) -> bool:
        """Note a file that broke while it was read; whether that is news."""
        if self._alone:
            raise reason
        is_news = file.path not in self.skipped
        self.skipped[file.path] = str(reason)
        return is_news

    def _hold_all(self) -> None:
        start, stop = self.spec.range or (0, None)
        for file in self.files:
            with self._or_skipped(file.path):
                frames = read_video(file.path, start, stop, self.spec.resize)
                check_length(file.path, frames.shape[0], self.spec)
                self._held[file.path] = frames
        self.files = [
            File(file.path, self._held[file.path].shape[0], file.height, file.width)
            for file in self.files
            if file.path in self._held
        ]

    @contextmanager
    def _or_skipped(self, path: Video) -> Iterator[None]:
        """What proves a file unusable in here is noted, unless it is the only file."""
        try:
            yield
        except UserError as error:
            if self._alone:
                raise
            self.skipped[path] = str(error)

    def _check_sizes(self) -> None:
        sizes = sorted({(file.height, file.width) for file in self.files})
        if self.spec.size is None and len(sizes) > 1:
            raise UserError(
                f"{self.spec.path}: holds frames of {len(sizes)} sizes, from {sizes[0][0]}x{sizes[0][1]} to "
                f"{sizes[-1][0]}x{sizes[-1][1]}; set data.*.size to crop them alike, or data.*.resize"
            )


def surveyed(path: Video, spec: ClipsSpec) -> File:
    """What a file declares of itself; raises `UserError` if it is no video, or too short or too small."""
    start, stop = spec.range or (0, None)
    info = probe(path)
    frames = max((info.frames if stop is None else min(stop, info.frames)) - start, 0)
    check_length(path, frames, spec)
    height, width = spec.resize or (info.height, info.width)
    check_crop(path, height, width, spec)
    return File(path, frames, height, width)


def check_length(path: Video, length: int, spec: ClipsSpec) -> None:
    """Raise `UserError` where a file has fewer frames than a clip."""
    if length < spec.frames:
        raise UserError(
            f"{path}: {length} frames are fewer than the {spec.frames} of a clip; lower data.*.frames "
            "(--frames of evaluate)"
        )


def check_crop(path: Video, height: int, width: int, spec: ClipsSpec) -> None:
    """Raise `UserError` where frames are smaller than the crop."""
    if spec.size and (height < spec.size[0] or width < spec.size[1]):
        raise UserError(
            f"{path}: frames of {height}x{width} are smaller than the crop {spec.size[0]}x{spec.size[1]}; "
            "lower data.*.size (--size of evaluate)"
        )


def log_skipped(run: Path, skipped: Mapping[Video, str]) -> None:
    """Add to the run's list, for readers in other processes have no other way to tell; what it has stays once."""
    known = read_skipped(run)
    rows = [{"path": str(path), "reason": reason} for path, reason in skipped.items() if str(path) not in known]
    if rows:
        with (run / SKIPPED_FILE).open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))


def read_skipped(run: Path) -> dict[str, str]:
    """Which files a run left out, and why."""
    log = run / SKIPPED_FILE
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    rows = [json.loads(line) for line in lines]
    return {row["path"]: row["reason"] for row in rows}
