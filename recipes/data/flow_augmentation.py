"""Changes of a real pair for training, with the truth changed exactly alike. After RAFT's (Teed and Deng, 2020)."""

from __future__ import annotations

import cv2
import numpy as np

from recipes.data.flow_sample import FlowSample, lands_inside, to_sample
from recipes.data.flow_specs import AugmentationSpec
from recipes.data.photometric import change_pair

SMOOTH = 1.0  # pixels: neighbours whose flows differ by more belong to different surfaces
LARGEST_ERASED = 0.3  # sides of a rectangle, as a share of the frame's

_LINEAR = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP


def augment(sample: FlowSample, spec: AugmentationSpec, random: np.random.Generator) -> FlowSample:
    """One sample of `spec.size`; the same draws give the same sample.

    Both frames go through one axis-aligned map, so a flow changes by its scale alone. Between pixels the flow is
    linear on smooth surfaces and that of the nearest pixel at their edges and beside unknown ones, where a mean
    would be no point's flow. Points that the crop or an erased rectangle takes out of the second frame are not visible.
    """
    height, width = spec.size
    affine = draw_map(spec, (sample.flow.shape[1], sample.flow.shape[2]), random)
    affine, window = _window(affine, spec.size, sample.valid.shape)
    image1, image2, flow = (np.ascontiguousarray(t[(..., *window)].permute(1, 2, 0).numpy()) for t in sample[:3])
    visible, valid = (mask[window].numpy() for mask in sample[3:])
    frames = [
        np.asarray(cv2.warpAffine(image, affine, (width, height), flags=_LINEAR, borderMode=cv2.BORDER_REPLICATE))
        for image in (image1, image2)
    ]
    nearest = _nearest(affine, spec.size, valid.shape)
    visible, known = visible[nearest], valid[nearest]
    moved = _resampled(flow, valid, affine, nearest)
    moved /= affine.diagonal().astype(np.float32)
    if spec.photometric is not None:
        frames = list(change_pair(frames[0], frames[1], spec.photometric, random))
    visible &= lands_inside(moved)
    if random.random() < spec.eraser:
        frames[1], erased = _erased(frames[1], random)
        visible &= ~_lands_in(moved, erased)
    return to_sample(frames[0], frames[1], moved, visible, known)


def draw_map(spec: AugmentationSpec, size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """The affine map `(2, 3)` from pixels of the result to those of a pair of `size`: scaled, mirrored, cropped."""
    scale = 2.0 ** random.uniform(*spec.scale)
    stretch = np.array([1.0, 2.0 ** random.uniform(-spec.stretch, spec.stretch)])
    scales = np.maximum(scale * stretch, np.array(spec.size) / size)  # height, width
    spare = np.array(size) - np.array(spec.size) / scales
    corner = random.uniform(0, 1, 2) * np.maximum(spare, 0)
    if (scales == 1).all():
        corner = corner.round()  # whole pixels need no interpolation
    first = corner - 0.5 + 0.5 / scales  # pixels are squares about their centres
    steps = 1 / scales
    for axis, share in ((0, spec.flip_vertical), (1, spec.flip)):
        if random.random() < share:
            first[axis] += steps[axis] * (spec.size[axis] - 1)
            steps[axis] = -steps[axis]
    return np.array([[steps[1], 0, first[1]], [0, steps[0], first[0]]])


def _window(affine: np.ndarray, size: tuple[int, int], pair: tuple[int, ...]) -> tuple[np.ndarray, tuple[slice, slice]]:
    """The part of a pair, rows and columns, that a map looks at, and the map into that part."""
    ends = affine[:, 2] + np.outer((0, 1), affine.diagonal() * (np.array(size[::-1]) - 1))  # (2 ends, x and y)
    first = np.clip(np.floor(ends.min(axis=0)) - 2, 0, np.array(pair[::-1]) - 1).astype(int)
    last = np.ceil(ends.max(axis=0)).astype(int) + 3
    shifted = affine.copy()
    shifted[:, 2] -= first
    return shifted, (slice(first[1], last[1]), slice(first[0], last[0]))


def _nearest(affine: np.ndarray, size: tuple[int, int], pair: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """An index of the pixels of a pair that are nearest to those of the result."""
    columns, rows = (
        np.rint(affine[axis, 2] + affine[axis, axis] * np.arange(size[1 - axis])).astype(int) for axis in (0, 1)
    )
    return np.ix_(rows.clip(0, pair[0] - 1), columns.clip(0, pair[1] - 1))


def _resampled(
    flow: np.ndarray, valid: np.ndarray, affine: np.ndarray, nearest: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Linear on smooth surfaces, the nearest pixel's elsewhere."""
    around = np.ones((3, 3), np.uint8)
    spans = cv2.split(cv2.subtract(cv2.dilate(flow, around), cv2.erode(flow, around)))
    rough = (cv2.max(*spans) > SMOOTH) | (cv2.erode(valid.astype(np.uint8), around) == 0)
    size = (nearest[1].size, nearest[0].size)
    # One plane at a time: of two channels OpenCV rounds the coordinates to 1/32 pixel.
    planes = (
        cv2.warpAffine(plane, affine, size, flags=_LINEAR, borderMode=cv2.BORDER_REPLICATE) for plane in cv2.split(flow)
    )
    return np.asarray(cv2.copyTo(flow[nearest], rough[nearest].astype(np.uint8), cv2.merge(list(planes))))


def _erased(frame: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The frame with one to three rectangles in its mean colour, and where they are."""
    height, width = frame.shape[:2]
    erased = np.zeros((height, width), bool)
    for _ in range(random.integers(1, 4)):
        sides = np.ceil(random.uniform(0.05, LARGEST_ERASED, 2) * (height, width)).astype(int)
        top, left = (random.uniform(0, 1, 2) * (np.array([height, width]) - sides)).round().astype(int)
        erased[top : top + sides[0], left : left + sides[1]] = True
    changed = frame.copy()
    changed[erased] = frame.mean(axis=(0, 1)).round().astype(np.uint8)
    return changed, erased


def _lands_in(flow: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Which points fall onto pixels of a mask of the second frame."""
    height, width = mask.shape
    x = np.clip(np.rint(flow[..., 0] + np.arange(width)), 0, width - 1).astype(int)
    y = np.clip(np.rint(flow[..., 1] + np.arange(height)[:, None]), 0, height - 1).astype(int)
    return np.asarray(mask[y, x])
