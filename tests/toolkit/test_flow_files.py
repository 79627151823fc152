"""Flow and image files: there and back, against bytes laid by hand, and damaged ones refused by name."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from toolkit.errors import UserError
from toolkit.flow_files import (
    flo_bytes,
    read_flo,
    read_flow,
    read_image,
    read_kitti_png,
    read_mask,
    read_pfm,
    write_flo,
    write_kitti_png,
    write_pfm,
)

FLOW = np.array([[[1.5, -2.25, 0], [7, 100, -300.5]], [[0.25, 3, -1], [np.nan, 8, 9]]], np.float32)  # (2, 2, 3)
KNOWN = FLOW.copy()
KNOWN[0, 1, 0] = np.nan  # unknown in y is unknown

Writer = Callable[[Path, np.ndarray], None]


@pytest.mark.parametrize(("name", "write"), [("a.flo", write_flo), ("a.png", write_kitti_png), ("a.pfm", write_pfm)])
def test_a_flow_comes_back_from_its_file(tmp_path: Path, name: str, write: Writer) -> None:
    write(tmp_path / name, FLOW)
    found = read_flow(tmp_path / name)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, KNOWN)


@given(arrays(np.float32, (2, 3, 4), elements=st.floats(-500, 500, width=32)))
def test_kitti_keeps_a_flow_to_half_a_step(tmp_path_factory: pytest.TempPathFactory, flow: np.ndarray) -> None:
    path = tmp_path_factory.getbasetemp() / "any.png"
    write_kitti_png(path, flow)
    np.testing.assert_allclose(read_kitti_png(path), flow, atol=1 / 128)


def test_flo_is_as_middlebury_lays_it(tmp_path: Path) -> None:
    path = tmp_path / "a.flo"
    path.write_bytes(struct.pack("<fii", 202021.25, 2, 1) + struct.pack("<4f", 1, 2, 3, 4))
    np.testing.assert_array_equal(read_flo(path), [[[1, 3]], [[2, 4]]])
    assert flo_bytes(read_flo(path)) == path.read_bytes()


def test_unknown_points_of_flo_are_beyond_all_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.flo"
    path.write_bytes(struct.pack("<fii", 202021.25, 2, 1) + struct.pack("<4f", 1.666e9, 0, 3, 4))
    assert np.isnan(read_flo(path)[:, 0, 0]).all()


def test_kitti_is_as_its_readme_lays_it(tmp_path: Path) -> None:
    levels = np.array([[(2**15 + 64, 2**15 - 32, 1), (0, 0, 0)]], np.uint16)  # red, green, blue
    assert cv2.imwrite(str(tmp_path / "a.png"), levels[..., ::-1])
    np.testing.assert_array_equal(read_kitti_png(tmp_path / "a.png"), [[[1, np.nan]], [[-0.5, np.nan]]])


def test_pfm_runs_from_the_bottom_row_up_in_either_byte_order(tmp_path: Path) -> None:
    values = [1, 2, 0, 3, 4, 0]  # bottom row, then top row
    for scale, order in (("-1.0", "<"), ("1", ">")):
        (tmp_path / "a.pfm").write_bytes(f"PF\n1 2\n{scale}\n".encode() + struct.pack(f"{order}6f", *values))
        np.testing.assert_array_equal(read_pfm(tmp_path / "a.pfm"), [[[3], [1]], [[4], [2]]])


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.flo", b"JUNKJUNKJUNK", r"is no \.flo file: it begins with b'JUNK', not b'PIEH'"),
        ("a.flo", b"PIEH\x02\x00", "is cut short: 6 bytes, the header alone has 12"),
        ("a.flo", flo_bytes(FLOW)[:-4], "is cut short: 44 bytes of pixels, where 3 x 2 pixels take 48"),
        ("a.flo", flo_bytes(FLOW) + b"more", "is too long: 52 bytes of pixels"),
        ("a.flo", struct.pack("<fii", 202021.25, -3, 2), "its header says -3 x 2 pixels; copy it again"),
        ("a.flo", struct.pack("<fii", 202021.25, 2**31 - 1, 2), "its header says 2147483647 x 2 pixels"),
        ("a.flo", struct.pack("<fii", 202021.25, 90000, 90000), "is cut short: 0 bytes .* 64800000000; copy it again"),
        ("a.flo", b"", "is empty; copy it again"),
        ("a.pfm", b"", "is empty; copy it again"),
        ("a.png", b"", "is empty; copy it again"),
        ("a.pfm", b"P6\n1 1\n255\n", "is no PFM file"),
        ("a.pfm", b"Pf\n1 1\n-1.0\n" + bytes(4), r"has one channel \('Pf'\)"),
        ("a.pfm", b"PF\n2 1\n-1.0\n" + bytes(12), "is cut short: 12 bytes of pixels, where 2 x 1 pixels take 24"),
        ("a.png", b"no picture", "cannot be read as a PNG"),
        ("a.txt", b"", "unknown ending of a flow file '.txt'"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=reason) as caught:
        read_flow(path)
    assert name in str(caught.value) or path.suffix in str(caught.value)


@pytest.mark.parametrize("ending", [".flo", ".png", ".pfm", ".flo5"])
def test_a_missing_file_is_named(tmp_path: Path, ending: str) -> None:
    with pytest.raises(UserError, match=f"a{ending}: no such file"):
        read_flow(tmp_path / f"a{ending}")


@pytest.mark.parametrize("share", [0.001, 0.3, 0.6, 0.999])
def test_a_kitti_file_that_is_cut_short_is_refused_by_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], share: float
) -> None:
    path = tmp_path / "a.png"
    write_kitti_png(path, np.random.default_rng(0).normal(0, 20, (2, 40, 60)).astype(np.float32))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match=r"a\.png: cannot be read as a PNG; copy it again"):
        read_flow(path)
    assert capfd.readouterr().err == ""  # the error alone says it


def test_an_8_bit_picture_is_no_kitti_flow(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="it has 8 bits, 3 channels, where 16 bits and 3 channels are due"):
        read_flow(tmp_path / "a.png")


def test_a_flow_beyond_kittis_range_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ends at -512"):
        write_kitti_png(tmp_path / "a.png", np.full((2, 3, 3), 600, np.float32))
    assert not (tmp_path / "a.png").exists()


def test_flo5_without_h5py_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.flo5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)  # importing it then fails
    with pytest.raises(UserError, match="pip install h5py"):
        read_flow(tmp_path / "a.flo5")


def test_flo5_is_read_and_damaged_ones_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.flo5"
    with h5py.File(path, "w") as file:
        file["flow"] = FLOW.transpose(1, 2, 0)
    np.testing.assert_array_equal(read_flow(path), KNOWN)
    with h5py.File(path, "w") as file:
        file["flow"] = FLOW[0]
    with pytest.raises(UserError, match=r"the shape \(2, 3\)"):
        read_flow(path)
    with h5py.File(path, "w") as file:
        file["disparity"] = FLOW[0]
    with pytest.raises(UserError, match=r"is no \.flo5 file"):
        read_flow(path)
    path.write_bytes(b"no HDF5")
    with pytest.raises(UserError, match=r"is no \.flo5 file"):
        read_flow(path)


def test_images_of_every_kind_become_rgb_of_8_bits(tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    colour = np.stack([grey, 255 - grey, grey // 2], axis=-1)
    spread = np.repeat(grey[..., None], 3, axis=-1)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([grey, grey])).save(tmp_path / "grey-alpha.png")
    Image.fromarray(grey.astype(np.uint16) * 256 + 7).save(tmp_path / "grey-16.png")
    assert cv2.imwrite(str(tmp_path / "colour-16.png"), colour[..., ::-1].astype(np.uint16) * 256 + 7)
    Image.fromarray(colour).save(tmp_path / "colour.ppm")
    Image.fromarray(np.dstack([colour, grey])).save(tmp_path / "alpha.png")
    for name in ("grey.png", "grey-alpha.png", "grey-16.png"):
        np.testing.assert_array_equal(read_image(tmp_path / name), spread)
    for name in ("colour-16.png", "colour.ppm", "alpha.png"):
        found = read_image(tmp_path / name)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, colour)


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (8, 4, 3)


def test_a_photograph_may_come_smaller_but_not_below_the_side_asked_for(tmp_path: Path) -> None:
    Image.new("RGB", (800, 400), (200, 100, 50)).save(tmp_path / "a.jpg")
    found = read_image(tmp_path / "a.jpg", side=90)
    assert 90 <= min(found.shape[:2]) < 400
    assert read_image(tmp_path / "a.jpg").shape == (400, 800, 3)
    assert abs(found.reshape(-1, 3).mean(axis=0) - (200, 100, 50)).max() < 3


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(30)])
def test_a_file_that_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png: cannot be read as an image"):
        read_image(tmp_path / "a.png")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of the damage
@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "ppm", "tif"])
@given(data=st.data())
def test_a_damaged_image_is_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, ending: str, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged.{ending}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, 200))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    reason = ""
    try:
        assert read_image(path).ndim == 3
    except UserError as error:
        reason = str(error)
    assert not reason or f"damaged.{ending}: cannot be read as an image" in reason


def test_numbers_of_unknown_range_are_no_image(tmp_path: Path) -> None:
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match="unknown range"):
        read_image(tmp_path / "a.tiff")


def test_a_mask_is_true_where_it_is_not_black(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1, 255]], np.uint8)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), [[False, True, True]])
