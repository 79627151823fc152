"""Pictures that made-up scenes are cut out of: images, video frames, and those inside scikit-image."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from recipes.data.flow_specs import TexturesSpec
from recipes.data.library import log_skipped
from recipes.schema import asset_path
from toolkit.errors import UserError, unknown_name
from toolkit.flow_files import IMAGE_SUFFIXES, read_image
from toolkit.progress import track
from toolkit.shards import VIDEO_SUFFIXES, Video
from toolkit.video import iterate_video, probe

SKIMAGE_PREFIX = "skimage:"
# Photographs and surfaces; the motorcycle pair stays out, for it is what flow is tested on.
SKIMAGE_PICTURES = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "camera": "camera.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "hubble_deep_field": "hubble_deep_field.jpg",
    "immunohistochemistry": "ihc.png",
    "moon": "moon.png",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
}


@dataclass(frozen=True)
class _File:
    """A file of a source; `alone` where the source names it itself, so that nothing can take its place."""

    path: Path
    alone: bool


class Textures:
    """Pictures `(H, W, 3)` uint8, RGB, by their number: in the order of the sources, and within a folder of the paths.

    In a folder, a file that cannot be read is left out and noted in `skipped`, and after `log_to` a run's folder there
    too. An image shows that only when its number comes up, and then gives the next one's picture: what a number gives
    is a function of the files still.

    Raises `UserError` where a source is missing or holds no picture, where a file that a source names cannot be read,
    and where video frames alone would exceed `memory_gb`.
    """

    def __init__(self, spec: TexturesSpec) -> None:
        self.spec, self.skipped = spec, dict[Video, str]()
        self.log: Path | None = None
        self._entries: list[_File | np.ndarray] = []  # an image file, or a frame of a video
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._bytes = 0
        files = [file for source in spec.sources for file in _files(source)]
        with track("pictures", len(files)) as progress:
            for number, file in enumerate(files):
                progress.update(number, file.path.name)
                if file.path.suffix.lower() in VIDEO_SUFFIXES:
                    with self._or_skipped(file):
                        self._entries.extend(self._frames(file.path))
                    self._check_memory(file.path)
                else:
                    self._entries.append(file)
            progress.update(len(files), "done")
        if not self._entries:
            raise UserError(f"{spec.sources[0]}: no video can be used; the first: {next(iter(self.skipped.values()))}")

    def log_to(self, run: Path, is_first: bool) -> None:
        """From now on list in the run's folder what cannot be read; the first process adds what was left out so far."""
        if is_first:
            log_skipped(run, self.skipped)
        self.log = run

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, number: int) -> np.ndarray:
        for step in range(len(self)):
            place = (number + step) % len(self)
            entry = self._entries[place]
            if not isinstance(entry, _File):
                return entry
            if entry.path not in self.skipped:
                with self._or_skipped(entry):
                    return self._image(place, entry.path)
        reason = next(iter(self.skipped.values()))
        raise UserError(f"{self.spec.sources[0]}: none of the {len(self)} pictures can be read; the first: {reason}")

    def _image(self, number: int, path: Path) -> np.ndarray:
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        picture = reduced(read_image(path, self.spec.side), self.spec.side)
        self._cache[number] = picture
        self._bytes += picture.nbytes
        while self._bytes > self.spec.memory_gb * 1e9 and self._cache:
            self._bytes -= self._cache.popitem(last=False)[1].nbytes
        return picture

    def _frames(self, path: Path) -> list[np.ndarray]:
        start, stop = self.spec.range or (0, None)
        frames = probe(path).frames
        last = frames if stop is None else min(stop, frames)
        if last <= start:
            raise UserError(f"{path}: has only {last} frames; none lies in the range from {start} on")
        wanted = {int(number) for number in np.linspace(start, last - 1, self.spec.video_frames).round()}
        pictures = enumerate(iterate_video(path, start, last), start)
        return [reduced(frame, self.spec.side) for number, frame in pictures if number in wanted]

    def _check_memory(self, path: Path) -> None:
        self._bytes = sum(entry.nbytes for entry in self._entries if not isinstance(entry, _File))
        if self._bytes > self.spec.memory_gb * 1e9:
            raise UserError(
                f"{path}: the video frames up to here take {self._bytes / 1e9:.1f} GB; lower textures.video_frames or "
                "textures.side, or raise textures.memory_gb"
            )

    @contextmanager
    def _or_skipped(self, file: _File) -> Iterator[None]:
        """What proves a file unusable in here is noted, unless the source names it itself."""
        try:
            yield
        except UserError as error:
            if file.alone:
                raise
            self.skipped[file.path] = str(error)
            if self.log is not None:
                log_skipped(self.log, {file.path: str(error)})


def reduced(picture: np.ndarray, side: int) -> np.ndarray:
    """The picture with a shorter side of at most `side` pixels, by area averaging."""
    height, width = picture.shape[:2]
    factor = side / min(height, width)
    if factor >= 1:
        return np.ascontiguousarray(picture)
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def skimage_file(name: str) -> Path:
    """A file of scikit-image's data folder; raises `UserError` where the package or the file is missing."""
    found = find_spec("skimage")
    if found is None or found.origin is None:
        raise UserError(f"{name}: comes with scikit-image, which is not installed; run `pip install scikit-image`")
    path = Path(found.origin).parent / "data" / name
    if not path.is_file():
        raise UserError(f"{path}: this version of scikit-image lacks it; run `pip install -U scikit-image`")
    return path


def _files(source: str) -> list[_File]:
    if source.startswith(SKIMAGE_PREFIX):
        names = [name for name in source.removeprefix(SKIMAGE_PREFIX).split(",") if name] or sorted(SKIMAGE_PICTURES)
        return [_File(_skimage_picture(name.strip()), alone=True) for name in names]
    path = asset_path(source)
    suffixes = VIDEO_SUFFIXES | IMAGE_SUFFIXES
    if path.is_dir():
        # macOS keeps attributes in files that begin with ._
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes and not p.name.startswith("._"))
        if not found:
            raise UserError(f"{path}: holds no image or video file ({', '.join(sorted(suffixes))})")
        return [_File(file, alone=False) for file in found]
    if not path.is_file():
        raise UserError(f"{path}: no such image, video or folder")
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{path}: is no image or video file; known endings: {', '.join(sorted(suffixes))}")
    return [_File(path, alone=True)]


def _skimage_picture(name: str) -> Path:
    if name not in SKIMAGE_PICTURES:
        raise unknown_name("picture of scikit-image", name, SKIMAGE_PICTURES)
    return skimage_file(SKIMAGE_PICTURES[name])
