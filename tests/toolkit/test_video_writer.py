"""Video files out: frames, rate and colours come back, and a failure leaves nothing."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from toolkit import video_writer as module
from toolkit.errors import UserError
from toolkit.video import probe, read_video
from toolkit.video_writer import video_codec, video_writer

COLOURS = [(220, 30, 40), (20, 200, 60), (40, 60, 210), (128, 128, 128)]


def write(path: Path, size: tuple[int, int] = (48, 64), rate: Fraction = Fraction(30)) -> None:
    with video_writer(path, size, rate) as append:
        for colour in COLOURS:
            append(np.broadcast_to(np.array(colour, np.uint8), (*size, 3)))


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "A.MP4"])
def test_frames_come_back_with_their_colours(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    found = read_video(tmp_path / name).numpy()
    assert found.shape == (4, 3, 48, 64)
    assert np.abs(found.mean(axis=(2, 3)) - COLOURS).max() < 4
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_file_says_how_its_colours_are_meant(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range) == (1, 1)
        assert context.pix_fmt == "yuv420p"


@pytest.mark.parametrize("rate", [Fraction(60000, 1001), Fraction(50), Fraction(1, 2)])
def test_the_rate_is_kept(tmp_path: Path, rate: Fraction) -> None:
    write(tmp_path / "a.mp4", rate=rate)
    assert probe(tmp_path / "a.mp4").rate == rate


def test_without_h264_it_is_mpeg4_at_any_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.av, "codecs_available", set())
    assert video_codec() == "mpeg4"
    write(tmp_path / "a.mp4", rate=Fraction(2997003, 50000))  # finer than MPEG-4 can say
    found = probe(tmp_path / "a.mp4")
    assert found.frames == 4
    assert found.rate is not None
    assert float(found.rate) == pytest.approx(59.94006, rel=1e-4)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"


def test_an_odd_side_loses_its_last_line(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", size=(49, 65))
    found = probe(tmp_path / "a.mp4")
    assert (found.height, found.width) == (48, 64)


def fail_in_the_middle(path: Path) -> None:
    with video_writer(path, (48, 64), Fraction(5)) as append:
        append(np.zeros((48, 64, 3), np.uint8))
        raise UserError("in the middle")


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("before")
    with pytest.raises(UserError, match="in the middle"):
        fail_in_the_middle(tmp_path / "a.mp4")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.mp4", "before")]


def test_an_unknown_ending_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown ending of a video file '\.avi'.*\.mkv, \.mov, \.mp4"):
        write(tmp_path / "a.avi")
    assert not list(tmp_path.iterdir())
