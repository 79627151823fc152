"""Pictures of optical flow: the usual colour wheel, overlays, error maps; `(H, W, 3)` uint8, and PNG files of them.

A hue is a direction and a saturation a length: white stands still, and what is unknown is black.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from toolkit.files import write_atomic
from toolkit.flow_metrics import FL_PIXELS, FL_SHARE, error_lengths

# KITTI's steps of an error map: errors in units of the Fl threshold, doubling; blue is within it, red beyond.
_ERROR_STEPS = np.array([2.0**power for power in range(-4, 5)], np.float32)
_ERROR_COLOURS = np.array(
    [
        (49, 54, 149),
        (69, 117, 180),
        (116, 173, 209),
        (171, 217, 233),
        (224, 243, 248),
        (254, 224, 144),
        (253, 174, 97),
        (244, 109, 67),
        (215, 48, 39),
        (165, 0, 38),
    ],
    np.uint8,
)


@dataclass(frozen=True)
class PairPictures:
    """A pair's first frame, the truth (black where it is unknown), a flow, and where that is wrong.

    Both flows have the full colour at `radius` pixels.
    """

    image: np.ndarray
    truth: np.ndarray
    flow: np.ndarray
    error: np.ndarray
    radius: float

    def rows(self) -> list[list[np.ndarray]]:
        """Frame and truth, and below them flow and error: what `write_png` takes."""
        return [[self.image, self.truth], [self.flow, self.error]]


def pair_pictures(image1: torch.Tensor, truth: torch.Tensor, valid: torch.Tensor, flow: torch.Tensor) -> PairPictures:
    """Pictures of `flow` beside `truth`, both `(2, H, W)`, of a first frame `(3, H, W)` uint8."""
    known = truth.float().masked_fill(~valid, math.nan)
    radius = flow_radius(known)
    return PairPictures(
        image_picture(image1),
        flow_picture(known, radius),
        flow_picture(flow, radius),
        error_picture(flow, truth, valid),
        radius,
    )


def flow_radius(*flows: torch.Tensor, share: float = 0.99) -> float:
    """The length in pixels within which `share` of all known flow vectors lie: one scale for several pictures."""
    lengths = torch.cat([torch.linalg.vector_norm(flow.float(), dim=-3).flatten() for flow in flows])
    known = lengths[lengths.isfinite()]
    return float(np.quantile(known.cpu().numpy(), share)) if len(known) else 0.0


def flow_picture(flow: torch.Tensor, radius: float | None = None) -> np.ndarray:
    """A flow `(2, H, W)` in Middlebury's colours (torchvision's `flow_to_image`).

    `radius` is the length in pixels of full saturation, by default the longest vector's; longer ones are cut to it.
    """
    from torchvision.utils import flow_to_image  # takes over a second, and only pictures need it

    flow = flow.detach().float().cpu()
    known = flow.isfinite().all(dim=0)
    flow = torch.where(known, flow, 0)
    length = torch.linalg.vector_norm(flow, dim=0)
    scale = max(float(length.max()) if radius is None else radius, 1e-6)
    flow = flow * (scale / length.clamp(min=scale))
    # torchvision scales by the longest vector: a last row of that length sets the scale.
    ruler = torch.tensor([scale, 0.0]).view(2, 1, 1).expand(2, 1, flow.shape[2])
    coloured = flow_to_image(torch.cat([flow, ruler], dim=1))[:, :-1]
    return np.asarray(torch.where(known, coloured, 0).permute(1, 2, 0).contiguous().numpy())


def wheel_picture(side: int = 151) -> np.ndarray:
    """The legend: each pixel shows the colour of the flow from the centre to it, up to the rim."""
    steps = torch.linspace(-1, 1, side)
    flow = torch.stack([steps.expand(side, side), steps[:, None].expand(side, side)])
    outside = torch.linalg.vector_norm(flow, dim=0) > 1
    return flow_picture(flow.masked_fill(outside, math.nan), radius=1.0)


def overlay_picture(image: torch.Tensor, flow: torch.Tensor, radius: float | None = None) -> np.ndarray:
    """The flow's colours, half transparent, over the grey image `(3, H, W)` uint8."""
    grey = image.cpu().float().mean(dim=0).numpy()[..., None]
    return np.asarray((0.5 * grey + 0.5 * flow_picture(flow, radius)).round().astype(np.uint8))


def error_picture(prediction: torch.Tensor, truth: torch.Tensor, valid: torch.Tensor | None = None) -> np.ndarray:
    """The error of every pixel in KITTI's colours: blue within the Fl threshold, red beyond it; black without truth.

    A colour stands for a factor of two; the palest blue ends at 3 pixels or 5 % of the displacement.
    """
    known = truth.isfinite().all(dim=0) if valid is None else valid & truth.isfinite().all(dim=0)
    threshold = torch.linalg.vector_norm(truth.float(), dim=0).mul(FL_SHARE).clamp(min=FL_PIXELS)
    steps = np.searchsorted(_ERROR_STEPS, (error_lengths(prediction, truth) / threshold).cpu().numpy())
    return np.asarray(np.where(known.cpu().numpy()[..., None], _ERROR_COLOURS[steps], np.uint8(0)))


def image_picture(image: torch.Tensor) -> np.ndarray:
    """An image `(3, H, W)` uint8 as a picture."""
    return np.asarray(image.cpu().permute(1, 2, 0).contiguous().numpy())


def png_bytes(rows: Sequence[Sequence[np.ndarray]]) -> bytes:
    """A PNG of pictures in rows; the pictures of a row are of one height, and rows of one width."""
    buffer = io.BytesIO()
    grid = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    Image.fromarray(grid).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def write_png(path: Path, rows: Sequence[Sequence[np.ndarray]]) -> None:
    """Write `png_bytes` to `path` atomically."""
    write_atomic(path, png_bytes(rows))
