"""ExecuTorch: the delegate's own partitioner is run, and what it leaves is held against the runtime's kernels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from typing import Any

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import EdgeCompileConfig, EdgeProgramManager, to_edge_transform_and_lower
from executorch.exir.backend.partitioner import Partitioner
from executorch.exir.verification.verifier import EXIRATenDialectVerifier
from executorch.runtime import Runtime
from torch._export.verifier import SpecViolationError
from torch._ops import OpOverload
from torch.export import ExportedProgram

from export.executorch import read, shuffle_pixels
from export.executorch_coreml import COREML
from export.executorch_vulkan import VULKAN, frame_by_frame
from export.planning.coreml import NEURAL_ENGINE, placement
from export.planning.registry import Outside, Plan, Stopped, origin, plans
from export.planning.trial import refused_alone
from toolkit.quiet import native_stderr_hidden

REMEDY = "Replace it by operators of torch's core set, compute it outside of the model, or leave this target out"
CONVOLUTION_REMEDY = "Change the convolution to one that the delegate takes, or leave this target out"
NO_DELEGATE = "is left outside the delegate"


@plans("executorch-xnnpack")
def plan_xnnpack(program: ExportedProgram) -> Plan:
    """Partition the program as the exporter does; raises what the partitioner raises.

    A convolution outside of a delegate is refused, and so is an operator that ExecuTorch has no kernel for.
    """
    ready = program.run_decompositions({torch.ops.aten.pixel_shuffle.default: shuffle_pixels})
    return replace(_plan(program, ready, [XnnpackPartitioner()], "XNNPACK"), accelerator="XNNPACK")


@plans("executorch-vulkan")
def plan_vulkan(program: ExportedProgram) -> Plan:
    """Partition the program for Vulkan, whose convolutions take batch 1 only: frames are tensors of their own."""
    ready = frame_by_frame(program).run_decompositions({})
    found = _plan(program, ready, [VULKAN.partitioner()], "Vulkan")
    return replace(found, accelerator="Vulkan GPU")


@plans("executorch-coreml")
def plan_coreml(program: ExportedProgram) -> Plan:
    """Partition the program for Core ML, and plan by rules where Core ML places what it gets."""
    found = _plan(program, program.run_decompositions({}), [COREML.partitioner()], "Core ML")
    if found.refused or found.outside:
        return replace(found, accelerator="Core ML", note="placement inside Core ML not planned: it gets parts only")
    placed = placement(program)
    return replace(placed, accelerator=NEURAL_ENGINE, delegates=found.delegates)


@plans("executorch")
def plan_portable(program: ExportedProgram) -> Plan:
    """The program without a delegate: all of it runs on the CPU."""
    found = _plan(program, program.run_decompositions({}), [])
    return replace(found, outside=[], delegates=None, share=None)


def _plan(
    program: ExportedProgram,
    ready: ExportedProgram,
    partitioners: Sequence[Partitioner],
    delegate: str = "",
) -> Plan:
    error = None
    try:
        edge = _partitioned(ready, partitioners, check=True)
    except SpecViolationError as found:  # it names one operator only
        error, edge = found, _partitioned(ready, partitioners, check=False)
    kernels = _kernels()
    refused, outside = [], []
    for node in edge.exported_program().graph.nodes:
        operator = getattr(node.target, "_op", None)  # no operator: calls of a delegate, and arithmetic on sizes
        if node.op == "call_function" and isinstance(operator, OpOverload):
            outside.append(Outside(node, operator.name().split("::")[-1].split(".")[0], "CPU", NO_DELEGATE))
            why = _objection(operator, node.target, kernels, delegate)
            if why:
                refused.append(Stopped(node, why, CONVOLUTION_REMEDY if "convolution" in operator.name() else REMEDY))
    left = None if error is not None else {origin(row.node) for row in outside}
    refused += refused_alone(program, "executorch-xnnpack-fp32", refused, REMEDY, only=left)
    if error is not None and not refused:
        raise error
    written = read(edge)
    return Plan(refused, outside, delegates=written.delegates, share=written.delegated_share)


def _partitioned(ready: ExportedProgram, partitioners: Sequence[Partitioner], check: bool) -> EdgeProgramManager:
    with warnings.catch_warnings(), redirect_stderr(StringIO()):  # coremltools draws progress bars
        warnings.simplefilter("ignore")
        config = EdgeCompileConfig(_check_ir_validity=check)
        return to_edge_transform_and_lower(ready, partitioner=list(partitioners), compile_config=config)


def _kernels() -> set[str]:
    with native_stderr_hidden():
        return set(Runtime.get().operator_registry.operator_names)


def _objection(operator: OpOverload, edge_operator: Any, kernels: set[str], delegate: str) -> str | None:
    """Why an operator outside the delegate is refused; without a `delegate` everything is outside."""
    if delegate and "convolution" in operator.name():
        return f"stays outside the {delegate} delegate, where a convolution is slow"
    try:
        EXIRATenDialectVerifier().check_valid_op(operator)
    except SpecViolationError:
        return f"ExecuTorch takes torch's core operators, and {operator} is none"
    try:
        kernel = str(edge_operator.to_out_variant().name())
    except RuntimeError:
        kernel = ""
    return None if kernel in kernels else f"ExecuTorch's runtime has no kernel for {operator}"
