"""Where the known optical-flow data sets keep their pairs: a folder to a list of records, a record to a sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.data.flow_sample import FlowSample, lands_inside, to_sample
from recipes.data.textures import skimage_file
from toolkit.errors import UserError, unknown_name
from toolkit.flow_files import read_flow, read_image, read_mask

MOTORCYCLE = "motorcycle"
CHAIRS_SPLIT_FILE = "FlyingChairs_train_val.txt"
CHAIRS_SPLITS = {"train": "1", "validation": "2"}


@dataclass(frozen=True)
class FlowRecord:
    """The files of one pair. What a data set does not have is None.

    `flow` is a flow file, or for scikit-image's motorcycle the disparity. `occluded` and `invalid` are masks that are
    not 0 there; of `matched`, a second flow file, only the validity is used: it says which points are visible.
    """

    name: str
    image1: Path
    image2: Path
    flow: Path
    occluded: Path | None = None
    matched: Path | None = None
    invalid: Path | None = None

    @property
    def knows_occlusions(self) -> bool:
        """Whether `visible` says more than which points stay within the frame."""
        return self.occluded is not None or self.matched is not None


Finder = Callable[[Path, str, str | None], list[FlowRecord]]


def find_pairs(layout: str, root: Path, split: str = "train", variant: str | None = None) -> list[FlowRecord]:
    """The pairs of a data set in the order of their names.

    `split` is `train`; FlyingChairs has `validation` and `all` as well, FlyingThings3D `test`. `variant` chooses
    between renderings: Sintel and FlyingThings3D have `clean` (taken by default) and `final`. Of FlyingThings3D the
    left camera is taken, forwards and backwards in time; of Spring the left camera, forwards.

    Raises `UserError` that says what was expected where `root` is no such folder or lacks files, and where the data
    set has no such split or variant.
    """
    if layout not in LAYOUTS:
        raise unknown_name("optical-flow data set", layout, LAYOUTS)
    finder, splits, variants = LAYOUTS[layout]
    if split not in splits:
        raise unknown_name(f"split of {layout}", split, splits)
    if variant is not None and variant not in variants:
        raise unknown_name(f"variant of {layout}", variant, variants)
    if layout != MOTORCYCLE and not root.is_dir():
        raise UserError(f"{root}: no such folder; give the folder of the data set '{layout}'")
    records = finder(root, split, variant or next(iter(variants), None))
    for record in records:
        for path in (record.image1, record.image2, record.flow, record.occluded, record.matched, record.invalid):
            if path is not None and not path.is_file():
                raise UserError(f"{path}: is missing, though {layout} has other files of this pair; unpack it again")
    return records


def read_pair(record: FlowRecord) -> FlowSample:
    """The images and the truth of a record, in full size.

    Raises `UserError` where a file cannot be read, or where the sizes of the files differ.
    """
    image1, image2 = read_image(record.image1), read_image(record.image2)
    height, width = image1.shape[:2]
    flow = _flow(record.flow, image1)
    for path, shape in ((record.image2, image2.shape[:2]), (record.flow, flow.shape[:2])):
        if shape != (height, width):
            raise UserError(
                f"{path}: is {shape[0]}x{shape[1]}, where {record.image1.name} is {height}x{width}; fetch both again"
            )
    valid = ~np.isnan(flow).any(axis=-1)
    if record.invalid is not None:
        valid &= ~_mask(record.invalid, height, width)
    visible = lands_inside(flow)
    if record.occluded is not None:
        visible &= ~_mask(record.occluded, height, width)
    if record.matched is not None:
        visible &= ~np.isnan(read_flow(record.matched)).any(axis=0)
    return to_sample(image1, image2, flow, visible, valid)


def _flow(path: Path, image: np.ndarray) -> np.ndarray:
    """The flow `(H, W, 2)` of a record, with NaN where it is unknown."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            disparity = file["arr_0"]
        disparity = np.where(np.isfinite(disparity), disparity, np.nan)
        return np.stack([-disparity, 0 * disparity], axis=-1).astype(np.float32)
    flow = read_flow(path).transpose(1, 2, 0)
    if path.suffix == ".flo5" and flow.shape[0] == 2 * image.shape[0]:
        flow = flow[::2, ::2]  # Spring's truth is twice as dense as its images, in pixels of the images
    return flow


def _mask(path: Path, height: int, width: int) -> np.ndarray:
    mask = read_mask(path)
    if mask.shape == (2 * height, 2 * width):
        mask = mask[::2, ::2]  # Spring's again
    if mask.shape != (height, width):
        raise UserError(f"{path}: is {mask.shape[0]}x{mask.shape[1]}, where its image is {height}x{width}")
    return mask


def _chairs(root: Path, split: str, variant: str | None) -> list[FlowRecord]:
    folder = root / "data" if (root / "data").is_dir() else root
    flows = _expect(sorted(folder.glob("*_flow.flo")), root, "FlyingChairs", "data/00001_flow.flo")
    records = []
    for path in flows:
        name = path.name.removesuffix("_flow.flo")
        images = [folder / f"{name}_img{number}.ppm" for number in (1, 2)]
        records.append(FlowRecord(name, images[0], images[1], path))
    if split == "all":
        return records
    listed = next((path for path in (root / CHAIRS_SPLIT_FILE, folder / CHAIRS_SPLIT_FILE) if path.is_file()), None)
    if listed is None:
        raise UserError(
            f"{root}: lacks {CHAIRS_SPLIT_FILE}, which says which pairs train; put the data set's own file there, or "
            "take split 'all'"
        )
    marks = listed.read_text(encoding="utf-8").split()
    if len(marks) != len(records):
        raise UserError(f"{listed}: lists {len(marks)} pairs, the folder has {len(records)}; unpack the rest")
    return [record for record, mark in zip(records, marks, strict=True) if mark == CHAIRS_SPLITS[split]]


def _things(root: Path, split: str, variant: str | None) -> list[FlowRecord]:
    flows = root / "optical_flow" / split.upper()
    example = f"optical_flow/{split.upper()}/A/0000/into_future/left/OpticalFlowIntoFuture_0006_L.pfm"
    found = sorted(flows.glob("*/*/into_*/left/OpticalFlowInto*_L.pfm"))
    records = []
    for path in _expect(found, root, "FlyingThings3D", example):
        sequence = path.parents[2].relative_to(flows)
        number = int(path.stem.split("_")[1])
        images = root / f"frames_{variant}pass" / split.upper() / sequence / "left"
        step = 1 if path.parents[1].name == "into_future" else -1
        frames = [images / f"{frame:04d}.png" for frame in (number, number + step)]
        if frames[1].is_file() or not _ends_sequence(frames[0]):  # flows lead out of the first and the last frame
            name = f"{sequence.as_posix()}/{path.stem}"
            records.append(FlowRecord(name, frames[0], frames[1], path))
    return records


def _ends_sequence(frame: Path) -> bool:
    frames = sorted(frame.parent.glob("*.png"))
    return bool(frames) and frame in (frames[0], frames[-1])


def _sintel(root: Path, split: str, variant: str | None) -> list[FlowRecord]:
    training = root / "training"
    found = sorted((training / "flow").glob("*/frame_*.flo"))
    return [
        FlowRecord(
            f"{path.parent.name}/{path.stem}",
            training / str(variant) / path.parent.name / f"{path.stem}.png",
            training / str(variant) / path.parent.name / f"{_next(path.stem)}.png",
            path,
            occluded=_optional(training / "occlusions" / path.parent.name / f"{path.stem}.png"),
            invalid=_optional(training / "invalid" / path.parent.name / f"{path.stem}.png"),
        )
        for path in _expect(found, root, "MPI Sintel", "training/flow/alley_1/frame_0001.flo")
    ]


def _kitti(root: Path, split: str, variant: str | None) -> list[FlowRecord]:
    training = root / "training"
    found = sorted((training / "flow_occ").glob("*_10.png"))
    records = []
    for path in _expect(found, root, "KITTI 2015", "training/flow_occ/000000_10.png"):
        name = path.stem.removesuffix("_10")
        images = [training / "image_2" / f"{name}_{frame}.png" for frame in (10, 11)]
        matched = _optional(training / "flow_noc" / path.name)
        records.append(FlowRecord(name, images[0], images[1], path, matched=matched))
    return records


def _spring(root: Path, split: str, variant: str | None) -> list[FlowRecord]:
    found = sorted((root / "train").glob("*/flow_FW_left/flow_FW_left_*.flo5"))
    records = []
    for path in _expect(found, root, "Spring", "train/0001/flow_FW_left/flow_FW_left_0001.flo5"):
        scene = path.parents[1]
        number = path.stem.rpartition("_")[2]
        frames = [scene / "frame_left" / f"frame_left_{frame}.png" for frame in (number, _next(number))]
        unmatched = scene / "maps" / "matchmap_flow_FW_left" / f"matchmap_flow_FW_left_{number}.png"
        records.append(FlowRecord(f"{scene.name}/{number}", frames[0], frames[1], path, occluded=_optional(unmatched)))
    return records


def _motorcycle(root: Path, split: str, variant: str | None) -> list[FlowRecord]:
    left, right, disparity = (skimage_file(f"motorcycle_{part}") for part in ("left.png", "right.png", "disp.npz"))
    return [FlowRecord(MOTORCYCLE, left, right, disparity)]


LAYOUTS: dict[str, tuple[Finder, tuple[str, ...], tuple[str, ...]]] = {
    "chairs": (_chairs, ("train", "validation", "all"), ()),
    "things": (_things, ("train", "test"), ("clean", "final")),
    "sintel": (_sintel, ("train",), ("clean", "final")),
    "kitti": (_kitti, ("train",), ()),
    "spring": (_spring, ("train",), ()),
    MOTORCYCLE: (_motorcycle, ("train",), ()),
}


def _expect(found: list[Path], root: Path, title: str, example: str) -> list[Path]:
    if not found:
        raise UserError(f"{root}: is no folder of {title}: expected files such as {example} in it")
    return found


def _optional(path: Path) -> Path | None:
    """A file that not every copy of the data set has: taken where its folder is there."""
    return path if path.parent.is_dir() else None


def _next(name: str) -> str:
    """The name of the next frame: `frame_0009` to `frame_0010`."""
    digits = name[len(name.rstrip("0123456789")) :]
    return f"{name.removesuffix(digits)}{int(digits) + 1:0{len(digits)}d}"
