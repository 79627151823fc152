"""ONNX: which operators torch's exporter has no ONNX function for, once it has decomposed what it can."""

from __future__ import annotations

import warnings

from torch.export import ExportedProgram
from torch.onnx._internal.exporter import _core, _dispatching, _registration

from export.onnx import OPSET, convert
from export.planning.registry import Plan, Stopped, plans
from export.planning.trial import refused_alone

REMEDY = "Replace it by operators that ONNX has, compute it outside of the model, or leave this target out"


@plans("ort")
@plans("onnx")
def plan(program: ExportedProgram) -> Plan:
    """Look every operator up as the exporter does, then try those that it knows."""
    registry = _registration.ONNXRegistry.from_torchlib(OPSET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decomposed = _core._prepare_exported_program_for_export(program, registry=registry)
    refused = []
    for node in decomposed.graph.nodes:
        if node.op == "call_function" and _dispatching.dispatch(node, registry)[0] is None:
            refused.append(Stopped(node, f"torch's ONNX exporter has no function for {node.target}", REMEDY))
    return Plan(refused + refused_alone(program, convert, refused, REMEDY))
