"""Outlines of objects in made-up scenes, as signed distances, so that an edge stays sharp at any scale.

A field is `(FIELD, FIELD)` float32 in pixels of its own, positive inside the outline. It covers the square from -REACH
to REACH of the object's coordinates, in which outlines stay within the unit circle.
"""

from __future__ import annotations

import cv2
import numpy as np

FIELD = 160
REACH = 1.2
PIXELS_PER_UNIT = FIELD / (2 * REACH)
HOLED = 0.15  # share of outlines with a hole
STAIRS = 1.2  # standard deviation, in the field's pixels, of the blur that takes the stairs out of a raster outline

_SHIFT = 4  # fillPoly's fixed point


def draw_outline(random: np.random.Generator) -> np.ndarray:
    """A random outline: a blob, a polygon or an ellipse down to a thin bar, now and then with a hole."""
    points = (_blob, _polygon, _ellipse)[random.integers(3)](random)
    hole = None
    if random.random() < HOLED:
        hole = _blob(random) * random.uniform(0.2, 0.4) + random.uniform(-0.2, 0.2, 2)
    return signed_distance(points, hole)


def signed_distance(points: np.ndarray, hole: np.ndarray | None = None) -> np.ndarray:
    """The field of a polygon `(N, 2)` within the unit circle, without the polygon `hole`."""
    inside = np.zeros((FIELD, FIELD), np.uint8)
    cv2.fillPoly(inside, [_raster(points)], 1, shift=_SHIFT)
    if hole is not None:
        cv2.fillPoly(inside, [_raster(hole)], 0, shift=_SHIFT)
    # A pixel next to the edge is half a pixel from it, where the transform counts one.
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    distance -= np.where(inside, np.float32(0.5), np.float32(-0.5))
    return np.asarray(cv2.GaussianBlur(distance, (0, 0), STAIRS), np.float32)


def to_field(scale: float, angle: float, centre: np.ndarray) -> np.ndarray:
    """The affine map `(2, 3)` from pixels of a frame to those of a field, of an object of radius `scale` pixels."""
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.array([[cos, sin], [-sin, cos]]) * PIXELS_PER_UNIT / scale
    return np.column_stack([linear, (FIELD - 1) / 2 - linear @ centre])


def _raster(points: np.ndarray) -> np.ndarray:
    return np.round((points * PIXELS_PER_UNIT + (FIELD - 1) / 2) * 2**_SHIFT).astype(np.int32)


def _blob(random: np.random.Generator) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    waves = np.arange(2, 7)[:, None]
    phases = random.uniform(0, 2 * np.pi, waves.shape)
    heights = random.normal(0, 0.5, waves.shape) / waves
    radii = 0.65 * (1 + (heights * np.cos(waves * angles + phases)).sum(axis=0))
    return _around(angles, np.clip(radii, 0.2, 1))


def _polygon(random: np.random.Generator) -> np.ndarray:
    corners = random.integers(3, 9)
    angles = (np.arange(corners) + random.uniform(-0.35, 0.35, corners)) * 2 * np.pi / corners
    return _around(angles, random.uniform(0.45, 1, corners))


def _ellipse(random: np.random.Generator) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    return _around(angles, np.ones(72)) * (1, random.uniform(0.12, 1))


def _around(angles: np.ndarray, radii: np.ndarray) -> np.ndarray:
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=-1)
