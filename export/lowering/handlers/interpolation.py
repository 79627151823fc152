"""Resizing of videos and images: each frame in two dimensions, then frames of frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import Node
from torch.nn import functional as F

from export.lowering.handlers.registry import handles
from export.lowering.handlers.shapes import repeat_interleave
from export.lowering.packed import MAX_RANK, Packed
from export.lowering.resampling import Rows, blended, channelwise_frames, placed, projected, shape_of

if TYPE_CHECKING:
    from export.lowering.lower import Lowering

Scales = Sequence[float | None]


@handles(
    "aten.upsample_nearest2d.vec",
    "aten.upsample_nearest2d.default",
    "aten._upsample_nearest_exact2d.vec",
    "aten._upsample_nearest_exact2d.default",
    "aten.upsample_nearest3d.vec",
    "aten.upsample_nearest3d.default",
    "aten._upsample_nearest_exact3d.vec",
    "aten._upsample_nearest_exact3d.default",
)
def nearest(
    lowering: Lowering, node: Node, x: Packed, _output_size: Any, *scales: Any, **named_scales: float | None
) -> Packed:
    """`upsample_nearest2d` on frames and repeated frames where factors are whole, known places otherwise."""
    exact = "exact" in str(node.target)
    sizes, steps = _sizes(x.shape), _sizes(shape_of(node))
    each = zip(sizes, steps, _scales(node, scales, named_scales), strict=True)
    time, *space = [_nearest_places(size, count, scale, exact) for size, count, scale in each]
    frames = _frames(x, node)
    for axis, places in zip((2, 3), space, strict=True):
        if not _repeats(places, frames.shape[axis]):
            frames = placed(lowering.constant, f"{node.name}_{axis}", frames, axis, places)
    if list(frames.shape[2:]) != steps[1:]:
        frames = F.interpolate(frames, size=steps[1:], mode="nearest")
    if _repeats(time, sizes[0]):
        video = repeat_interleave(lowering, node, Packed.from_frames(frames), steps[0] // sizes[0], 2)
        video = Packed.from_frames(video.frames()) if lowering.module.frame_by_frame else video
    else:
        video = Packed.from_frames(placed(lowering.constant, node.name, frames, 0, time))
    return _as_output(video, node)


@handles(
    "aten.upsample_bilinear2d.vec",
    "aten.upsample_bilinear2d.default",
    "aten.upsample_trilinear3d.vec",
    "aten.upsample_trilinear3d.default",
)
def linear(
    lowering: Lowering,
    node: Node,
    x: Packed,
    _output_size: Any,
    align_corners: bool,
    *scales: Any,
    **named_scales: float | None,
) -> Packed:
    """`upsample_bilinear2d` where factors are whole, constant matrices otherwise; then weighted sums of frames."""
    sizes, steps = _sizes(x.shape), _sizes(shape_of(node))
    each = list(zip(sizes, steps, _scales(node, scales, named_scales), strict=True))
    time, *space = [_linear_rows(size, count, scale, align_corners) for size, count, scale in each]
    frames = _frames(x, node)
    for axis, rows, one in zip((2, 3), space, each[1:], strict=True):
        if not _is_whole(*one):
            frames = projected(lowering.constant, f"{node.name}_{axis}", frames, axis, rows)
    if list(frames.shape[2:]) != steps[1:]:
        frames = F.interpolate(frames, size=steps[1:], mode="bilinear", align_corners=align_corners)
    return _as_output(Packed.from_frames(blended(lowering.constant, node.name, frames, time)), node)


def _frames(x: Packed, node: Node) -> torch.Tensor:
    return x.plain() if _is_image(node) else channelwise_frames(x)


def _as_output(video: Packed, node: Node) -> Packed:
    return Packed.of(video.frames()) if _is_image(node) else video.reshape(shape_of(node))


def _is_image(node: Node) -> bool:
    return "2d" in str(node.target)


def _sizes(shape: Sequence[int]) -> list[int]:
    """Time, height and width; images are frames whose time stays as it is."""
    return [shape[0], *shape[2:]] if len(shape) == MAX_RANK else list(shape[2:])


def _scales(node: Node, scales: Sequence[Any], named: dict[str, float | None]) -> Scales:
    """The factors for time, height and width that a call gives, or None."""
    axes = "hw" if _is_image(node) else "dhw"
    if str(node.target).endswith(".vec"):
        given = (*scales, named.get("scale_factors"))[0] or [None] * len(axes)
    else:
        given = [*scales, *(named.get(f"scales_{axis}") for axis in axes[len(scales) :])]
    return [None, *given] if _is_image(node) else given


def _nearest_places(size: int, steps: int, scale: float | None, exact: bool) -> list[int]:
    """Where each output place comes from, in the precision in which torch computes it."""
    ratio = np.float32(1 / scale) if scale else np.float32(size) / np.float32(steps)
    offset = np.float32(0.5 if exact else 0)
    return [min(math.floor((np.float32(step) + offset) * ratio), size - 1) for step in range(steps)]


def _repeats(places: Sequence[int], size: int) -> bool:
    """Whether the places are all there are in order, each repeated equally often."""
    return len(places) % size == 0 and list(places) == [i // (len(places) // size) for i in range(len(places))]


def _linear_rows(size: int, steps: int, scale: float | None, align_corners: bool) -> Rows:
    """Between which two places each output place lies, in the precision in which torch computes it."""
    if size == steps:
        return [{step: 1.0} for step in range(steps)]
    if align_corners:
        ratio = np.float32(size - 1) / np.float32(steps - 1) if steps > 1 else np.float32(0)
    else:
        ratio = np.float32(1 / scale) if scale else np.float32(size) / np.float32(steps)
    half = np.float32(0 if align_corners else 0.5)
    rows: Rows = []
    for step in range(steps):
        source = max((np.float32(step) + half) * ratio - half, np.float32(0))
        low = min(int(source), size - 1)
        share = float(source - np.float32(low))
        rows.append({low: 1 - share, low + 1: share} if share > 0 and low + 1 < size else {low: 1.0})
    return rows


def _is_whole(size: int, steps: int, scale: float | None) -> bool:
    """Whether the factor is whole and the same whether taken from the sizes or as it was given."""
    return steps % size == 0 and (scale is None or scale * size == steps)
