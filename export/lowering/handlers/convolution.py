"""3-D convolutions as 2-D ones over frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch.fx import Node
from torch.nn import functional as F

from export.lowering.constants import Weight
from export.lowering.handlers.registry import handles
from export.lowering.packed import Packed, Unrepresentable

if TYPE_CHECKING:
    from export.lowering.lower import Lowering


@handles("aten.conv3d.default", "aten.conv3d.padding", weights=True)
def conv3d(
    lowering: Lowering,
    node: Node,
    x: Packed,
    weight: Weight,
    bias: Weight | None = None,
    stride: Sequence[int] = (1, 1, 1),
    padding: Sequence[int] | str = (0, 0, 0),
    dilation: Sequence[int] = (1, 1, 1),
    groups: int = 1,
) -> Packed:
    """One Conv2d for each temporal tap, over shifted frames, summed; the taps' weights are split ahead of the graph."""
    if not isinstance(weight, Weight) or not isinstance(bias, Weight | None):
        raise Unrepresentable("a weight or bias that is computed from the input,")
    kernel = weight.tensor.shape[2:]
    stride, dilation = _triple(stride), _triple(dilation)
    pad = _padding(padding, kernel, dilation)
    frames = x.frames()
    if any(pad[0]):
        frames = F.pad(frames, (0, 0, 0, 0, 0, 0, *pad[0]))
    steps = (frames.shape[0] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    height_pad, width_pad = pad[1], pad[2]
    if height_pad[0] != height_pad[1] or width_pad[0] != width_pad[1]:
        frames = F.pad(frames, (*width_pad, *height_pad))
        height_pad = width_pad = (0, 0)
    total: torch.Tensor | None = None
    for tap in range(kernel[0]):
        begin = tap * dilation[0]
        shifted = frames[begin : begin + (steps - 1) * stride[0] + 1 : stride[0]]
        kernel_2d = lowering.constant(f"{weight.name}_tap{tap}", _tap(weight, tap))
        tap_bias = lowering.constant(bias.name, _whole(bias)) if bias is not None and tap == 0 else None
        part = F.conv2d(shifted, kernel_2d, tap_bias, stride[1:], (height_pad[0], width_pad[0]), dilation[1:], groups)
        total = part if total is None else total + part
    assert total is not None
    return Packed.from_frames(total)


def _tap(weight: Weight, tap: int) -> Callable[[], torch.Tensor]:
    return lambda: weight.tensor[:, :, tap]


def _whole(weight: Weight) -> Callable[[], torch.Tensor]:
    return lambda: weight.tensor


def _triple(value: int | Sequence[int]) -> tuple[int, int, int]:
    values = (value,) * 3 if isinstance(value, int) else tuple(value)
    return (values * 3)[:3] if len(values) == 1 else (values[0], values[1], values[2])


def _padding(padding: Sequence[int] | str, kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """(before, after) for time, height and width."""
    if padding == "valid":
        return [(0, 0)] * 3
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    assert not isinstance(padding, str)
    return [(side, side) for side in _triple(padding)]
