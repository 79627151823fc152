"""Pictures that made-up scenes are cut out of: images, video frames, and those inside scikit-image."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from recipes.data.flow_files import IMAGE_SUFFIXES, read_image
from recipes.data.flow_specs import TexturesSpec
from recipes.schema import asset_path
from toolkit.errors import UserError, unknown_name
from toolkit.progress import track
from toolkit.shards import VIDEO_SUFFIXES
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
class _Still:
    """An image file that is read when it is needed."""

    path: Path


@dataclass(frozen=True)
class _Held:
    """A frame of a video, in memory."""

    pixels: np.ndarray


class Textures:
    """Pictures `(H, W, 3)` uint8, RGB, by their number: stills in the order of the sources and of their paths.

    Raises `UserError` where a source is missing or holds no picture, where video frames alone would exceed
    `memory_gb`, and, when it comes to it, where an image cannot be read.
    """

    def __init__(self, spec: TexturesSpec) -> None:
        self.spec = spec
        files = [path for source in spec.sources for path in _files(source)]
        self._entries: list[_Still | _Held] = []
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._bytes = 0
        with track("pictures", len(files)) as progress:
            for number, path in enumerate(files):
                progress.update(number, path.name)
                if path.suffix.lower() in VIDEO_SUFFIXES:
                    self._hold_video(path)
                else:
                    self._entries.append(_Still(path))
            progress.update(len(files), "done")

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, number: int) -> np.ndarray:
        entry = self._entries[number]
        if isinstance(entry, _Held):
            return entry.pixels
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        picture = reduced(read_image(entry.path), self.spec.side)
        self._cache[number] = picture
        self._bytes += picture.nbytes
        while self._bytes > self.spec.memory_gb * 1e9 and self._cache:
            self._bytes -= self._cache.popitem(last=False)[1].nbytes
        return picture

    def _hold_video(self, path: Path) -> None:
        start, stop = self.spec.range or (0, None)
        last = probe(path).frames if stop is None else min(stop, probe(path).frames)
        if last <= start:
            raise UserError(f"{path}: has only {last} frames; none lies in the range from {start} on")
        wanted = {int(number) for number in np.linspace(start, last - 1, self.spec.video_frames).round()}
        for number, frame in enumerate(iterate_video(path, start, last), start):
            if number in wanted:
                picture = reduced(frame, self.spec.side)
                self._entries.append(_Held(picture))
                self._bytes += picture.nbytes
        if self._bytes > self.spec.memory_gb * 1e9:
            raise UserError(
                f"{path}: the video frames up to here take {self._bytes / 1e9:.1f} GB; lower textures.video_frames or "
                "textures.side, or raise textures.memory_gb"
            )


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


def _files(source: str) -> list[Path]:
    if source.startswith(SKIMAGE_PREFIX):
        names = [name for name in source.removeprefix(SKIMAGE_PREFIX).split(",") if name] or sorted(SKIMAGE_PICTURES)
        return [_skimage_picture(name.strip()) for name in names]
    path = asset_path(source)
    suffixes = VIDEO_SUFFIXES | IMAGE_SUFFIXES
    if path.is_dir():
        # macOS keeps attributes in files that begin with ._
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes and not p.name.startswith("._"))
        if not found:
            raise UserError(f"{path}: holds no image or video file ({', '.join(sorted(suffixes))})")
        return found
    if not path.is_file():
        raise UserError(f"{path}: no such image, video or folder")
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{path}: is no image or video file; known endings: {', '.join(sorted(suffixes))}")
    return [path]


def _skimage_picture(name: str) -> Path:
    if name not in SKIMAGE_PICTURES:
        raise unknown_name("picture of scikit-image", name, SKIMAGE_PICTURES)
    return skimage_file(SKIMAGE_PICTURES[name])
