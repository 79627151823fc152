"""Core ML: which operators coremltools' reader of torch programs does not know."""

from __future__ import annotations

from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY
from coremltools.converters.mil.frontend.torch.utils import sanitize_op_kind
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Node

from export.coreml import convert
from export.planning.registry import Plan, Stopped, plans
from export.planning.trial import refused_alone

REMEDY = "Replace it by operators that Core ML has, compute it outside of the model, or leave this target out"


@plans("coreml")
def plan(program: ExportedProgram) -> Plan:
    """Look every operator up as coremltools does, then try those that it knows. Placement is Apple's to decide."""
    read = program.run_decompositions({}).graph.nodes  # what the exporter gives coremltools
    nodes = [node for node in read if node.op == "call_function" and not _known(node)]
    refused = [Stopped(node, f"coremltools does not know {node.target}", REMEDY) for node in nodes]
    return Plan(refused + refused_alone(program, convert, refused, REMEDY))


def _known(node: Node) -> bool:
    name = node.target.name() if isinstance(node.target, OpOverload) else getattr(node.target, "__name__", "")
    return sanitize_op_kind(name) in _TORCH_OPS_REGISTRY.name_to_func_mapping
