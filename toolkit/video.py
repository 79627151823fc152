"""Video files in, picture strips out.

Frames are `(T, 3, H, W)` uint8; a video for a model is `(3, T, H, W)` float in [-1, 1].
"""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.stream import VideoStream
from PIL import Image

from toolkit.errors import UserError
from toolkit.files import write_atomic
from toolkit.seeking import frames_from
from toolkit.shards import Member, Video


@dataclass(frozen=True)
class VideoInfo:
    """What a file says of its video: `frames` is declared or counted in packets, and can differ from what decodes.

    `rate` is the mean in frames a second, None where the file gives none.
    """

    frames: int
    height: int
    width: int
    rate: Fraction | None


def probe(video: Video) -> VideoInfo:
    """Length and size of a video without decoding it; raises `UserError` where it is no video file."""
    with _opened(video) as (container, stream):
        frames = stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
        return VideoInfo(frames, stream.height, stream.width, stream.average_rate or stream.guessed_rate)


def iterate_video(
    video: Video, start: int = 0, stop: int | None = None, size: tuple[int, int] | None = None
) -> Iterator[np.ndarray]:
    """Decode frames `start` to `stop` one at a time, `(H, W, 3)` uint8, resized to `size` by area averaging.

    Starts at a key frame close before `start` where `toolkit.seeking` can prove the frames' numbers, else at the
    beginning; the frames are the same. Raises `UserError` as `read_video` does; what only the end of the file shows
    is raised after the last frame, and damage before the key frame is not met.
    """
    missing = (yield from _sought(video, start, stop, size)) if start else 0
    if missing is not None:
        yield from _decoded(video, start, stop, size, missing)


def read_video(
    video: Video, start: int = 0, stop: int | None = None, size: tuple[int, int] | None = None
) -> torch.Tensor:
    """Decode frames `start` to `stop` of a video file, resized to `size` (height, width) by area averaging.

    Returns `(T, 3, H, W)` uint8. Raises `UserError` if the file is missing, is not a video, breaks off
    while decoding, or has fewer frames than asked for.
    """
    return stack_frames(list(iterate_video(video, start, stop, size)))


def _sought(
    video: Video, start: int, stop: int | None, size: tuple[int, int] | None
) -> Generator[np.ndarray, None, int | None]:
    """What can be had by seeking; returns the number of the first frame that could not, or None if none is missing."""
    at = start
    with suppress(UserError), _opened(video) as (container, stream):  # the decoding from the beginning explains it
        end = stream.frames if stop is None else stop
        for frame in islice(frames_from(container, stream, start), max(end - start, 0)):
            yield _to_array(frame, size)
            at += 1
        return None if start < at == end else at
    return at


def _decoded(
    video: Video, start: int, stop: int | None, size: tuple[int, int] | None, missing: int
) -> Iterator[np.ndarray]:
    """The frames `missing` to `stop`, decoded from the beginning; `start` is where the caller began."""
    decoded = 0
    with _opened(video) as (container, stream):
        declared = stream.frames
        for frame in islice(container.decode(video=0), stop):
            if frame.is_corrupt:
                raise UserError(f"{video}: frame {decoded} is damaged; re-encode the file or copy it again")
            decoded += 1
            if decoded > missing:
                yield _to_array(frame, size)
    if stop is None and decoded < declared:
        raise UserError(f"{video}: breaks off after {decoded} of {declared} frames; re-encode it or copy it again")
    if decoded <= start or (stop is not None and decoded < stop):
        wanted = f"frames {start} to {stop}" if stop is not None else f"frames from {start} on"
        raise UserError(f"{video}: has only {decoded} frames; {wanted} were asked for")


def stack_frames(frames: Sequence[np.ndarray]) -> torch.Tensor:
    """Frames `(H, W, 3)` to one tensor `(T, 3, H, W)`, contiguous."""
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()


@contextmanager
def _opened(video: Video) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file and its first video stream; what goes wrong in the decoder while it is open is a `UserError`."""
    file, url = (video.shard, video.url) if isinstance(video, Member) else (video, str(video))
    if not file.is_file():
        raise UserError(f"{video}: no such video file")
    try:
        with av.open(url) as container:
            if not container.streams.video:
                raise UserError(f"{video}: holds no video stream")
            yield container, container.streams.video[0]
    except av.FFmpegError as error:
        reason = error.strerror or "decoder error"
        raise UserError(f"{video}: cannot be decoded as a video ({reason}); re-encode it or copy it again") from error


def to_unit_range(frames: torch.Tensor) -> torch.Tensor:
    """uint8 frames `(T, 3, H, W)` to a video `(3, T, H, W)` float in [-1, 1]."""
    return frames.transpose(0, 1).float().div(127.5).sub(1.0)


def to_frames(video: torch.Tensor) -> torch.Tensor:
    """A video `(3, T, H, W)` in [-1, 1] to uint8 frames `(T, 3, H, W)`."""
    return video.detach().float().clamp(-1, 1).add(1.0).mul(127.5).round().to(torch.uint8).transpose(0, 1)


def strip_png(columns: Sequence[torch.Tensor], frame_indices: Sequence[int]) -> bytes:
    """A PNG with one row a frame index and one column a video `(3, T, H, W)`, for looking at side by side."""
    rows = []
    for index in frame_indices:
        cells = [to_frames(video[:, index : index + 1])[0].permute(1, 2, 0).numpy() for video in columns]
        rows.append(np.concatenate(cells, axis=1))
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(rows, axis=0)).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def write_strip(path: Path, columns: Sequence[torch.Tensor], frame_indices: Sequence[int]) -> None:
    """Write `strip_png` to `path` atomically."""
    write_atomic(path, strip_png(columns, frame_indices))


def _to_array(frame: av.VideoFrame, size: tuple[int, int] | None) -> np.ndarray:
    if size is not None:
        frame = frame.reformat(width=size[1], height=size[0], format="rgb24", interpolation="AREA")
    return frame.to_ndarray(format="rgb24")
