"""Delegates of one precision, fp16, that leave alone what fp16 would damage: where a `grid_sample` looks.

The sampling and the coordinates it takes (`export.graphs.coordinates`) stay in ExecuTorch's own fp32 kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from executorch.exir.backend.partitioner import Partitioner, PartitionResult
from executorch.exir.backend.utils import tag_constant_data
from torch import fx
from torch.export import ExportedProgram
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase

from export.graphs import coordinates

TAG = "delegation_tag"


class Sparing(Partitioner):  # type: ignore[misc]
    """A delegate's own partitioner, without the coordinates of samplings."""

    def __init__(self, inner: Partitioner) -> None:
        super().__init__()
        self.inner = inner

    def ops_to_not_decompose(
        self, ep: ExportedProgram
    ) -> tuple[list[torch._ops.OpOverload], Callable[[fx.Node], bool] | None]:
        """The operators that the inner partitioner wants whole: outside of its delegates, nothing keeps them so."""
        operators, wants = self.inner.ops_to_not_decompose(ep)
        if not coordinates(ep.graph.nodes):
            return operators, wants
        return operators, lambda node: node not in coordinates(node.graph.nodes) and (wants is None or wants(node))

    def partition(self, exported_program: ExportedProgram) -> PartitionResult:
        """The inner partitioner's parts, cut anew without what is spared, so that none depends on itself."""
        found = self.inner.partition(exported_program)
        graph = exported_program.graph
        left_out = coordinates(graph.nodes)
        if not left_out or not found.partition_tags:
            return found
        spec = next(iter(found.partition_tags.values()))  # they are all alike
        taken = {node for node in graph.nodes if node.meta.pop(TAG, None) is not None and node.op == "call_function"}
        parts = CapabilityBasedPartitioner(
            exported_program.graph_module, _Among(taken - left_out), allows_single_node_partition=True
        ).propose_partitions()
        tags = {}
        for part in parts:
            tag = f"tag{part.id}"
            tags[tag] = spec
            for node in part.nodes:
                node.meta[TAG] = tag
        tag_constant_data(exported_program)
        return PartitionResult(tagged_exported_program=exported_program, partition_tags=tags)


class _Among(OperatorSupportBase):  # type: ignore[misc]
    """Supports the operators that it is given, and no others."""

    def __init__(self, nodes: set[fx.Node]) -> None:
        self.nodes = nodes

    def is_node_supported(self, submodules: Mapping[str, torch.nn.Module], node: fx.Node) -> bool:
        return node in self.nodes
