"""What several targets look for in an fx graph, whether its operators are torch's or ExecuTorch's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import fx

NAMESPACES = ("aten::", "dim_order_ops::", "quantized_decomposed::", "et_vk::")
SAMPLERS = ("grid_sampler", "grid_sampler_2d")
#: Convolutions and products: what comes after them is computed anew.
HEAVY = (
    *("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    *("linear", "matmul", "mm", "bmm", "addmm", "baddbmm"),
)


def operator_name(target: Any) -> str:
    """An operator's name, torch's or ExecuTorch's, without namespace and overload."""
    found = str(getattr(target, "_name", None) or getattr(target, "__name__", str(target)))
    for namespace in NAMESPACES:
        found = found.removeprefix(namespace)
    return found.split(".")[0]


def coordinates(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """Every `grid_sample`, and what computes where it looks since the last convolution or product.

    An error there moves picture content: in fp16, a coordinate in [-1, 1] of an image 1024 wide comes in steps of up
    to a quarter of a pixel; in 8 bits, flows of ±20 pixels come in steps of 0.16.
    """
    samplers = [node for node in nodes if operator_name(node.target) in SAMPLERS]
    found = set(samplers)
    waiting: list[Any] = [node.args[1] for node in samplers]
    while waiting:
        node = waiting.pop()
        if isinstance(node, fx.Node) and node not in found and _is_light(node):
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _is_light(node: fx.Node) -> bool:
    return node.op == "call_function" and operator_name(node.target) not in HEAVY
