"""Video files out: frame by frame, H.264 where this machine's FFmpeg has it, else MPEG-4."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream

from toolkit.errors import UserError, unknown_name
from toolkit.files import atomic_file

CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
FINEST_PERIOD = 65535  # MPEG-4 counts the parts of a second in 16 bits
H264_OPTIONS = {"crf": "17", "preset": "medium"}
MPEG4_BITS_A_PIXEL = 0.5
BT709, LIMITED_RANGE = 1, 1  # ITU-T H.273's numbers, which FFmpeg shares


def check_video_path(path: Path) -> None:
    """Raise `UserError` where the ending of `path` names no container that `video_writer` writes."""
    if path.suffix.lower() not in CONTAINERS:
        raise unknown_name("ending of a video file", path.suffix, CONTAINERS)


def video_codec() -> str:
    """The encoder that `video_writer` uses here."""
    return "libx264" if "libx264" in av.codecs_available else "mpeg4"


@contextmanager
def video_writer(path: Path, size: tuple[int, int], rate: Fraction) -> Iterator[Callable[[np.ndarray], None]]:
    """Give a function that appends one frame `(H, W, 3)` uint8 RGB of `size` (height, width) to the video `path`.

    `rate` is in frames a second. The file exists when the block ends well, and not at all otherwise. 4:2:0 needs even
    sides: of an odd one the last row or column is left out. Raises `UserError` on an unknown ending, and `OSError`
    where it cannot be written.
    """
    check_video_path(path)
    height, width = size[0] // 2 * 2, size[1] // 2 * 2
    with atomic_file(path) as temporary:
        try:
            with av.open(str(temporary), "w", format=CONTAINERS[path.suffix.lower()]) as container:
                stream = _stream(container, height, width, 1 / (1 / rate).limit_denominator(FINEST_PERIOD))

                def append(frame: np.ndarray) -> None:
                    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
                    picture = picture.reformat(
                        format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=LIMITED_RANGE
                    )
                    container.mux(stream.encode(picture))

                yield append
                container.mux(stream.encode())
        except av.FFmpegError as error:
            raise _refusal(path, error) from error


def _stream(container: OutputContainer, height: int, width: int, rate: Fraction) -> VideoStream:
    stream = container.add_stream(video_codec(), rate=rate)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    if stream.codec.name == "libx264":
        stream.options = dict(H264_OPTIONS)
    else:
        stream.bit_rate = int(height * width * rate * MPEG4_BITS_A_PIXEL)
    _tag_colours(stream.codec_context)
    return stream


def _tag_colours(context: av.VideoCodecContext) -> None:
    """Say that the file is BT.709: players guess by the size otherwise, and colours shift."""
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = LIMITED_RANGE


def _refusal(path: Path, error: av.FFmpegError) -> Exception:
    if isinstance(error, OSError) or error.errno in errno.errorcode:
        return OSError(error.errno, error.strerror, str(path))
    return UserError(f"{path}: cannot be encoded ({error.strerror}); write another format")
