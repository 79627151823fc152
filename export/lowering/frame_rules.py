"""What each rank-4 operator does to the leading axis, time."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

import torch
from torch.fx import Node


class Role(Enum):
    """How an operator treats frames."""

    ALIKE = auto()  # frame by frame, all its tensors with as many frames
    FIRST = auto()  # frame by frame of its first argument; other tensors are used whole
    SELECTS = auto()  # takes some frames
    JOINS = auto()  # puts frames one behind the other
    PADS = auto()  # puts constant frames around
    REPEATS = auto()  # repeats its one frame
    MIXES = auto()  # anything else


#: Operators over a batch of images or rows, whose other arguments are weights.
BATCHED = {
    "aten.conv2d.default",
    "aten.conv2d.padding",
    "aten.conv_transpose2d.input",
    "aten.convolution.default",
    "aten.max_pool2d.default",
    "aten.avg_pool2d.default",
    "aten.adaptive_avg_pool2d.default",
    "aten.adaptive_max_pool2d.default",
    "aten.pixel_shuffle.default",
    "aten.pixel_unshuffle.default",
    "aten.upsample_bilinear2d.vec",
    "aten.upsample_nearest2d.vec",
    "aten.upsample_bilinear2d.default",
    "aten.upsample_nearest2d.default",
    "aten.reflection_pad2d.default",
    "aten.replication_pad2d.default",
}
RESIZED = {"aten.view.default", "aten.reshape.default", "aten._unsafe_view.default"}
PRODUCTS = {"aten.bmm.default", "aten.matmul.default", "aten.scaled_dot_product_attention.default"}
#: Operators along dimensions that their second argument names, one or several.
ALONG = {
    "aten.mean.dim",
    "aten.sum.dim_IntList",
    "aten.amax.default",
    "aten.amin.default",
    "aten.var.correction",
    "aten.softmax.int",
    "aten._softmax.default",
    "aten.log_softmax.int",
    "aten._log_softmax.default",
    "aten.cumsum.default",
    "aten.slice.Tensor",
    "aten.split.Tensor",
    "aten.split_with_sizes.default",
    "aten.flip.default",
    "aten.linalg_vector_norm.default",
}


def role_of(node: Node) -> Role:
    """The role of a node of a folded graph, by its operator and arguments."""
    name, example = str(node.target), node.meta["val"]
    first: Any = node.all_input_nodes[0].meta["val"] if node.all_input_nodes else None
    rank = first.ndim if isinstance(first, torch.Tensor) else 0
    if not rank or not isinstance(node.target, torch._ops.OpOverload):
        return Role.MIXES
    if torch.Tag.pointwise in node.target.tags or name in ("aten.clone.default", "aten._to_copy.default"):
        return Role.ALIKE if example.ndim else Role.MIXES
    if name == "aten.cat.default":
        return Role.JOINS if _argument(node, 1, 0) % rank == 0 else Role.ALIKE
    if name in ("aten.constant_pad_nd.default", "aten.pad.default"):
        amounts: Any = node.args[1]
        leading = len(amounts) == 2 * rank and any(amounts[-2:])
        constant = len(node.args) < 3 or node.args[2] == "constant" or not isinstance(node.args[2], str)
        return Role.FIRST if not leading else Role.PADS if constant else Role.MIXES
    if name == "aten.expand.default":
        grows = example.shape[0] != first.shape[0] or example.ndim != rank
        return Role.FIRST if not grows else Role.REPEATS if example.shape[1:] == first.shape[1:] else Role.MIXES
    return _plain_role(node, name, rank)


def _plain_role(node: Node, name: str, rank: int) -> Role:
    if name in BATCHED:
        return Role.FIRST if rank == 4 else Role.MIXES
    if name in RESIZED:
        return Role.FIRST
    if name == "aten.permute.default":
        order: Any = node.args[1]
        return Role.FIRST if order[0] == 0 else Role.MIXES
    if name == "aten.linear.default":
        return Role.FIRST if rank > 1 else Role.MIXES
    if name in PRODUCTS:
        return Role.ALIKE if rank >= 3 else Role.MIXES
    if name in ALONG:
        place = 2 if name.startswith("aten.split") or name.startswith("aten.linalg") else 1
        default = 0 if name.startswith(("aten.slice", "aten.split")) else None
        dims = _argument(node, place, default)
        named = [dims] if isinstance(dims, int) else list(dims or range(rank))
        if 0 not in {dim % rank for dim in named}:
            return Role.FIRST
        return Role.SELECTS if name == "aten.slice.Tensor" else Role.MIXES
    return Role.MIXES


def sized(node: Node) -> bool:
    """Whether the operator's second argument is the shape of its result."""
    return str(node.target) in RESIZED or str(node.target) == "aten.expand.default"


def _argument(node: Node, place: int, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get("dim", default)
