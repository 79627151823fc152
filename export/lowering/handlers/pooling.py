"""3-D pooling: each frame in two dimensions, then frames with frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch.fx import Node
from torch.nn import functional as F

from export.lowering.handlers.reductions import mean
from export.lowering.handlers.registry import handles
from export.lowering.packed import Packed, Unrepresentable
from export.lowering.resampling import Rows, blended, channelwise_frames, largest, projected, shape_of

if TYPE_CHECKING:
    from export.lowering.lower import Lowering

Triple = tuple[int, int, int]
#: The places that each output place sees along one dimension.
Windows = list[list[int]]


@handles("aten.max_pool3d.default")
def max_pool3d(
    lowering: Lowering,
    node: Node,
    x: Packed,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Packed:
    """The largest of each window; `max_pool2d` on frames unless dilated, which Core ML cannot."""
    shape = shape_of(node)
    kernel, padding, dilation = _triple(kernel), _triple(padding), _triple(dilation)
    stride = _triple(stride) if stride else kernel
    frames = channelwise_frames(x)
    seen = [
        _windows(x.shape[dim], shape[dim], kernel[dim], stride[dim], padding[dim], dilation[dim])
        for dim in (-3, -2, -1)
    ]
    if math.prod(dilation[1:]) == 1 and math.prod((*kernel[1:], *stride[1:])) > 1:
        frames = F.max_pool2d(frames, kernel[1:], stride[1:], padding[1:], ceil_mode=ceil_mode)
        seen[1:] = []
    for axis, windows in zip((0, 2, 3), seen, strict=False):
        frames = largest(lowering.constant, f"{node.name}_{axis}", frames, axis, windows)
    return Packed.from_frames(frames).reshape(shape)


@handles("aten.max_pool3d_with_indices.default")
def max_pool3d_with_indices(lowering: Lowering, node: Node, *args: object, **kwargs: object) -> list[Packed]:
    """The maxima; where they stood is refused."""
    _refuse_indices(node)
    return [max_pool3d(lowering, node, *args, **kwargs)]  # type: ignore[arg-type]


@handles("aten.avg_pool3d.default")
def avg_pool3d(
    lowering: Lowering,
    node: Node,
    x: Packed,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Packed:
    """Means over frames with zeros around them, corrected by a constant where a window counts fewer places."""
    shape = shape_of(node)
    kernel, padding = _triple(kernel), _triple(padding)
    stride = _triple(stride) if stride else kernel
    sizes, steps = x.shape[-3:], shape[-3:]
    needed = [(n - 1) * s + k for n, s, k in zip(steps, stride, kernel, strict=True)]
    after = [max(need - before - size, 0) for need, before, size in zip(needed, padding, sizes, strict=True)]
    frames = channelwise_frames(x)
    if any((*padding, *after)):
        frames = F.pad(frames, (padding[2], after[2], padding[1], after[1], 0, 0, padding[0], after[0]))
    frames = F.avg_pool2d(frames, kernel[1:], stride[1:]) if math.prod((*kernel[1:], *stride[1:])) > 1 else frames
    total: torch.Tensor | None = None
    for begin in range(kernel[0]):
        part = frames[begin : begin + (steps[0] - 1) * stride[0] + 1 : stride[0]]
        total = part if total is None else total + part
    assert total is not None
    counts = [
        _counts(*window, include=count_include_pad)
        for window in zip(sizes, steps, kernel, stride, padding, strict=True)
    ]
    if divisor_override is not None:
        counts = [[divisor_override] * steps[0], [1] * steps[1], [1] * steps[2]]
    return Packed.from_frames(_shared(lowering, node.name, total, kernel[1] * kernel[2], counts)).reshape(shape)


@handles("aten.adaptive_avg_pool3d.default", "aten._adaptive_avg_pool3d.default")
def adaptive_avg_pool3d(lowering: Lowering, node: Node, x: Packed, _output_size: Sequence[int]) -> Packed:
    """The mean over everything, or of evenly shared windows."""
    shape = shape_of(node)
    rank = len(shape)
    if math.prod(shape[-3:]) == 1:
        return mean(lowering, x, {rank - 3, rank - 2, rank - 1})
    frames = channelwise_frames(x)
    (height, width), (rows, columns) = frames.shape[2:], shape[-2:]
    if (rows, columns) == (1, 1):
        frames = frames.mean((2, 3), keepdim=True)
    elif height % rows == 0 and width % columns == 0:
        frames = _pooled_evenly(F.avg_pool2d, frames, rows, columns)
    else:
        for axis, steps in ((3, columns), (2, rows)):
            rows_of_means = _mean_rows(frames.shape[axis], steps)
            frames = projected(lowering.constant, f"{node.name}_{axis}", frames, axis, rows_of_means)
    frames = blended(lowering.constant, node.name, frames, _mean_rows(x.shape[-3], shape[-3]))
    return Packed.from_frames(frames).reshape(shape)


@handles("aten.adaptive_max_pool3d.default")
def adaptive_max_pool3d(lowering: Lowering, node: Node, x: Packed, _output_size: Sequence[int]) -> list[Packed]:
    """The largest of evenly shared windows; where they stood is refused."""
    _refuse_indices(node)
    shape = shape_of(node)
    frames = channelwise_frames(x)
    axes = [(0, shape[-3]), (2, shape[-2]), (3, shape[-1])]
    if frames.shape[2] % shape[-2] == 0 and frames.shape[3] % shape[-1] == 0:
        frames = _pooled_evenly(F.max_pool2d, frames, shape[-2], shape[-1])
        axes = axes[:1]
    for axis, steps in axes:
        frames = largest(lowering.constant, f"{node.name}_{axis}", frames, axis, _shares(frames.shape[axis], steps))
    return [Packed.from_frames(frames).reshape(shape)]


def _triple(value: int | Sequence[int]) -> Triple:
    values = [value] if isinstance(value, int) else list(value)
    depth, height, width = values * 3 if len(values) == 1 else values
    return depth, height, width


def _refuse_indices(node: Node) -> None:
    if any(user.args[1] == 1 for user in node.users):
        raise Unrepresentable("the indices of its maxima")


def _windows(size: int, steps: int, kernel: int, stride: int, padding: int, dilation: int) -> Windows:
    """What each step sees, with a place outside replaced by the nearest inside of the same window.

    That changes no maximum, and no infinities are needed.
    """
    windows = []
    for step in range(steps):
        begin = step * stride - padding
        taps = [begin + tap * dilation for tap in range(kernel)]
        inside = [place for place in taps if 0 <= place < size]
        if not inside:
            raise Unrepresentable("windows that see nothing but padding")
        windows.append([min(max(place, inside[0]), inside[-1]) for place in taps])
    return windows


def _counts(size: int, steps: int, kernel: int, stride: int, padding: int, include: bool) -> list[int]:
    """How many places each step counts along one dimension."""
    counts = []
    for step in range(steps):
        begin = step * stride - padding
        end = min(begin + kernel, size + padding)
        counts.append(end - begin if include else min(end, size) - max(begin, 0))
    return counts


def _shared(
    lowering: Lowering, name: str, sums: torch.Tensor, already: int, counts: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Sums over windows, divided `already` by so many, divided by the product of the counts."""
    if all(len(set(along)) == 1 for along in counts):
        share = already / math.prod(along[0] for along in counts)
        return sums if share == 1 else sums * share

    def make() -> torch.Tensor:
        depth, height, width = (torch.tensor(along, dtype=sums.dtype) for along in counts)
        return already / (depth[:, None, None, None] * height[:, None] * width)

    return sums * lowering.constant(f"{name}_share", make)


def _shares(size: int, steps: int) -> Windows:
    """The windows of adaptive pooling, filled up to one length with their last places."""
    windows = [list(range(i * size // steps, -(-(i + 1) * size // steps))) for i in range(steps)]
    longest = max(map(len, windows))
    return [window + window[-1:] * (longest - len(window)) for window in windows]


def _mean_rows(size: int, steps: int) -> Rows:
    """The means of the windows of adaptive pooling."""
    return [dict.fromkeys(window, 1 / len(set(window))) for window in _shares(size, steps)]


def _pooled_evenly(pool: Callable[..., torch.Tensor], frames: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Windows side by side, which divide a frame."""
    window = (frames.shape[2] // rows, frames.shape[3] // columns)
    return frames if window == (1, 1) else pool(frames, window, window)
