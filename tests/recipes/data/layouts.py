"""The folders that known data sets are published in, made small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from tests.recipes.data.pictures import smooth_picture, write_picture
from toolkit.flow_files import write_flo, write_kitti_png, write_pfm

HEIGHT, WIDTH = 6, 8
Size = tuple[int, int]


def still(size: Size) -> np.ndarray:
    """Flow `(2, H, W)` of 2.5 pixels to the right."""
    flow = np.zeros((2, *size), np.float32)
    flow[0] = 2.5
    return flow


def picture(path: Path, seed: int, size: Size) -> Path:
    return write_picture(path, smooth_picture(seed, *size))


def mask(path: Path, row: int, size: Size) -> Path:
    """255 in one row."""
    content = np.zeros(size, np.uint8)
    content[row] = 255
    return write_picture(path, content)


def chairs(root: Path, size: Size = (HEIGHT, WIDTH)) -> None:
    for number in range(1, 5):
        for image in (1, 2):
            picture(root / "data" / f"{number:05d}_img{image}.ppm", image, size)
        write_flo(root / "data" / f"{number:05d}_flow.flo", still(size) + number)
    (root / "FlyingChairs_train_val.txt").write_text("1\n2\n1\n1\n")


def things(root: Path, size: Size = (HEIGHT, WIDTH)) -> None:
    for variant in ("clean", "final"):
        for frame in (6, 7, 8):
            picture(root / f"frames_{variant}pass" / "TRAIN" / "A" / "0000" / "left" / f"{frame:04d}.png", frame, size)
    for frame in (6, 7, 8):
        for name, folder in (("Future", "into_future"), ("Past", "into_past")):
            place = root / "optical_flow" / "TRAIN" / "A" / "0000" / folder / "left"
            place.mkdir(parents=True, exist_ok=True)
            write_pfm(place / f"OpticalFlowInto{name}_{frame:04d}_L.pfm", still(size))


def sintel(root: Path, size: Size = (HEIGHT, WIDTH)) -> None:
    training = root / "training"
    for frame in (1, 2, 3):
        for variant in ("clean", "final"):
            picture(training / variant / "alley_1" / f"frame_{frame:04d}.png", frame, size)
    for frame in (1, 2):
        write_flo(training / "flow" / "alley_1" / f"frame_{frame:04d}.flo", still(size))
        mask(training / "occlusions" / "alley_1" / f"frame_{frame:04d}.png", 1, size)
        mask(training / "invalid" / "alley_1" / f"frame_{frame:04d}.png", 2, size)


def kitti(root: Path, size: Size = (HEIGHT, WIDTH)) -> None:
    training = root / "training"
    for number in range(2):
        for frame in (10, 11):
            picture(training / "image_2" / f"{number:06d}_{frame}.png", frame, size)
        known, matched = still(size), still(size)
        known[:, 0] = np.nan
        matched[:, :2] = np.nan
        write_kitti_png(training / "flow_occ" / f"{number:06d}_10.png", known)
        write_kitti_png(training / "flow_noc" / f"{number:06d}_10.png", matched)


def spring(root: Path, size: Size = (HEIGHT, WIDTH)) -> None:
    """Its truth is twice as dense as its images: (1.5, -0.5) at every second point, 0 between."""
    scene, dense = root / "train" / "0001", (2 * size[0], 2 * size[1])
    for frame in (1, 2):
        picture(scene / "frame_left" / f"frame_left_{frame:04d}.png", frame, size)
    flow = np.zeros((*dense, 2), np.float32)
    flow[::2, ::2] = (1.5, -0.5)
    (scene / "flow_FW_left").mkdir()
    with h5py.File(scene / "flow_FW_left" / "flow_FW_left_0001.flo5", "w") as file:
        file["flow"] = flow
    unmatched = np.zeros(dense, np.uint8)
    unmatched[4:6] = 255
    write_picture(scene / "maps" / "matchmap_flow_FW_left" / "matchmap_flow_FW_left_0001.png", unmatched)


Maker = Callable[..., None]
MAKERS: dict[str, Maker] = {"chairs": chairs, "things": things, "sintel": sintel, "kitti": kitti, "spring": spring}
