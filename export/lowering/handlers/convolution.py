"""3-D convolutions as 2-D ones over frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch.fx import Node
from torch.nn import functional as F

from export.lowering.constants import Weight
from export.lowering.forms import Convolution, apply
from export.lowering.handlers.registry import handles
from export.lowering.packed import Packed, Unrepresentable, new_dim, size_of, with_rank

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
    """2-D convolutions over frames, in the form that `export.lowering.forms` chooses."""
    if not isinstance(weight, Weight) or not isinstance(bias, Weight | None):
        raise Unrepresentable("a weight or bias that is computed from the input,")
    batch, channels, time, height, width = with_rank(x, 5).dims
    frames = x.arranged([(*time, *batch), channels, height, width]).storage
    copies = size_of(batch)
    before_after = _padding(padding, weight.tensor.shape[2:], _triple(dilation))
    if any(before_after[0]):
        frames = F.pad(frames, (0, 0, 0, 0, 0, 0, *(copies * side for side in before_after[0])))
    space = before_after[1:]
    if any(before != after for before, after in space):
        frames = F.pad(frames, (*space[1], *space[0]))
        space = [(0, 0), (0, 0)]
    conv = Convolution(
        weight=weight,
        bias=bias,
        stride=_triple(stride),
        padding=(space[0][0], space[1][0]),
        dilation=_triple(dilation),
        groups=groups,
    )
    result = apply(conv, frames, copies, lowering.constant, lowering.module.form)
    steps, out_channels, out_height, out_width = (
        new_dim(size) for size in (result.shape[0] // copies, *result.shape[1:])
    )
    dims = [batch, out_channels, steps, out_height, out_width][5 - len(x.dims) :]
    return Packed(result, [(*steps, *batch), out_channels, out_height, out_width], dims)


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
