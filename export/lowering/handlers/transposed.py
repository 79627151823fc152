"""Transposed 3-D convolutions as transposed 2-D ones over frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch.fx import Node
from torch.nn import functional as F

from export.lowering.constants import Weight
from export.lowering.handlers.indexing import take
from export.lowering.handlers.registry import handles
from export.lowering.packed import Packed, Unrepresentable, new_dim, size_of, with_rank

if TYPE_CHECKING:
    from export.lowering.lower import Lowering


@handles("aten.conv_transpose3d.input", weights=True)
def conv_transpose3d(
    lowering: Lowering,
    node: Node,
    x: Packed,
    weight: Weight | Packed,
    bias: Weight | Packed | None = None,
    stride: Sequence[int] = (1, 1, 1),
    padding: Sequence[int] = (0, 0, 0),
    output_padding: Sequence[int] = (0, 0, 0),
    groups: int = 1,
    dilation: Sequence[int] = (1, 1, 1),
) -> Packed:
    """Tap `k` of frame `t` lands on frame `t * stride + k * dilation - padding`: a shifted sum for each phase of time.

    The phases lie side by side in the channels; that time is made of steps and phases is only a description.
    """
    if not isinstance(weight, Weight) or isinstance(bias, Packed):
        raise Unrepresentable("a weight or bias that is computed from the input,")
    (step, *strides), (cut, *cuts), (gap, *gaps) = _triple(stride), _triple(padding), _triple(dilation)
    batch, channels, time, height, width = with_rank(x, 5).dims
    rank, copies, length = len(x.dims), size_of(batch), int(node.meta["val"].shape[len(x.dims) - 3])
    landing = [divmod(tap * gap, step) for tap in range(weight.tensor.shape[2])]  # (steps later, phase)
    first, last = cut // step, -(-(cut + length) // step)  # the steps of which the output is made
    before, after = max(0, landing[-1][0] - first), max(0, last - size_of(time))
    extra, rows, columns = _growth(_triple(output_padding)[1:], cuts, strides)
    frames = x.arranged([(*time, *batch), channels, height, width]).storage
    if before or after or rows or columns:
        frames = F.pad(frames, (0, columns, 0, rows, 0, 0, before * copies, after * copies))

    def landed(tap: int, opens: bool) -> torch.Tensor:
        start = first - landing[tap][0] + before
        seen = frames[start * copies : (start + last - first) * copies]
        kernel = lowering.constant(f"{weight.name}_tap{tap}", _tap(weight, tap))
        shift = None if bias is None or not opens else lowering.constant(bias.name, _whole(bias))
        return F.conv_transpose2d(seen, kernel, shift, strides, cuts, extra, groups, gaps)

    taps = [[tap for tap, (_, lands) in enumerate(landing) if lands == phase] for phase in range(step)]
    phases = [reduce(torch.add, [landed(tap, tap == some[0]) for tap in some]) if some else None for some in taps]
    storage = _side_by_side(lowering, phases, weight, bias)
    if rows or columns:
        storage = storage[:, :, : node.meta["val"].shape[-2], : node.meta["val"].shape[-1]]
    sizes = (last - first, step, storage.shape[1] // step, *storage.shape[2:])
    steps, inner, out_channels, out_height, out_width = (new_dim(size) for size in sizes)
    axes = [(*steps, *batch), (*inner, *out_channels), out_height, out_width]
    whole = Packed(storage, axes, [batch, out_channels, (*steps, *inner), out_height, out_width][5 - rank :])
    return take(whole, rank - 3, cut - first * step, cut - first * step + length)


def _growth(extra: Sequence[int], cuts: Sequence[int], strides: Sequence[int]) -> tuple[list[int], int, int]:
    """Output padding, and rows and columns of zeros behind the input that do the same where it exceeds the padding.

    Core ML's converter takes output padding only as less padding on one side.
    """
    beyond = [more > cut for more, cut in zip(extra, cuts, strict=True)]
    rows, columns = (-(-more // step) if out else 0 for more, step, out in zip(extra, strides, beyond, strict=True))
    return [0 if out else more for more, out in zip(extra, beyond, strict=True)], rows, columns


def _side_by_side(
    lowering: Lowering, phases: Sequence[torch.Tensor | None], weight: Weight, bias: Weight | None
) -> torch.Tensor:
    """The phases in the channels; the bias alone where no tap lands."""
    first = phases[0]
    assert first is not None  # the first tap lands there
    if len(phases) == 1:
        return first

    def alone() -> torch.Tensor:
        zeros = torch.zeros(first.shape[1], dtype=weight.tensor.dtype)
        return (zeros if bias is None else bias.tensor).reshape(1, -1, 1, 1)

    def silent() -> torch.Tensor:
        return lowering.constant(f"{(bias or weight).name}_alone", alone).expand(first.shape)

    return torch.cat([silent() if phase is None else phase for phase in phases], 1)


def _tap(weight: Weight, tap: int) -> Callable[[], torch.Tensor]:
    return lambda: weight.tensor[:, :, tap]


def _whole(weight: Weight) -> Callable[[], torch.Tensor]:
    return lambda: weight.tensor


def _triple(values: Sequence[int]) -> tuple[int, ...]:
    return (*values,) * (3 // len(values))
