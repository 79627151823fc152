"""`handheld flow` on real files: what it writes and prints, and one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.sources import moving_texture
from tests.command_line import handheld, refusal
from tests.conftest import write_clip
from toolkit.flow_files import read_flo
from toolkit.video import probe

pytestmark = pytest.mark.slow  # the bundle takes several seconds to make


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    """A texture that moves, 80x120 pixels."""
    paths = tmp_path / "a.png", tmp_path / "b.png"
    for path, image in zip(paths, moving_texture((80, 120)), strict=True):
        Image.fromarray((image[0].permute(1, 2, 0) * 255).byte().numpy()).save(path)
    return paths


def test_two_images_become_a_picture_or_numbers(
    images: tuple[Path, Path], flow_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert handheld("flow", *images, "--model", flow_bundle, "-o", tmp_path / "flow.png") == 0
    printed = capsys.readouterr().out
    assert "flow.png: 120x80, mean length " in printed
    assert "by onnx-fp32 in ONNX Runtime" in printed
    assert "computed at 96x64 and scaled back" in printed
    assert np.asarray(Image.open(tmp_path / "flow.png")).shape == (80, 120, 3)
    assert handheld("flow", *images, "--model", flow_bundle, "--output", tmp_path / "flow.flo", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    lengths = np.linalg.norm(read_flo(tmp_path / "flow.flo"), axis=0)
    assert (result["size"], result["computed_at"]) == ([80, 120], [64, 96])
    assert result["mean_length"] == pytest.approx(lengths.mean(), rel=1e-4)
    assert result["longest"] == pytest.approx(lengths.max(), rel=1e-4)


def test_tiles_can_be_asked_for_and_are_counted(
    images: tuple[Path, Path], flow_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["flow", *images, "--model", flow_bundle, "-o", tmp_path / "flow.flo"]
    assert handheld(*command, "--tiles") == 0
    captured = capsys.readouterr()
    assert "in 5 tiles of 96x64" in captured.out
    assert "flow 5/5 tiles" in captured.err
    assert handheld(*command, "--tiles", "--json") == 0
    assert json.loads(capsys.readouterr().out)["tiles"] == 5
    assert handheld(*command, "--no-tiles", "--json") == 0
    assert json.loads(capsys.readouterr().out)["tiles"] == 0


def test_a_video_is_interpolated(flow_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip, output = write_clip(tmp_path / "clip.mp4", frames=4), tmp_path / "out.mp4"
    assert handheld("flow", clip, "--model", flow_bundle, "-o", output, "--interpolate") == 0
    captured = capsys.readouterr()
    assert "out.mp4: 64x48, 7 frames at 48 a second" in captured.out
    assert "interpolate 4/4" in captured.err
    assert probe(output).frames == 7


def test_every_mistake_ends_in_one_line(
    images: tuple[Path, Path], flow_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = images
    model = ["--model", flow_bundle, "-o", tmp_path / "flow.png"]
    assert "name the second one, or add --interpolate" in refusal(capsys, 2, "flow", first, *model)
    assert "takes one video" in refusal(capsys, 2, "flow", first, second, *model, "--interpolate")
    assert "unknown ending of a video file '.png'" in refusal(capsys, 2, "flow", first, *model, "--interpolate")
    assert "none.png: no such file" in refusal(capsys, 2, "flow", first, tmp_path / "none.png", *model)
    assert "unknown target" in refusal(capsys, 2, "flow", first, second, *model, "--target", "coreml-fp16")
    assert "no bundle" in refusal(capsys, 2, "flow", first, second, "--model", tmp_path, "-o", tmp_path / "f.png")
    assert "would be overwritten" in refusal(capsys, 2, "flow", first, second, "--model", flow_bundle, "-o", first)
    (tmp_path / "folder.png").mkdir()
    folder = ["--model", flow_bundle, "-o", tmp_path / "folder.png"]
    assert "folder.png: Is a directory" in refusal(capsys, 2, "flow", first, second, *folder)
    inside_file = first / "flow.png"
    assert str(first) in refusal(capsys, 2, "flow", first, second, "--model", flow_bundle, "-o", inside_file)
    assert not (tmp_path / "flow.png").exists()
