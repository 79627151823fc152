"""Video files: frames come back exactly, and what is missing, broken or too short is refused by name."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from toolkit.errors import UserError
from toolkit.video import (
    iterate_video,
    probe,
    read_video,
    strip_png,
    to_frames,
    to_unit_range,
    write_strip,
)

FRAMES, HEIGHT, WIDTH = 6, 16, 24


def write_video(path: Path, pictures: np.ndarray, codec: str, pix_fmt: str, **options: str) -> Path:
    """Encode `(T, H, W, 3)` uint8."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=24)
        stream.height, stream.width, stream.pix_fmt = pictures.shape[1], pictures.shape[2], pix_fmt
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def lossless(tmp_path_factory: pytest.TempPathFactory, pictures: np.ndarray) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "clip.mov", pictures, "png", "rgb24")


@pytest.fixture(scope="module")
def streamable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .mp4 of 30 frames whose index stands at the beginning, so that a part of it still opens."""
    pictures = np.random.default_rng(1).integers(0, 256, (30, 48, 64, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("streamable") / "clip.mp4"
    return write_video(path, pictures, "mpeg4", "yuv420p", movflags="faststart")


def test_decodes_every_frame_exactly_with_channels_first(lossless: Path, pictures: np.ndarray) -> None:
    frames = read_video(lossless)
    assert frames.dtype == torch.uint8
    np.testing.assert_array_equal(frames.numpy(), pictures.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (2, 5), (5, 6), (3, None)])
def test_decodes_the_asked_for_frames_only(lossless: Path, pictures: np.ndarray, start: int, stop: int | None) -> None:
    frames = read_video(lossless, start, stop)
    np.testing.assert_array_equal(frames.numpy(), pictures[start:stop].transpose(0, 3, 1, 2))


def test_frames_come_one_at_a_time(lossless: Path, pictures: np.ndarray) -> None:
    frames = iterate_video(lossless, 1)
    np.testing.assert_array_equal(next(frames), pictures[1])
    np.testing.assert_array_equal(next(frames), pictures[2])


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])  # .mkv does not declare how many frames it has
def test_length_and_size_are_known_without_decoding(tmp_path: Path, pictures: np.ndarray, suffix: str) -> None:
    path = write_video(tmp_path / f"clip.{suffix}", pictures, "mpeg4", "yuv420p")
    info = probe(path)
    assert (info.frames, info.height, info.width) == (FRAMES, HEIGHT, WIDTH)


def test_resizes_by_area_averaging_to_height_and_width(lossless: Path, pictures: np.ndarray) -> None:
    frames = read_video(lossless, size=(HEIGHT // 2, WIDTH // 4))
    blocks = pictures.astype(np.float64).reshape(FRAMES, HEIGHT // 2, 2, WIDTH // 4, 4, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(frames.numpy(), blocks.transpose(0, 3, 1, 2), atol=1.5)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.mp4: no such video file"):
        read_video(tmp_path / "absent.mp4")


def test_folder_is_no_video_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such video file"):
        read_video(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(np.random.default_rng(0).bytes(5000), id="random bytes"),
        pytest.param(b"", id="empty"),
        pytest.param(b"not a video\n" * 50, id="text"),
    ],
)
def test_file_that_only_has_the_name_of_a_video_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fake.mp4"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"fake\.mp4: cannot be decoded as a video"):
        read_video(path)


def test_file_without_pictures_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(8000))
    with pytest.raises(UserError, match=r"sound\.mp4: holds no video stream"):
        read_video(path)


def test_file_cut_before_its_index_is_refused(tmp_path: Path, lossless: Path) -> None:
    content = lossless.read_bytes()
    path = tmp_path / "cut.mov"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cut\.mov: cannot be decoded as a video"):
        read_video(path)


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("stop", [30, None])
def test_file_cut_within_its_frames_is_refused(
    tmp_path: Path, streamable: Path, share: float, stop: int | None
) -> None:
    assert read_video(streamable, 0, stop).shape[0] == 30
    content = streamable.read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"cut\.mp4: "):
        read_video(path, 0, stop)


def test_overwritten_frames_are_refused(tmp_path: Path, streamable: Path) -> None:
    content = bytearray(streamable.read_bytes())
    for position in range(content.index(b"mdat") + 8, len(content), 7):
        content[position] ^= 0xFF
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged\.mp4: (cannot be decoded as a video|frame 0 is damaged)"):
        read_video(path)


@pytest.mark.parametrize(("start", "stop"), [(0, 7), (4, 9), (6, 7), (20, 22), (6, None)])
def test_too_few_frames_are_refused_with_how_many_there_are(lossless: Path, start: int, stop: int | None) -> None:
    with pytest.raises(UserError, match=rf"clip\.mov: has only {FRAMES} frames; frames (from )?{start} "):
        read_video(lossless, start, stop)


def test_every_byte_value_survives_the_way_to_unit_range_and_back() -> None:
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(2, 3, 1, 1)
    video = to_unit_range(values)
    assert video.shape == (3, 2, 16, 16)
    np.testing.assert_allclose(video[0, 0].flatten().numpy(), np.arange(256) / 127.5 - 1, atol=1e-6)
    assert torch.equal(to_frames(video), values)


def test_time_and_channels_change_places_on_the_way_to_a_model() -> None:
    frames = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    frames[2, 1] = 255
    video = to_unit_range(frames)
    assert (video[1, 2] == 1).all()
    assert (video == -1).sum() == video.numel() - 4


def test_values_beyond_the_range_become_black_and_white() -> None:
    video = torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0]).repeat(3, 1, 1, 1)
    assert to_frames(video)[0, 0].flatten().tolist() == [0, 0, 128, 255, 255]


def test_strip_has_a_row_for_each_frame_and_a_column_for_each_video(tmp_path: Path) -> None:
    left = torch.stack([torch.full((3, 2, 3), value) for value in (-1.0, 0.0, 1.0)], dim=1)
    right = -left
    picture = np.asarray(Image.open(io.BytesIO(strip_png([left, right], [0, 2]))))
    assert picture.shape == (4, 6, 3)
    assert (picture[:2, :3] == 0).all()
    assert (picture[:2, 3:] == 255).all()
    assert (picture[2:, :3] == 255).all()
    assert (picture[2:, 3:] == 0).all()
    write_strip(tmp_path / "samples" / "strip.png", [left, right], [0, 2])
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "samples" / "strip.png")), picture)
