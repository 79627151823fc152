"""Evaluate the graph of a Vulkan delegate as it stands in a `.pte`: its operators in order, on its own constants.

Every operator is computed in fp32 by torch's kernel of the same name and its result rounded to the type that the graph
gives it. How the shaders add up, and which layouts they take, is not modelled.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from executorch.exir.dialects.edge._ops import EdgeOpOverload

from export.executorch_reference import Tensors
from toolkit.errors import CheckFailed
from toolkit.quiet import root_level_kept

with root_level_kept():  # the package sets it to INFO, for all of Python
    import executorch.backends.vulkan.custom_ops_lib  # noqa: F401  (torch kernels of its own operators)
    from executorch.backends.vulkan.op_registry import vulkan_supported_ops
    from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner as VulkanPartitioner
    from executorch.backends.vulkan.patterns import fusable_patterns
    from executorch.backends.vulkan.serialization import vulkan_graph_schema as vk
    from executorch.backends.vulkan.serialization.vulkan_graph_serialize import (
        VulkanDelegateHeader,
        flatbuffer_to_vk_graph,
    )

# ExecuTorch builds the graphs that it looks for anew in each partition and each conversion, which takes seconds: it
# registers the functions without the cache that it puts around them.
for _pattern in fusable_patterns.values():
    if _pattern.get_graphs_fn is not None:
        _pattern.get_graphs_fn = functools.cache(_pattern.get_graphs_fn)

DTYPES = {
    vk.VkDataType.BOOL: torch.bool,
    vk.VkDataType.UINT8: torch.uint8,
    vk.VkDataType.INT8: torch.int8,
    vk.VkDataType.INT32: torch.int32,
    vk.VkDataType.INT64: torch.int64,
    vk.VkDataType.FLOAT16: torch.float16,
    vk.VkDataType.FLOAT32: torch.float32,
}
#: Of each namespace the operators that are evaluated. A graph may name any operator of torch, and some of those write
#: files: of ATen only those are taken that the back end has; the others are ExecuTorch's own, which compute.
OF_ATEN = {str(operator.name()) for operator in vulkan_supported_ops if isinstance(operator, EdgeOpOverload)}
NAMESPACES = ("aten", "et_vk", "dim_order_ops")
LARGEST = torch.finfo(torch.float32).max


def open_graph(payload: bytes, named: Mapping[str, bytes]) -> Callable[[Tensors], list[torch.Tensor]]:
    """The function that a delegate's payload describes; `named` holds the weights that it names."""
    return Graph(*read_graph(payload, named))


def read_graph(payload: bytes, named: Mapping[str, bytes]) -> tuple[vk.VkGraph, list[bytes]]:
    """The graph in a delegate's payload, and the bytes of its constants."""
    header = VulkanDelegateHeader.from_bytes(payload[: VulkanDelegateHeader.EXPECTED_LENGTH])
    start = header.flatbuffer_offset
    graph = flatbuffer_to_vk_graph(payload[start : start + header.flatbuffer_size])
    raw = payload[header.bytes_offset : header.bytes_offset + header.bytes_size]
    contents = [
        named[constant.named_key] if constant.named_key else raw[constant.offset : constant.offset + constant.length]
        for constant in graph.constants
    ]
    return graph, contents


class Graph:
    """A delegate's graph. Raises `CheckFailed` on an operator that torch has no kernel for, or of another shape."""

    def __init__(self, graph: vk.VkGraph, constants: list[bytes]) -> None:
        self._graph, self._constants = graph, constants
        self._calls = [(call, _kernel(call.name)) for call in graph.chain]

    def __call__(self, tensors: Tensors) -> list[torch.Tensor]:
        values: dict[int, Any] = {}
        for place, tensor in zip(self._graph.input_ids, tensors, strict=False):
            values[place] = _rounded(tensor, self._graph.values[place].value)
        for call, kernel in self._calls:
            *given, result = call.args
            arguments = [_wide(self._value(place, values)) for place in given]
            self._keep(call.name, result, _call(kernel, arguments), values)
        return [values[place] for place in self._graph.output_ids]

    def _keep(self, name: str, place: int, result: Any, values: dict[int, Any]) -> None:
        described = self._graph.values[place].value
        if isinstance(described, vk.ValueList):
            for inner, item in zip(described.items, result, strict=True):
                self._keep(name, inner, item, values)
            return
        if tuple(result.shape) != tuple(described.dims):
            raise CheckFailed(f"Vulkan graph: {name} gave {tuple(result.shape)}, not {tuple(described.dims)}")
        values[place] = _rounded(result, described)

    def _value(self, place: int, values: dict[int, Any]) -> Any:
        if place in values:
            return values[place]
        found = self._graph.values[place].value
        if isinstance(found, vk.VkTensor):
            if found.constant_id < 0:
                raise CheckFailed("Vulkan graph: an operator takes a tensor that nothing computes")
            content = bytearray(self._constants[found.constant_id])
            values[place] = torch.frombuffer(content, dtype=DTYPES[found.datatype]).reshape(tuple(found.dims))
            return values[place]
        if isinstance(found, vk.ValueList):
            return [self._value(inner, values) for inner in found.items]
        if isinstance(found, vk.Null):
            return None
        (content,) = vars(found).values()  # numbers, strings and lists of numbers
        return content


def _kernel(name: str) -> Any:
    bare = name
    for namespace in NAMESPACES:
        bare = bare.removeprefix(f"{namespace}.")
    packet, _, overload = bare.partition(".")
    for namespace in NAMESPACES:
        found = getattr(getattr(getattr(torch.ops, namespace), packet, None), overload or "default", None)
        if isinstance(found, torch._ops.OpOverload) and _is_plain(found):
            return found
    raise CheckFailed(f"Vulkan graph: operator '{name[:80]}' is not known, so parity cannot be shown; it was not run")


def _is_plain(kernel: torch._ops.OpOverload) -> bool:
    """Whether a kernel does nothing but compute."""
    return not kernel._schema.is_mutable and (kernel.namespace != "aten" or kernel.name() in OF_ATEN)


def _call(kernel: Any, arguments: list[Any]) -> Any:
    positional, keywords = [], {}
    for argument, value in zip(kernel._schema.arguments, arguments, strict=True):
        if isinstance(value, float) and value.is_integer() and "int" in str(argument.type):
            value = int(value)  # the graph keeps equal numbers once, as whichever came first
        if argument.kwarg_only:
            keywords[argument.name] = value
        else:
            positional.append(value)
    return kernel(*positional, **keywords)


def _wide(value: Any) -> Any:
    if isinstance(value, list):
        return [_wide(item) for item in value]
    if isinstance(value, float) and abs(value) > LARGEST:  # a bound that is none, written as the largest double
        return math.copysign(math.inf, value)
    is_half = isinstance(value, torch.Tensor) and value.dtype == torch.float16
    return value.float() if is_half else value


def _rounded(tensor: torch.Tensor, described: Any) -> torch.Tensor:
    return tensor.to(DTYPES[described.datatype])
