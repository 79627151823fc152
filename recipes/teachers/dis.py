"""Optical flow that needs no training: OpenCV's DIS as a teacher, Farnebäck's method and zero flow as baselines."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import cv2
import numpy as np
import torch

from toolkit.errors import UserError, unknown_name

SMALLEST_SIDE = 16  # pixels: below it DIS has no level of its pyramid left

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


class FlowTeacher(Protocol):
    """A frozen source of optical flow."""

    def flow(self, image1: torch.Tensor, image2: torch.Tensor) -> torch.Tensor:
        """Two batches `(B, 3, H, W)` uint8 to `(B, 2, H, W)` float32 in pixels, on the device of `image1`.

        Raises `UserError` where the images are too small.
        """


class Dis:
    """Dense inverse search (Kroeger et al., 2016) on the processor; `preset` is ultrafast, fast or medium.

    Raises `UserError` for another preset.
    """

    def __init__(self, preset: str = "medium") -> None:
        if preset not in PRESETS:
            raise unknown_name("preset of DIS", preset, PRESETS)
        self.preset = preset

    def flow(self, image1: torch.Tensor, image2: torch.Tensor) -> torch.Tensor:
        """As `FlowTeacher` has it; images of 16x16 at least."""
        # what a search adapts to small images stays with it, and would change what it finds in larger ones
        search = cv2.DISOpticalFlow.create(PRESETS[self.preset])
        return _one_by_one(image1, image2, lambda first, second: search.calc(first, second, None))


class Farneback:
    """Polynomial expansion (Farnebäck, 2003), with the parameters of OpenCV's own example."""

    def flow(self, image1: torch.Tensor, image2: torch.Tensor) -> torch.Tensor:
        """As `FlowTeacher` has it; images of 16x16 at least."""
        return _one_by_one(image1, image2, farneback)


class Zero:
    """Nothing moves: what any method has to beat."""

    def flow(self, image1: torch.Tensor, image2: torch.Tensor) -> torch.Tensor:
        """As `FlowTeacher` has it."""
        batch, _, height, width = image1.shape
        return torch.zeros(batch, 2, height, width, device=image1.device)


BASELINES: dict[str, Callable[[], FlowTeacher]] = {
    **{f"dis-{preset}": partial(Dis, preset) for preset in PRESETS},
    "farneback": Farneback,
    "zero": Zero,
}


def baseline(name: str) -> FlowTeacher:
    """`dis-ultrafast`, `dis-fast`, `dis-medium`, `farneback` or `zero`; raises `UserError` for another name."""
    if name not in BASELINES:
        raise unknown_name("flow baseline", name, BASELINES)
    return BASELINES[name]()


def farneback(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The flow `(H, W, 2)` of `Farneback` between two images of `grey`."""
    return np.asarray(cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 3, 15, 3, 5, 1.2, 0))


def grey(image: torch.Tensor) -> np.ndarray:
    """An image `(3, H, W)` uint8, RGB, as OpenCV's methods take it: `(H, W)` uint8."""
    return np.asarray(cv2.cvtColor(image.permute(1, 2, 0).contiguous().cpu().numpy(), cv2.COLOR_RGB2GRAY))


def _one_by_one(
    image1: torch.Tensor, image2: torch.Tensor, method: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> torch.Tensor:
    """OpenCV takes grey images, one pair a call."""
    height, width = image1.shape[-2:]
    if min(height, width) < SMALLEST_SIDE:
        raise UserError(f"images of {height}x{width}: OpenCV's optical flow needs {SMALLEST_SIDE}x{SMALLEST_SIDE}")
    flows = [method(grey(first), grey(second)) for first, second in zip(image1, image2, strict=True)]
    stacked = torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2)
    return stacked.contiguous().to(image1.device, torch.float32)
