"""Two frames of a layered scene, and the exact flow and visibility between them.

A layer's picture and outline are given in coordinates of the second frame, and its motion is a function of the first
frame's pixels. So the second frame samples the picture at its own pixels, the first frame at the points to which its
pixels move, and the truth is the motion itself: no map is ever inverted or interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from recipes.data.flow_sample import lands_inside

EDGE = 1.5  # pixels of the second frame over which an outline fades from inside to outside


@dataclass(frozen=True)
class Motion:
    """Where pixels of the first frame go: a homography, and on top of it a smooth displacement.

    `matrix` is `(3, 3)`; `bends` `(rows, columns, 2)`, in pixels, is spread over the frame by cubic interpolation.
    """

    matrix: np.ndarray
    bends: np.ndarray | None = None

    def targets(self, height: int, width: int) -> np.ndarray:
        """The points of the second frame, `(H, W, 2)` float32, x then y, to which the first frame's pixels move."""
        x = np.arange(width, dtype=np.float64)
        y = np.arange(height, dtype=np.float64)[:, None]
        rows = [row[0] * x + (row[1] * y + row[2]) for row in self.matrix]
        moved = np.empty((height, width, 2), np.float32)
        np.divide(rows[0], rows[2], out=moved[..., 0], casting="unsafe")
        np.divide(rows[1], rows[2], out=moved[..., 1], casting="unsafe")
        if self.bends is not None:
            moved += cv2.resize(self.bends, (width, height), interpolation=cv2.INTER_CUBIC)
        return moved


@dataclass(frozen=True)
class Layer:
    """A picture `(h, w, 3)` uint8 that continues by mirroring, cut along `outline`, and how it moves.

    `to_picture` and `to_outline` are affine maps `(2, 3)` from pixels of the second frame to those of the picture and
    of the outline, a field of signed distances in pixels of its own that is negative along its rim. Without an outline
    the layer fills the frame.
    """

    picture: np.ndarray
    to_picture: np.ndarray
    motion: Motion
    outline: np.ndarray | None = None
    to_outline: np.ndarray | None = None


@dataclass(frozen=True)
class Rendered:
    """Frames `(H, W, 3)` uint8, `flow` `(H, W, 2)` float32 in pixels, `visible` `(H, W)` bool, `owner` `(H, W)` uint8.

    `owner` numbers the layer that each pixel of the first frame shows.
    """

    frame1: np.ndarray
    frame2: np.ndarray
    flow: np.ndarray
    visible: np.ndarray
    owner: np.ndarray


def render(layers: list[Layer], height: int, width: int) -> Rendered:
    """Layers from back to front; the first fills the frame.

    Where an outline fades, a pixel belongs to the front layer if that makes up half of it or more.
    """
    frame1, frame2 = (np.zeros((height, width, 3), np.uint8) for _ in range(2))
    landing = np.zeros((height, width, 2), np.float32)
    owner = np.zeros((height, width), np.uint8)
    for number, layer in enumerate(layers):
        targets = layer.motion.targets(height, width)
        if layer.outline is None or layer.to_outline is None:
            frame1[:] = _sample(layer.picture, layer.to_picture, targets, cv2.BORDER_REFLECT_101)
            frame2[:] = _at_pixels(layer.picture, layer.to_picture, frame2.shape, cv2.BORDER_REFLECT_101)
            landing[:], owner[:] = targets, number
            continue
        depth1 = _sample(layer.outline, layer.to_outline, targets, cv2.BORDER_REPLICATE)
        depth2 = _at_pixels(layer.outline, layer.to_outline, frame2.shape, cv2.BORDER_REPLICATE)
        fade = EDGE * float(np.sqrt(abs(np.linalg.det(layer.to_outline[:, :2]))))  # in the outline's own pixels
        part = _touched(depth1, fade)  # most objects cover a small part of the frame
        shown = _sample(layer.picture, layer.to_picture, targets[part], cv2.BORDER_REFLECT_101)
        frame1[part] = _over(frame1[part], shown, depth1[part], fade)
        part = _touched(depth2, fade)
        moved = layer.to_picture + np.outer(layer.to_picture[:, :2] @ (part[1].start, part[0].start), (0, 0, 1))
        shown = _at_pixels(layer.picture, moved, depth2[part].shape, cv2.BORDER_REFLECT_101)
        frame2[part] = _over(frame2[part], shown, depth2[part], fade)
        owned = depth1 >= 0
        cv2.copyTo(targets, owned.view(np.uint8), landing)
        owner[owned] = number
    visible = _visible(layers, landing, owner)
    landing[..., 0] -= np.arange(width, dtype=np.float32)
    landing[..., 1] -= np.arange(height, dtype=np.float32)[:, None]
    return Rendered(frame1, frame2, landing, visible & lands_inside(landing), owner)


def _visible(layers: list[Layer], landing: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Which points land where no layer in front of theirs lies."""
    visible = np.ones(owner.shape, bool)
    for number, layer in enumerate(layers):
        if layer.outline is not None and layer.to_outline is not None:
            depth = _sample(layer.outline, layer.to_outline, landing, cv2.BORDER_REPLICATE)
            visible &= (depth < 0) | (owner >= number)
    return visible


def _sample(image: np.ndarray, affine: np.ndarray, points: np.ndarray, border: int) -> np.ndarray:
    """The image at points of the second frame. Linear: OpenCV's cubic kernel is off by a third of a step on a ramp."""
    if not points.size:
        return np.zeros((*points.shape[:2], *image.shape[2:]), image.dtype)
    found = cv2.remap(image, cv2.transform(points, affine), None, cv2.INTER_LINEAR, borderMode=border)
    return np.asarray(found)


def _at_pixels(image: np.ndarray, affine: np.ndarray, shape: tuple[int, ...], border: int) -> np.ndarray:
    """The image at the second frame's pixels, as far as `shape`, (height, width, ...), reaches."""
    if 0 in shape:
        return np.zeros((*shape[:2], *image.shape[2:]), image.dtype)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, affine, (shape[1], shape[0]), flags=flags, borderMode=border))


def _touched(depth: np.ndarray, fade: float) -> tuple[slice, slice]:
    """The rectangle, rows and columns, beyond which a layer adds nothing; empty where it is out of the frame."""
    inside = depth > -fade / 2
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _over(below: np.ndarray, above: np.ndarray, depth: np.ndarray, fade: float) -> np.ndarray:
    """Lay one picture over another, by the depth inside the outline."""
    if not depth.size:
        return below
    weight = np.clip(depth / np.float32(fade) + np.float32(0.5), 0, 1)
    return np.asarray(cv2.blendLinear(above, np.ascontiguousarray(below), weight, 1 - weight))
