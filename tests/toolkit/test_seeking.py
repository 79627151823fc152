"""Reading from the middle of a video gives the frames of a decoding from the beginning, or says why it cannot."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import recipes
from toolkit.errors import UserError
from toolkit.shards import find_videos
from toolkit.video import iterate_video, read_video

FRAMES, HEIGHT, WIDTH, GROUP = 40, 48, 64, 10
EVEN = list(range(FRAMES))
UNEVEN = [0, 1, 4, 5, 6, 10, 12, *range(14, FRAMES + 6), FRAMES + 9]
X264 = {"preset": "veryfast", "g": str(GROUP), "bf": "3", "b-adapt": "0"}
X265 = f"keyint={GROUP}:min-keyint={GROUP}:bframes=3:scenecut=0:log-level=none"

Encoded = tuple[str, dict[str, str], dict[str, str], list[int]]  # codec, its options, the container's, times
SOUGHT: dict[str, Encoded] = {
    "h264.mp4": ("libx264", X264, {}, EVEN),
    "h264-start.mp4": ("libx264", X264, {"movflags": "faststart"}, EVEN),
    "h264-no-b.mov": ("libx264", {**X264, "bf": "0"}, {}, EVEN),
    "h264-late.mp4": ("libx264", X264, {}, [time + 7 for time in EVEN]),
    "h264-uneven.mp4": ("libx264", X264, {}, UNEVEN),
    "h264-no-edit-list.mp4": ("libx264", X264, {"use_editlist": "0"}, EVEN),
    "h264-negative-offsets.mp4": ("libx264", X264, {"movflags": "negative_cts_offsets"}, EVEN),
    "hevc-open.mp4": ("libx265", {"x265-params": X265}, {}, EVEN),
    "hevc-open-uneven.mp4": ("libx265", {"x265-params": X265}, {}, UNEVEN),
    "hevc-closed.mp4": ("libx265", {"x265-params": X265 + ":open-gop=0"}, {}, EVEN),
    "vp9.mp4": ("libvpx-vp9", {"g": str(GROUP), "lag-in-frames": "16", "auto-alt-ref": "1", "cpu-used": "8"}, {}, EVEN),
    "av1.mp4": ("libsvtav1", {"g": str(GROUP), "preset": "12", "svtav1-params": "lp=1"}, {}, EVEN),
    "mjpeg.mov": ("mjpeg", {}, {}, EVEN),
}
DECODED_THROUGH: dict[str, Encoded] = {
    "h264-open.mp4": ("libx264", {**X264, "x264-params": "open-gop=1:scenecut=0"}, {}, EVEN),
    "h264-refreshed.mp4": ("libx264", {**X264, "bf": "0", "x264-params": "intra-refresh=1"}, {}, EVEN),
    "h264-fragments.mp4": ("libx264", X264, {"movflags": "frag_keyframe+empty_moov"}, EVEN),
    "h264.mkv": ("libx264", X264, {}, UNEVEN),
    "vp9.webm": ("libvpx-vp9", {"g": str(GROUP), "cpu-used": "8"}, {}, EVEN),
    "mpeg4.mp4": ("mpeg4", {"g": str(GROUP), "bf": "2"}, {}, EVEN),
    "mpeg4.avi": ("mpeg4", {"g": str(GROUP), "bf": "2"}, {}, EVEN),
}
ALL = SOUGHT | DECODED_THROUGH


def write_video(path: Path, encoded: Encoded) -> Path:
    """A picture of noise under which the camera moves, so that no two frames are alike and B-frames pay."""
    codec, options, container_options, times = encoded
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT + FRAMES, WIDTH + FRAMES, 3), dtype=np.uint8)
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=24, options=options)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number, time in enumerate(times):
            picture = np.ascontiguousarray(noise[number : number + HEIGHT, number : number + WIDTH])
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if codec == "libsvtav1" and hasattr(os, "sched_setscheduler"):
        os.sched_setscheduler(
            0, os.SCHED_OTHER, os.sched_param(0)
        )  # for root it takes real-time priority, and keeps it
    return path


def decoded(path: Path) -> np.ndarray:
    """All frames `(T, 3, H, W)`, from the beginning, by nothing of ours."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames).transpose(0, 3, 1, 2)


def packets(path: Path) -> list[tuple[int, int, bool]]:
    """Position, size and whether it is a key frame, of each packet in order of decoding."""
    with av.open(str(path)) as container:
        return [(p.pos or 0, p.size, p.is_keyframe) for p in container.demux(video=0) if p.size]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("videos")

    def written(name: str) -> Path:
        path = folder / name
        return path if path.exists() else write_video(path, ALL[name])

    return written


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_every_start_gives_the_frames_of_a_decoding_from_the_beginning(video: Callable[[str], Path], name: str) -> None:
    whole = decoded(video(name))
    assert len(whole) == FRAMES
    for start in range(FRAMES):
        frames = read_video(video(name), start, min(start + 3, FRAMES))
        np.testing.assert_array_equal(frames.numpy(), whole[start : start + 3])
    for start in range(3, FRAMES, 9):
        np.testing.assert_array_equal(read_video(video(name), start).numpy(), whole[start:])


def test_a_member_of_a_shard_reads_alike_from_anywhere(video: Callable[[str], Path], tmp_path: Path) -> None:
    shard = tmp_path / "shard.tar"
    with tarfile.open(shard, "w") as archive:
        archive.add(video("vp9.mp4"), "first.mp4")
        archive.add(video("h264.mp4"), "second.mp4")
    whole = decoded(video("h264.mp4"))
    member = find_videos(shard)[1]
    for start in range(FRAMES):
        np.testing.assert_array_equal(read_video(member, start, start + 1).numpy(), whole[start : start + 1])


@pytest.mark.slow
def test_the_embedded_clip_reads_alike_from_anywhere() -> None:
    clip = Path(recipes.__file__).parent / "assets" / "big_buck_bunny.mp4"
    whole = decoded(clip)
    for start in (*range(0, len(whole) - 2, 10), len(whole) - 2):
        np.testing.assert_array_equal(read_video(clip, start, start + 2).numpy(), whole[start : start + 2])


def overwritten(path: Path, target: Path, numbers: range) -> Path:
    content = bytearray(path.read_bytes())
    for position, size, _ in [packets(path)[number] for number in numbers]:
        content[position : position + size] = bytes(size)
    target.write_bytes(content)
    return target


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SOUGHT if name != "mjpeg.mov"])
def test_frames_far_before_the_start_are_not_decoded(video: Callable[[str], Path], name: str, tmp_path: Path) -> None:
    """They cannot be: nothing is left of them."""
    keys = [number for number, packet in enumerate(packets(video(name))) if packet[2]]
    assert len(keys) >= 4
    broken = overwritten(video(name), tmp_path / name, range(1, keys[2]))
    for start in range(keys[2] + 3, FRAMES - 2):  # an open group leads its key frame by three at most
        expected = decoded(video(name))[start : start + 2]
        np.testing.assert_array_equal(read_video(broken, start, start + 2).numpy(), expected)


@pytest.mark.slow
@given(number=st.integers(0, FRAMES - 1), start=st.integers(1, FRAMES - 2))
@pytest.mark.parametrize("name", ["h264.mp4", "hevc-open.mp4"])
def test_a_damaged_file_is_an_error_or_read_exactly(
    video: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, name: str, number: int, start: int
) -> None:
    broken = overwritten(video(name), tmp_path_factory.mktemp("broken") / name, range(number, number + 1))
    frames = None
    with suppress(UserError):
        frames = read_video(broken, start, start + 2)
    if frames is not None:
        np.testing.assert_array_equal(frames.numpy(), decoded(video(name))[start : start + 2])


def test_a_damaged_frame_is_named_wherever_the_reading_began(video: Callable[[str], Path], tmp_path: Path) -> None:
    name = "h264-no-b.mov"
    keys = [number for number, packet in enumerate(packets(video(name))) if packet[2]]
    broken = overwritten(video(name), tmp_path / name, range(keys[2] + 2, keys[2] + 3))
    for start in (0, keys[1] + 1, keys[2], keys[2] + 1, keys[2] + 2):
        with pytest.raises(UserError, match=rf"{name}: (frame {keys[2] + 2} is damaged|cannot be decoded)"):
            read_video(broken, start, keys[2] + 4)


@pytest.mark.parametrize("share", [0.4, 0.6, 0.9])
def test_a_file_cut_short_breaks_off_wherever_the_reading_began(
    video: Callable[[str], Path], tmp_path: Path, share: float
) -> None:
    content = video("h264-start.mp4").read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(content[: int(len(content) * share)])
    for start in range(0, FRAMES, 3):
        with pytest.raises(UserError, match=r"cut\.mp4: "):
            read_video(cut, start)


@pytest.mark.parametrize("name", ["h264.mp4", "hevc-open.mp4"])
def test_frames_that_an_edit_list_hides_are_not_counted(
    video: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    """As where a file was cut without encoding it anew: it begins at a key frame, and shows from a later one on."""
    cut = tmp_path / "cut.mp4"
    with (
        av.open(str(video(name))) as source,
        av.open(str(cut), "w", options={"avoid_negative_ts": "disabled"}) as target,
    ):
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        hidden = int(4 / 24 / stream.time_base)
        for packet in source.demux(stream):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - hidden, packet.dts - hidden, copy
                target.mux(packet)
    whole = decoded(cut)
    assert len(whole) == FRAMES - 4
    for start in range(0, len(whole), 3):
        np.testing.assert_array_equal(read_video(cut, start, start + 1).numpy(), whole[start : start + 1])


@pytest.mark.parametrize(("start", "stop"), [(35, 41), (38, 60), (40, 41), (70, 72)])
def test_too_few_frames_are_counted_from_the_beginning(video: Callable[[str], Path], start: int, stop: int) -> None:
    with pytest.raises(UserError, match=rf"has only {FRAMES} frames; frames {start} to {stop}"):
        read_video(video("h264.mp4"), start, stop)


def test_resized_frames_are_the_same(video: Callable[[str], Path]) -> None:
    path = video("h264.mp4")
    whole = list(iterate_video(path, size=(24, 32)))
    np.testing.assert_array_equal(np.stack(list(iterate_video(path, 23, 27, (24, 32)))), np.stack(whole[23:27]))
