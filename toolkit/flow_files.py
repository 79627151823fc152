"""Files of images and of optical flow, as the known data sets have them.

A flow in memory is `(2, H, W)` float32 in pixels, x then y, from the first frame to the second, with NaN in both
where it is unknown. Every reader raises `UserError` that names the file and says what is wrong with it.
"""

from __future__ import annotations

import importlib
import re
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from toolkit.errors import UserError, unknown_name
from toolkit.files import write_atomic
from toolkit.quiet import native_stderr_hidden

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".ppm", ".pgm", ".bmp", ".webp", ".tif", ".tiff"}

FLO_MAGIC = b"PIEH"  # 202021.25 as a little-endian float
FLO_UNKNOWN = 1e10
FLO_LARGEST = 1e9  # beyond it a component says that the flow is unknown
LARGEST_SIDE = 100_000  # pixels: beyond it a header is damaged

KITTI_STEP = 64  # steps in a pixel
KITTI_ZERO = 2**15

_PFM_HEADER = re.compile(rb"(PF|Pf)\s+(\d+)\s+(\d+)\s+(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)[ \t\r]*\n")


def read_image(path: Path, side: int | None = None) -> np.ndarray:
    """An image as `(H, W, 3)` uint8 RGB, upright; greyscale is spread, alpha dropped, 16 bits cut to their upper 8.

    With `side`, a JPEG may come smaller, which takes a fraction of the time, but no side below so many pixels.
    """
    _check_file(path)
    try:
        with Image.open(path) as image:
            if side is not None:
                image.draft("RGB", (side, side))  # a no-op for all but JPEG
            upright = ImageOps.exif_transpose(image)
            if upright.mode == "F":
                raise UserError(f"{path}: holds numbers of an unknown range; save it with 8 or 16 bits a channel")
            if upright.mode.startswith("I"):
                grey = np.asarray(upright) >> 8
                return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)
            return np.array(upright.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as an image ({error}); save it or copy it again") from error


def read_mask(path: Path) -> np.ndarray:
    """A mask image as `(H, W)` bool: true where any channel is not 0."""
    return np.asarray(read_image(path).any(axis=-1))


def read_flow(path: Path) -> np.ndarray:
    """A flow by its file's ending: `.flo` (Middlebury), `.png` (KITTI), `.pfm` (FlyingThings3D), `.flo5` (Spring)."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise unknown_name("ending of a flow file", path.suffix, READERS)
    return reader(path)


def read_flo(path: Path) -> np.ndarray:
    """Middlebury's `.flo`: the magic number, width and height, then x and y of every pixel, all little-endian."""
    data = _bytes(path)
    if data[:4] != FLO_MAGIC:
        raise UserError(f"{path}: is no .flo file: it begins with {data[:4]!r}, not {FLO_MAGIC!r}; fetch it again")
    if len(data) < 12:
        raise UserError(f"{path}: is cut short: {len(data)} bytes, the header alone has 12; copy it again")
    width, height = struct.unpack("<ii", data[4:12])
    _check_sides(path, height, width)
    _check_length(path, len(data) - 12, height, width, channels=2)
    return _planes(np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2))


def flo_bytes(flow: np.ndarray) -> bytes:
    """A flow `(2, H, W)` as a `.flo` file; unknown pixels as Middlebury marks them."""
    _, height, width = flow.shape
    content = np.where(np.isnan(flow), FLO_UNKNOWN, flow).astype("<f4").transpose(1, 2, 0)
    return FLO_MAGIC + struct.pack("<ii", width, height) + content.tobytes()


def write_flo(path: Path, flow: np.ndarray) -> None:
    """Write `flo_bytes` to `path` atomically."""
    write_atomic(path, flo_bytes(flow))


def read_kitti_png(path: Path) -> np.ndarray:
    """KITTI's 16-bit PNG: x and y in 1/64 pixels about 2^15, and in the third channel whether they are known."""
    data = np.frombuffer(_bytes(path), np.uint8)
    with native_stderr_hidden():  # libpng would say of a damaged file what the error says
        array = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if array is None:
        raise UserError(f"{path}: cannot be read as a PNG; copy it again")
    if array.dtype != np.uint16 or array.ndim != 3 or array.shape[2] != 3:
        found = f"{array.dtype.itemsize * 8} bits, {array.shape[2] if array.ndim == 3 else 1} channels"
        raise UserError(
            f"{path}: is no KITTI flow: it has {found}, where 16 bits and 3 channels are due; name a flow, no picture"
        )
    flow = (array[..., :0:-1].astype(np.float32) - KITTI_ZERO) / KITTI_STEP  # OpenCV reads blue first: valid, y, x
    flow[array[..., 0] == 0] = np.nan
    return np.ascontiguousarray(flow.transpose(2, 0, 1))


def write_kitti_png(path: Path, flow: np.ndarray) -> None:
    """Write a flow `(2, H, W)` as KITTI does, rounded to 1/64 pixel.

    Raises `UserError` where it leaves the format's range of -512 to 511.98 pixels.
    """
    known = ~np.isnan(flow).any(axis=0)
    steps = np.round(np.where(known, flow, 0).astype(np.float64) * KITTI_STEP) + KITTI_ZERO
    if steps.min(initial=0) < 0 or steps.max(initial=0) > 2**16 - 1:
        raise UserError(f"{path}: KITTI's format ends at -512 and 511.98 pixels and this flow does not; write .flo")
    channels = np.stack([known.astype(np.uint16), *np.where(known, steps, 0).astype(np.uint16)[::-1]], axis=-1)
    _, data = cv2.imencode(".png", channels)
    write_atomic(path, data.tobytes())


def read_pfm(path: Path) -> np.ndarray:
    """FlyingThings3D's PFM of three channels, x, y and 0, with rows from the bottom to the top."""
    data = _bytes(path)
    header = _PFM_HEADER.match(data)
    if header is None:
        raise UserError(
            f"{path}: is no PFM file: it begins with {data[:16]!r}, not 'PF WIDTH HEIGHT SCALE'; fetch it again"
        )
    if header[1] != b"PF":
        raise UserError(f"{path}: has one channel ('Pf'), a disparity or depth; name a flow, which has three ('PF')")
    width, height, scale = int(header[2]), int(header[3]), float(header[4])
    _check_sides(path, height, width)
    _check_length(path, len(data) - header.end(), height, width, channels=3)
    content = np.frombuffer(data, "<f4" if scale < 0 else ">f4", offset=header.end())
    return _planes(content.reshape(height, width, 3)[::-1, :, :2])


def write_pfm(path: Path, flow: np.ndarray) -> None:
    """Write a flow `(2, H, W)` as FlyingThings3D does; unknown pixels stay NaN."""
    _, height, width = flow.shape
    content = np.concatenate([flow, np.zeros((1, height, width))]).astype("<f4").transpose(1, 2, 0)[::-1]
    write_atomic(path, f"PF\n{width} {height}\n-1.0\n".encode() + content.tobytes())


def read_flo5(path: Path) -> np.ndarray:
    """Spring's HDF5 file, at the full size of its data set `flow`; needs h5py."""
    _check_file(path)
    try:
        h5py = importlib.import_module("h5py")
    except ImportError as error:
        raise UserError(f"{path}: reading .flo5 files needs h5py; run `pip install h5py`") from error
    try:
        with h5py.File(path, "r") as file:
            content = np.asarray(file["flow"], np.float32)
    except (OSError, KeyError) as error:
        raise UserError(f"{path}: is no .flo5 file ({error}); copy it again") from error
    if content.ndim != 3 or content.shape[2] != 2:
        raise UserError(
            f"{path}: its flow has the shape {content.shape}, where (height, width, 2) is due; fetch it again"
        )
    return _planes(content)


READERS: dict[str, Callable[[Path], np.ndarray]] = {
    ".flo": read_flo,
    ".png": read_kitti_png,
    ".pfm": read_pfm,
    ".flo5": read_flo5,
}


def _planes(content: np.ndarray) -> np.ndarray:
    """`(H, W, 2)` to `(2, H, W)`, with NaN in both components where either is no number or beyond all frames."""
    flow = np.array(content.transpose(2, 0, 1), np.float32, order="C")
    with np.errstate(invalid="ignore"):
        flow[:, ~(np.abs(flow) <= FLO_LARGEST).all(axis=0)] = np.nan
    return flow


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file")


def _bytes(path: Path) -> bytes:
    _check_file(path)
    data = path.read_bytes()
    if not data:
        raise UserError(f"{path}: is empty; copy it again")
    return data


def _check_sides(path: Path, height: int, width: int) -> None:
    if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
        raise UserError(f"{path}: its header says {width} x {height} pixels; copy it again")


def _check_length(path: Path, found: int, height: int, width: int, channels: int) -> None:
    due = height * width * channels * 4
    if found != due:
        what = "is cut short" if found < due else "is too long"
        raise UserError(
            f"{path}: {what}: {found} bytes of pixels, where {width} x {height} pixels take {due}; copy it again"
        )
