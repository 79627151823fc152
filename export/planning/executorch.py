"""ExecuTorch with XNNPACK: the partitioner is run, and what it leaves is held against the runtime's kernels."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import EdgeCompileConfig, EdgeProgramManager, to_edge_transform_and_lower
from executorch.exir.verification.verifier import EXIRATenDialectVerifier
from executorch.runtime import Runtime
from torch._export.verifier import SpecViolationError
from torch.export import ExportedProgram

from export.executorch import convert, read, shuffle_pixels
from export.planning.registry import Outside, Plan, Stopped, plans
from export.planning.trial import refused_alone
from toolkit.quiet import native_stderr_hidden

REMEDY = "Replace it by operators of torch's core set, compute it outside of the model, or leave this target out"
CONVOLUTION_REMEDY = "Change the convolution to one that XNNPACK takes, or leave this target out"


@plans("executorch-xnnpack")
def plan(program: ExportedProgram) -> Plan:
    """Partition the program as the exporter does; raises what the partitioner raises.

    A convolution outside the delegate is refused, and so is an operator that ExecuTorch has no kernel for.
    """
    error = None
    try:
        edge = _partitioned(program, check=True)
    except SpecViolationError as found:  # it names one operator only
        error, edge = found, _partitioned(program, check=False)
    kernels = _kernels()
    refused, outside = [], []
    for node in edge.exported_program().graph.nodes:
        operator = getattr(node.target, "_op", None)  # None for calls of a delegate
        if node.op == "call_function" and operator is not None:
            outside.append(Outside(node, operator.name().split("::")[-1].split(".")[0]))
            why = _objection(operator, node.target, kernels)
            if why:
                refused.append(Stopped(node, why, CONVOLUTION_REMEDY if "convolution" in operator.name() else REMEDY))
    if error is not None:
        refused += refused_alone(program, convert, refused, REMEDY)
        if not refused:
            raise error
    written = read(edge)
    return Plan(refused, outside, written.delegates, written.delegated_share)


def _partitioned(program: ExportedProgram, check: bool) -> EdgeProgramManager:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ready = program.run_decompositions({torch.ops.aten.pixel_shuffle.default: shuffle_pixels})
        config = EdgeCompileConfig(_check_ir_validity=check)
        return to_edge_transform_and_lower(ready, partitioner=[XnnpackPartitioner()], compile_config=config)


def _kernels() -> set[str]:
    with native_stderr_hidden():
        return set(Runtime.get().operator_registry.operator_names)


def _objection(operator: torch._ops.OpOverload, edge_operator: Any, kernels: set[str]) -> str | None:
    """Why an operator outside the delegate is refused."""
    if "convolution" in operator.name():
        return "stays outside the XNNPACK delegate, where a convolution is slow"
    try:
        EXIRATenDialectVerifier().check_valid_op(operator)
    except SpecViolationError:
        return f"ExecuTorch takes torch's core operators, and {operator} is none"
    try:
        kernel = str(edge_operator.to_out_variant().name())
    except RuntimeError:
        kernel = ""
    return None if kernel in kernels else f"ExecuTorch's runtime has no kernel for {operator}"
