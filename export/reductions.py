"""Which layers a lower precision reduces, and estimates of what it does to one: weights and inputs rounded, in fp32."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import fx

from export.coreml_compress import THRESHOLD
from export.graphs import SAMPLERS, coordinates, operator_name
from toolkit.errors import UserError

#: Layers: where the input stands among the arguments, where the weight, and the weight's axis of output channels.
LAYERS: dict[str, tuple[int, int, int]] = {
    **dict.fromkeys(("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default"), (0, 1, 0)),
    **dict.fromkeys(("aten.conv2d.padding", "aten.convolution.default", "aten.linear.default"), (0, 1, 0)),
    **dict.fromkeys(("aten.conv_transpose1d.default", "aten.conv_transpose2d.input"), (0, 1, 1)),
    **dict.fromkeys(("aten.matmul.default", "aten.mm.default", "aten.bmm.default"), (0, 1, -1)),
    **dict.fromkeys(("aten.addmm.default", "aten.baddbmm.default"), (1, 2, -1)),
}
#: Of targets that reduce some kinds of layers only: which.
_KINDS: dict[str, tuple[str, ...]] = {
    "executorch-xnnpack-int8": tuple(f"aten.{name}.default" for name in ("conv1d", "conv2d", "convolution", "linear")),
    "coreml-w8a8": tuple(f"aten.{name}.default" for name in ("conv1d", "conv2d", "linear", "matmul")),
}
#: Precisions of Core ML that compress weights, and reduce nothing else.
_OF_WEIGHTS = re.compile(r"coreml-(int\d|pal\d)")
LEVELS, LEVELS_OF_INT4 = 255, 15
ROUNDS = 8

#: What becomes of a layer's arguments; the third says of each whether it is known ahead of any input.
Reduction = Callable[[fx.Node, Sequence[Any], Sequence[bool]], list[Any]]


def layers(target: str, nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """The layers of a program that `target` reduces where none is kept: convolutions, linears and matrix products.

    Left out is what depends on no input, and what the target's converter leaves as it is by itself: in ONNX and XNNPACK
    sums and means that are written as convolutions; in ONNX layers that predict where a grid_sample looks; in 8 bits
    of both transposed convolutions and products of two computed values; in Core ML, where weights alone are
    compressed, those same products and small weights. What a converter of fp16 leaves because of its values is there.
    """
    nodes = list(nodes)
    computed = fed(nodes)
    found = [node for node in nodes if _is_layer(node) and node in computed]
    kinds = _KINDS.get(target)
    if kinds is not None:
        found = [node for node in found if str(node.target) in kinds and not _is_transposed(node)]
    if target.startswith("onnx-"):
        predictors = _predictors(nodes)
        found = [node for node in found if node not in predictors and not _is_mean(node)]
    if target in ("onnx-int8", "executorch-xnnpack-int8"):
        found = [node for node in found if not _is_transposed(node) and _weight(node) not in computed]
    if target == "executorch-xnnpack-int8":
        found = [node for node in found if not adds_up(node)]
    if _OF_WEIGHTS.fullmatch(target):
        found = [node for node in found if _largest_weight(node, computed) > THRESHOLD]
    return found


def fed(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """The nodes of a program, in its order, whose values depend on an input."""
    found: set[fx.Node] = set()
    for node in nodes:
        if node.op == "placeholder" or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def adds_up(node: fx.Node) -> bool:
    """Whether a layer only adds channels up, as the lowering says means and correlations: its weights all alike.

    Zeros do not count, and a single weight is none.
    """
    tensor = _constant(node)
    used = tensor[tensor != 0]
    return used.numel() > 1 and bool((used == used[0]).all())


def _is_mean(node: fx.Node) -> bool:
    """Whether a layer has one weight everywhere, zeros counted: of those that add up, what ONNX's converters leave."""
    tensor = _constant(node)
    return tensor.numel() > 0 and bool(tensor.min() == tensor.max())


def _constant(node: fx.Node) -> torch.Tensor:
    """A layer's weight; empty where it is computed, and of what is no layer."""
    weight = _weight(node) if _is_layer(node) else None
    return torch.empty(0) if weight is None or weight.op != "get_attr" else attribute(weight)


def attribute(node: fx.Node) -> torch.Tensor:
    """The tensor that a node of kind `get_attr` stands for."""
    owner = node.graph.owning_module
    assert owner is not None
    path, _, name = str(node.target).rpartition(".")
    tensor = getattr(owner.get_submodule(path), name)
    assert isinstance(tensor, torch.Tensor)
    return tensor


def _is_layer(node: fx.Node) -> bool:
    return node.op == "call_function" and str(node.target) in LAYERS


def _weight(node: fx.Node) -> fx.Node | None:
    weight = node.args[LAYERS[str(node.target)][1]]
    return weight if isinstance(weight, fx.Node) else None


def _is_transposed(node: fx.Node) -> bool:
    name = str(node.target)
    return "conv_transpose" in name or (name == "aten.convolution.default" and bool(node.args[6]))


def _largest_weight(node: fx.Node, computed: Collection[fx.Node]) -> int:
    """How many numbers the larger constant operand of a layer has; 0 where both are computed."""
    operands = [node.args[place] for place in LAYERS[str(node.target)][:2]]
    weights = [operand for operand in operands if isinstance(operand, fx.Node) and operand not in computed]
    return max((weight.meta["val"].numel() for weight in weights), default=0)


def _predictors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """The layers nearest before the coordinates of a grid_sample."""
    found = coordinates(nodes)
    taken = [arg for n in found for arg in (n.args[1:2] if operator_name(n.target) in SAMPLERS else n.all_input_nodes)]
    return {node for node in taken if isinstance(node, fx.Node) and _is_layer(node)}


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
        return _each(lambda tensor, _axis: palettized(tensor, bits), lambda tensor: tensor, takes_long=True)
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
    weight: Callable[[torch.Tensor, int], torch.Tensor],
    values: Callable[[torch.Tensor], torch.Tensor],
    takes_long: bool = False,
) -> Reduction:
    known_weights: dict[fx.Node, torch.Tensor] = {}  # those that took long, for each is asked for many times

    def reduced_weight(node: fx.Node, tensor: torch.Tensor, axis: int) -> torch.Tensor:
        found = known_weights[node] if node in known_weights else weight(tensor, axis)
        if takes_long:
            known_weights[node] = found
        return found

    def reduce(node: fx.Node, args: Sequence[Any], known: Sequence[bool]) -> list[Any]:
        first, second, axis = LAYERS[str(node.target)]
        axis = 1 if str(node.target) == "aten.convolution.default" and args[6] else axis  # transposed
        reduced = list(args)
        for place in (first, second):
            tensor = args[place]
            if tensor.is_floating_point():
                is_weight = known[place] and place == second
                reduced[place] = reduced_weight(node, tensor, axis) if is_weight else values(tensor)
        return reduced

    return reduce
