"""Estimates of what a lower precision does to one layer: its weights and inputs rounded, in fp32."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import fx

from toolkit.errors import UserError

#: Layers: where the input stands among the arguments, where the weight, and the weight's axis of output channels.
LAYERS: dict[str, tuple[int, int, int]] = {
    **dict.fromkeys(("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default"), (0, 1, 0)),
    **dict.fromkeys(("aten.conv2d.padding", "aten.convolution.default", "aten.linear.default"), (0, 1, 0)),
    **dict.fromkeys(("aten.conv_transpose1d.default", "aten.conv_transpose2d.input"), (0, 1, 1)),
    **dict.fromkeys(("aten.matmul.default", "aten.mm.default", "aten.bmm.default"), (0, 1, -1)),
    **dict.fromkeys(("aten.addmm.default", "aten.baddbmm.default"), (1, 2, -1)),
}
LEVELS, LEVELS_OF_INT4 = 255, 15
ROUNDS = 8

#: What becomes of a layer's arguments; the third says of each whether it is known ahead of any input.
Reduction = Callable[[fx.Node, Sequence[Any], Sequence[bool]], list[Any]]


def is_reducible(node: fx.Node) -> bool:
    """Whether a node is a layer: a convolution, a linear layer or a matrix product."""
    return node.op == "call_function" and str(node.target) in LAYERS


def reduction_of(target: str) -> Reduction:
    """What the precision of a target, its last word, does to a layer.

    `fp16` rounds weights and inputs; `int8` and `w8a8` quantize weights by output channel, symmetric, and inputs as
    a whole, asymmetric, to 8 bits; `int8` of Core ML quantizes weights only, and so does `int4`, here by output channel
    where the artifact has a scale for each block of input channels too; `palN` clusters weights into 2^N values.
    Raises `UserError` on other targets: they reduce nothing.
    """
    backend, precision = target.split("-")[0], target.rpartition("-")[2]
    if precision == "fp16":
        return _each(lambda tensor, _axis: tensor.half().float(), lambda tensor: tensor.half().float())
    if precision == "w8a8" or (precision == "int8" and backend != "coreml"):
        return _each(quantized_weight, quantized_values)
    if precision in ("int8", "int4"):
        levels = LEVELS if precision == "int8" else LEVELS_OF_INT4
        return _each(partial(quantized_weight, levels=levels), lambda tensor: tensor)
    palettes = re.fullmatch(r"pal(\d)", precision)
    if palettes:
        bits = int(palettes[1])
        return _each(lambda tensor, _axis: palettized(tensor, bits), lambda tensor: tensor)
    raise UserError(
        f"target {target}: reduces no layer, so none can be kept; choose one of fp16, int8, int4 or a palette"
    )


def quantized_weight(tensor: torch.Tensor, axis: int, levels: int = LEVELS) -> torch.Tensor:
    """A weight of so many levels, by default -127..127, with a scale for each place along `axis`."""
    others = [place for place in range(tensor.ndim) if place != axis % tensor.ndim]
    scale = (tensor.abs().amax(others, keepdim=True) / (levels // 2)).clamp_min(torch.finfo(torch.float32).tiny)
    return (tensor / scale).round() * scale


def quantized_values(tensor: torch.Tensor) -> torch.Tensor:
    """Values in 0..255 between the least and the greatest of them and 0."""
    low, high = tensor.min().clamp(max=0), tensor.max().clamp(min=0)
    scale = ((high - low) / LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
    zero = (-low / scale).round()
    return ((tensor / scale + zero).round().clamp(0, LEVELS) - zero) * scale


def palettized(tensor: torch.Tensor, bits: int) -> torch.Tensor:
    """A weight of 2^bits different values, by k-means (Lloyd's algorithm) from its quantiles."""
    ordered = tensor.flatten().sort().values
    places = torch.linspace(0, len(ordered) - 1, 2**bits).round().long()
    palette = ordered[places].unique()
    for _ in range(ROUNDS):
        nearest = torch.bucketize(ordered, (palette[1:] + palette[:-1]) / 2)
        sums = torch.zeros_like(palette).scatter_add_(0, nearest, ordered)
        counts = torch.bincount(nearest, minlength=len(palette))
        palette = torch.where(counts > 0, sums / counts.clamp_min(1), palette)
    return palette[torch.bucketize(tensor.contiguous(), (palette[1:] + palette[:-1]) / 2)]


def _each(
    weight: Callable[[torch.Tensor, int], torch.Tensor], values: Callable[[torch.Tensor], torch.Tensor]
) -> Reduction:
    def reduce(node: fx.Node, args: Sequence[Any], known: Sequence[bool]) -> list[Any]:
        first, second, axis = LAYERS[str(node.target)]
        axis = 1 if str(node.target) == "aten.convolution.default" and args[6] else axis  # transposed
        reduced = list(args)
        for place in (first, second):
            tensor = args[place]
            if tensor.is_floating_point():
                reduced[place] = weight(tensor, axis) if known[place] and place == second else values(tensor)
        return reduced

    return reduce
