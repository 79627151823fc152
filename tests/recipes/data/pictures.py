"""Pictures that flow data are tested on: smooth, so that sampling between pixels is exact to a grey level."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def smooth_picture(seed: int, height: int = 200, width: int = 260) -> np.ndarray:
    """`(height, width, 3)` uint8 that changes by less than a tenth of its range over a dozen pixels."""
    knots = np.random.default_rng(seed).uniform(0, 255, (5, 6, 3)).astype(np.float32)
    return np.clip(cv2.resize(knots, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).round().astype(np.uint8)


def flat_picture(level: int) -> np.ndarray:
    """One colour throughout."""
    return np.full((64, 64, 3), level, np.uint8)


def write_picture(path: Path, picture: np.ndarray) -> Path:
    """RGB `(H, W, 3)` or grey `(H, W)` to a file of the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture[..., ::-1] if picture.ndim == 3 else picture)
    return path


def sampled(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """An image `(H, W, C)` at points inside it, by linear interpolation written out in float64."""
    column = np.clip(np.floor(x).astype(int), 0, image.shape[1] - 2)
    row = np.clip(np.floor(y).astype(int), 0, image.shape[0] - 2)
    right, down = (x - column)[..., None], (y - row)[..., None]
    image = image.astype(np.float64)
    top = image[row, column] * (1 - right) + image[row, column + 1] * right
    bottom = image[row + 1, column] * (1 - right) + image[row + 1, column + 1] * right
    return top * (1 - down) + bottom * down
