"""Flow of files and of videos by a bundle whose flow is known: sizes, targets, formats, and inputs that are refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import devices
import export
from devices.optical_flow import FlowModel
from export.sources import flow_source, moving_texture
from tests.conftest import write_clip
from tests.devices.conftest import MakeBundle
from tests.export.test_flow import random_student
from toolkit.bundle import read_manifest, seal
from toolkit.errors import CheckFailed, DeviceError, UserError
from toolkit.flow_files import read_flo
from toolkit.video import probe, read_video
from toolkit.video_writer import video_writer

pytestmark = pytest.mark.slow  # the bundle takes several seconds to make

SIZE = (64, 96)


class Quotient(torch.nn.Module):
    """Not a network: 8 times red and green of the first image, divided by those of the second."""

    def forward(self, image1: torch.Tensor, image2: torch.Tensor) -> torch.Tensor:
        return 8 * image1[:, :2] / image2[:, :2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quotient") / "bundle"
    source = flow_source("quotient", random_student(), moving_texture(SIZE))
    export.export(replace(source, module=Quotient().eval()), ["executorch-xnnpack-fp32", "onnx-fp32"], path)
    return path


class Lookup(torch.nn.Module):
    """Not a network: 20 times the difference of red and of green, from a table that ends at 16."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(-16.0, 17.0))
        self.table: torch.Tensor

    def forward(self, image1: torch.Tensor, image2: torch.Tensor) -> torch.Tensor:
        places = ((image1[:, :2] - image2[:, :2]) * 20).round().int() + 16
        return self.table.index_select(0, places.reshape(-1)).reshape(places.shape)


@pytest.fixture(scope="module")
def still_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finds nothing between identical images, and fails in every runtime on a difference above 0.8."""
    path = tmp_path_factory.mktemp("lookup") / "bundle"
    source = flow_source("lookup", random_student(), moving_texture(SIZE))
    export.export(replace(source, module=Lookup().eval()), ["executorch-xnnpack-fp32", "onnx-fp32"], path)
    return path


def keep_targets(bundle: Path, copy: Path, *targets: str) -> Path:
    """A copy of the bundle with only some of its artifacts."""
    shutil.copytree(bundle, copy)
    manifest = read_manifest(copy)
    seal(copy, manifest.model_copy(update={"artifacts": [manifest.artifact(target) for target in targets]}))
    return copy


def save(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = SIZE) -> Path:
    Image.new("RGB", (size[1], size[0]), colour).save(path)
    return path


def pair(folder: Path, size: tuple[int, int] = SIZE) -> tuple[Path, Path]:
    """Two images whose `Quotient` is (4, 2)."""
    return save(folder / "a.png", (100, 50, 0), size), save(folder / "b.png", (200, 200, 200), size)


@pytest.mark.parametrize("size", [SIZE, (128, 192), (33, 48), (64, 97)])
def test_flow_comes_at_the_images_size_in_their_pixels(bundle: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    result = devices.flow(*pair(tmp_path, size), bundle, tmp_path / "out" / "flow.flo")
    found = read_flo(tmp_path / "out" / "flow.flo")
    assert found.shape == (2, *size)
    x, y = 4 * size[1] / SIZE[1], 2 * size[0] / SIZE[0]
    np.testing.assert_allclose(found[0], x, rtol=1e-4)
    np.testing.assert_allclose(found[1], y, rtol=1e-4)
    assert (result.size, result.computed_at, result.full_colour) == (size, SIZE, None)
    assert result.mean_length == pytest.approx(result.longest, rel=1e-3)
    assert result.longest == pytest.approx(np.hypot(x, y), rel=1e-3)


def test_images_of_more_than_twice_a_side_are_computed_in_tiles(still_bundle: Path, tmp_path: Path) -> None:
    shifted = pair(tmp_path, (128, 288))
    whole = devices.flow(*shifted, still_bundle, tmp_path / "whole.flo", tiles=False)
    tiled = devices.flow(*shifted, still_bundle, tmp_path / "tiled.flo")
    assert (whole.tiles, whole.computed_at) == (0, SIZE)
    assert tiled.tiles == FlowModel(still_bundle).tile_count((128, 288)) > 9
    small = pair(tmp_path)
    assert devices.flow(*small, still_bundle, tmp_path / "small.flo").tiles == 0
    assert devices.flow(*small, still_bundle, tmp_path / "small.flo", tiles=True).tiles == 2


@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize("size", [SIZE, (70, 250)])
def test_identical_frames_rest(still_bundle: Path, tmp_path: Path, size: tuple[int, int], tiles: bool) -> None:
    assert longest_between_identical_frames(still_bundle, tmp_path, size, tiles) == 0


def longest_between_identical_frames(bundle: Path, folder: Path, size: tuple[int, int], tiles: bool) -> float:
    """The longest vector, in pixels, that a bundle finds between a texture of `size` and itself."""
    texture = moving_texture(size)[0][0].permute(1, 2, 0).mul(255).byte().numpy()
    Image.fromarray(texture).save(folder / "frame.png")
    frame = folder / "frame.png"
    return devices.flow(frame, frame, bundle, folder / "flow.flo", tiles=tiles).longest


def test_each_half_of_an_image_keeps_its_flow(bundle: Path, tmp_path: Path) -> None:
    halves = np.full((128, 192, 3), 50, np.uint8)
    halves[:, 96:] = 100
    Image.fromarray(halves).save(tmp_path / "a.png")
    devices.flow(tmp_path / "a.png", save(tmp_path / "b.png", (200, 200, 200), (128, 192)), bundle, tmp_path / "f.flo")
    found = read_flo(tmp_path / "f.flo")
    np.testing.assert_allclose(found[:, :, :92], 4, rtol=1e-4)
    np.testing.assert_allclose(found[:, :, 100:], 8, rtol=1e-4)


@pytest.mark.parametrize("target", ["onnx-fp32", "executorch-xnnpack-fp32", "reference"])
def test_every_runtime_computes_each_pair_anew(bundle: Path, target: str) -> None:
    model = FlowModel(bundle, target)
    images = [torch.full((3, *SIZE), level) for level in (0.25, 0.5, 1.0)]
    first, second = model(images[0], images[1]), model(images[0], images[2])
    torch.testing.assert_close(first, torch.full((2, *SIZE), 4.0))
    torch.testing.assert_close(second, torch.full((2, *SIZE), 2.0))


def test_the_first_onnx_artifact_runs_unless_another_is_named(bundle: Path, tmp_path: Path) -> None:
    images = pair(tmp_path)
    assert devices.flow(*images, bundle, tmp_path / "a.flo").target == "onnx-fp32"
    named = devices.flow(*images, bundle, tmp_path / "b.flo", "executorch-xnnpack-fp32")
    assert named.runtime.startswith("ExecuTorch")
    assert (tmp_path / "a.flo").read_bytes() == (tmp_path / "b.flo").read_bytes()


def test_a_target_that_cannot_run_is_refused_with_those_that_can(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"this machine runs in .*bundle: 'coreml-fp16'.*Known: .*onnx-fp32, reference"):
        FlowModel(bundle, "coreml-fp16")
    without = keep_targets(bundle, tmp_path / "without", "executorch-xnnpack-fp32")
    with pytest.raises(UserError, match=r"holds no ONNX artifact; name one with --target: executorch-xnnpack-fp32$"):
        FlowModel(without)


def test_a_picture_is_saturated_at_the_length_that_it_says(bundle: Path, tmp_path: Path) -> None:
    result = devices.flow(*pair(tmp_path), bundle, tmp_path / "flow.png")
    assert result.full_colour == pytest.approx(np.hypot(4, 2), rel=1e-4)
    picture = np.asarray(Image.open(tmp_path / "flow.png"))
    assert picture.shape == (*SIZE, 3)
    assert picture.min() < 10


def test_next_to_no_motion_is_next_to_white(bundle: Path, tmp_path: Path) -> None:
    still = save(tmp_path / "still.png", (0, 1, 0)), save(tmp_path / "white.png", (255, 255, 255))
    assert devices.flow(*still, bundle, tmp_path / "flow.png").full_colour == 1
    assert np.asarray(Image.open(tmp_path / "flow.png")).min() > 240


def test_grey_alpha_and_16_bits_are_taken(bundle: Path, tmp_path: Path) -> None:
    grey = np.full(SIZE, 100, np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([grey] * 4)).save(tmp_path / "alpha.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey-16.png")
    assert cv2.imwrite(str(tmp_path / "colour-16.png"), np.dstack([grey] * 3).astype(np.uint16) * 257)
    second = save(tmp_path / "b.png", (200, 200, 200))
    for name in ("grey.png", "alpha.png", "grey-16.png", "colour-16.png"):
        devices.flow(tmp_path / name, second, bundle, tmp_path / "flow.flo")
        np.testing.assert_allclose(read_flo(tmp_path / "flow.flo"), 4, rtol=1e-4)


def test_flow_that_is_not_finite_is_refused(bundle: Path, tmp_path: Path) -> None:
    first, black = save(tmp_path / "a.png", (9, 9, 9)), save(tmp_path / "b.png", (0, 0, 0))
    with pytest.raises(DeviceError, match=r"model\.onnx: gave flow that is not finite; name another --target"):
        devices.flow(first, black, bundle, tmp_path / "flow.flo")
    assert not (tmp_path / "flow.flo").exists()


@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize("target", ["onnx-fp32", "executorch-xnnpack-fp32", "reference"])
def test_a_runtime_that_fails_is_named_and_leaves_no_file(
    still_bundle: Path, tmp_path: Path, target: str, tiles: bool
) -> None:
    images = save(tmp_path / "white.png", (255, 255, 255)), save(tmp_path / "black.png", (0, 0, 0))
    with pytest.raises(DeviceError, match=r"(model\.\w+|reference\.pt2): \w+ could not run it \(.*\)$"):
        devices.flow(*images, still_bundle, tmp_path / "flow.flo", target, tiles)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["black.png", "white.png"]


def test_a_runtime_that_fails_in_the_middle_of_a_video_leaves_no_file(still_bundle: Path, tmp_path: Path) -> None:
    with video_writer(tmp_path / "flash.mp4", SIZE, Fraction(10)) as append:
        for level in (10, 10, 10, 250):
            append(np.full((*SIZE, 3), level, np.uint8))
    with pytest.raises(DeviceError, match=r"model\.onnx: onnx could not run it"):
        devices.interpolate(tmp_path / "flash.mp4", still_bundle, tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["flash.mp4"]


def test_too_little_memory_is_one_line(still_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devices.optical_flow.scaled", lambda *_: torch.empty(2**60))  # more than any machine has
    with pytest.raises(DeviceError, match="images of 96 x 64 pixels: out of memory; close other programs or give"):
        devices.flow(*pair(tmp_path), still_bundle, tmp_path / "flow.flo")
    assert not (tmp_path / "flow.flo").exists()


def test_an_input_is_not_overwritten(bundle: Path, tmp_path: Path) -> None:
    first, second = pair(tmp_path)
    (tmp_path / "link.png").symlink_to(second)
    for output in (first, second, tmp_path / "link.png"):
        before = output.read_bytes()
        with pytest.raises(UserError, match=rf"{output.name}: is what is read, and would be overwritten; name another"):
            devices.flow(first, second, bundle, output)
        assert output.read_bytes() == before
    clip = write_clip(tmp_path / "clip.mp4", frames=3)
    with pytest.raises(UserError, match=r"clip\.mp4: is what is read"):
        devices.interpolate(clip, bundle, clip)


def test_a_folder_as_the_output_is_refused_and_a_missing_folder_made(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.flo").mkdir()
    with pytest.raises(IsADirectoryError):
        devices.flow(*pair(tmp_path), bundle, tmp_path / "folder.flo")
    devices.flow(*pair(tmp_path), bundle, tmp_path / "new" / "deep" / "flow.flo")
    assert (tmp_path / "new" / "deep" / "flow.flo").is_file()


def test_images_that_do_not_fit_are_refused_by_name(bundle: Path, tmp_path: Path) -> None:
    first, second = pair(tmp_path)
    wide = save(tmp_path / "wide.png", (9, 9, 9), (64, 100))
    tiny = save(tmp_path / "tiny.png", (9, 9, 9), (31, 100))
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes(second.read_bytes()[:-40])
    clip = write_clip(tmp_path / "clip.mp4", frames=2)
    cases = [
        (first, wide, "flow.png", r"wide\.png: is 100 x 64 pixels, .*a\.png 96 x 64 pixels; give two images of one"),
        (tiny, tiny, "flow.png", r"tiny\.png: is 100 x 31 pixels; optical flow takes sides of 32 pixels at least"),
        (first, tmp_path / "text.png", "flow.png", r"text\.png: cannot be read as an image"),
        (first, tmp_path / "cut.png", "flow.png", r"cut\.png: cannot be read as an image .*; save it or copy it again"),
        (clip, second, "flow.png", r"clip\.mp4: is a video; give two images, or this video alone with --interpolate"),
        (tmp_path / "none.png", second, "flow.png", r"none\.png: no such file"),
        (first, second, "flow.jpg", r"unknown ending of a flow '\.jpg'.*Known: \.flo, \.png"),
    ]
    for one, two, output, reason in cases:
        with pytest.raises(UserError, match=reason):
            devices.flow(one, two, bundle, tmp_path / output)
    assert not list(tmp_path.glob("flow.*"))


def test_bundles_without_flow_or_changed_are_refused(make_bundle: MakeBundle, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds a module of unknown task, no optical flow; export a flow student"):
        FlowModel(make_bundle())
    with pytest.raises(UserError, match="no bundle"):
        FlowModel(tmp_path)
    changed = tmp_path / "changed"
    shutil.copytree(bundle, changed)
    (changed / "model.onnx").write_bytes(b"other")
    with pytest.raises(CheckFailed, match=r"model\.onnx: changed"):
        FlowModel(changed)


def test_a_video_doubles_its_frames_and_its_rate(flow_bundle: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=6)
    result = devices.interpolate(clip, flow_bundle, tmp_path / "out.mp4")
    assert (result.frames, result.rate, result.size, result.computed_at) == (11, 48, (48, 64), SIZE)
    info = probe(tmp_path / "out.mp4")
    assert (info.frames, info.height, info.width, info.rate) == (11, 48, 64, 48)
    before, after = read_video(clip).float(), read_video(tmp_path / "out.mp4").float()
    assert (after[::2] - before).abs().mean() < 4  # its own frames are kept, but for the encoding


def test_large_frames_are_computed_in_tiles(still_bundle: Path, tmp_path: Path) -> None:
    with video_writer(tmp_path / "wide.mp4", (64, 200), Fraction(10)) as append:
        for _ in range(2):
            append(np.full((64, 200, 3), 100, np.uint8))
    tiled = devices.interpolate(tmp_path / "wide.mp4", still_bundle, tmp_path / "out.mp4")
    assert tiled.tiles == FlowModel(still_bundle).tile_count((64, 200)) > 1
    assert devices.interpolate(tmp_path / "wide.mp4", still_bundle, tmp_path / "out.mp4", tiles=False).tiles == 0


def test_a_frame_between_two_greys_is_between_them(bundle: Path, tmp_path: Path) -> None:
    with video_writer(tmp_path / "greys.mp4", SIZE, Fraction(10)) as append:
        for level in (100, 120, 140):
            append(np.full((*SIZE, 3), level, np.uint8))
    devices.interpolate(tmp_path / "greys.mp4", bundle, tmp_path / "out.mkv")
    found = read_video(tmp_path / "out.mkv").float()
    for frame, level in zip(found, (100, 110, 120, 130, 140), strict=True):
        assert (frame - level).abs().max() <= 4


def test_videos_that_do_not_fit_are_refused_by_name(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    cases = [
        (write_clip(tmp_path / "one.mp4", frames=1), "out.mp4", r"one\.mp4: has one frame"),
        (write_clip(tmp_path / "tiny.mp4", height=16), "out.mp4", r"tiny\.mp4: is 64 x 16 pixels; optical flow takes"),
        (tmp_path / "text.mp4", "out.mp4", r"text\.mp4: cannot be decoded as a video"),
        (save(tmp_path / "a.png", (9, 9, 9)), "out.mp4", r"a\.png: has one frame, .*; give a video of two at least"),
        (tmp_path / "none.mp4", "out.mp4", r"none\.mp4: no such video file"),
        (write_clip(tmp_path / "good.mp4", frames=3), "out.gif", r"unknown ending of a video file '\.gif'"),
    ]
    for video, output, reason in cases:
        with pytest.raises(UserError, match=reason):
            devices.interpolate(video, bundle, tmp_path / output)
    assert not list(tmp_path.glob("*out*"))


def test_a_video_that_breaks_off_leaves_no_file(flow_bundle: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.avi", frames=12)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    with pytest.raises(UserError, match=r"clip\.avi: "):
        devices.interpolate(clip, flow_bundle, tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.avi"]
