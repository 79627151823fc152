"""What optical-flow data give: two images and the truth between them."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import get_worker_info


class FlowSample(NamedTuple):
    """One pair, or a batch of pairs with one more axis in front, as torch's default collation makes it.

    `flow` is in pixels, x then y, from the first frame to the second; 0 where `valid` says that there is no truth.
    `visible` points of the first frame are in the second: not covered there, and not outside it.
    """

    image1: torch.Tensor  # (3, H, W) uint8
    image2: torch.Tensor  # (3, H, W) uint8
    flow: torch.Tensor  # (2, H, W) float32
    visible: torch.Tensor  # (H, W) bool
    valid: torch.Tensor  # (H, W) bool


def to_sample(
    image1: np.ndarray, image2: np.ndarray, flow: np.ndarray, visible: np.ndarray, valid: np.ndarray
) -> FlowSample:
    """Arrays with channels last, images `(H, W, 3)` and flow `(H, W, 2)`, to tensors with channels first."""
    return FlowSample(
        _channels_first(image1),
        _channels_first(image2),
        _channels_first(np.where(valid[..., None], flow, 0).astype(np.float32)),
        torch.from_numpy(np.ascontiguousarray(visible & valid)),
        torch.from_numpy(np.ascontiguousarray(valid)),
    )


def lands_inside(flow: np.ndarray) -> np.ndarray:
    """Which points of the first frame lie within the second, `(H, W)` bool, of a flow `(H, W, 2)`.

    A frame reaches from the centre of its first pixel to that of its last. NaN is outside.
    """
    height, width = flow.shape[:2]
    x = flow[..., 0] + np.arange(width, dtype=flow.dtype)
    y = flow[..., 1] + np.arange(height, dtype=flow.dtype)[:, None]
    inside: np.ndarray = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return inside


def one_thread_in_workers() -> None:
    """Keep OpenCV to one thread in a worker of a data loader: several workers would fight for the cores.

    A forked worker has none of the threads that OpenCV started before, and would wait for them.
    """
    if get_worker_info() is not None:
        cv2.setNumThreads(0)


def _channels_first(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
