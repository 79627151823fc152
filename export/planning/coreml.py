"""Core ML: what coremltools does not know, and which operators of the ML program may leave the Neural Engine.

Apple decides where a program runs, on the device, and publishes no list: placement is planned by the rules of
`coreml_rules.yaml`, each with its source.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO

import coremltools
import numpy as np
from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY
from coremltools.converters.mil.frontend.torch.utils import sanitize_op_kind
from coremltools.converters.mil.mil import Operation, Program
from coremltools.converters.mil.mil.scope import ScopeSource
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Node

from export.coreml import HALF
from export.coreml_write import pass_pipeline, precision_of
from export.lowering.packed import MAX_RANK
from export.planning.registry import Outside, Plan, Stopped, once, plans
from export.planning.rules import REFUSED, Rule, load_rules
from export.planning.trial import refused_alone

REMEDY = "Replace it by operators that Core ML has, compute it outside of the model, or leave this target out"
NEURAL_ENGINE = "Neural Engine"
#: Calls of a graph, above which converting it to look at placement takes minutes.
MOST_OPERATORS = 5000


@plans("coreml")
@once
def plan(program: ExportedProgram) -> Plan:
    """Look every operator up as coremltools does, try those that it knows, and apply the rules to the ML program."""
    read = program.run_decompositions({}).graph.nodes  # what the exporter gives coremltools
    nodes = [node for node in read if node.op == "call_function" and not _known(node)]
    refused = [Stopped(node, f"coremltools does not know {node.target}", REMEDY) for node in nodes]
    refused += refused_alone(program, "coreml-fp16", refused, REMEDY)
    if refused:
        return Plan(refused)
    return placement(program)


@plans("coreml-fp32")
def plan_fp32(program: ExportedProgram) -> Plan:
    """As `plan`: but a program that computes in fp32 has no part on the Neural Engine."""
    found = plan(program)
    if found.refused:
        return found
    return replace(found, outside=[], accelerator=None, share=None, note="computes in fp32: GPU or CPU, planned")


@once
def placement(program: ExportedProgram) -> Plan:
    """What the rules say of the whole program in fp16, as coremltools converts it. Raises what coremltools raises."""
    count = sum(node.op == "call_function" for node in program.graph.nodes)
    if count > MOST_OPERATORS:
        return Plan(note=f"placement not planned: {count} operators take minutes to convert")
    converted, nodes = ml_program(program)
    rules = load_rules()
    refused: list[Stopped] = []
    outside: list[Outside] = []
    older: dict[str, int] = {}
    operations = [op for function in converted.functions.values() for op in function.operations if _computes(op)]
    for operation in operations:
        node = _made_for(operation, nodes)
        if any(len(output.shape) > MAX_RANK for output in operation.outputs):
            refused.append(Stopped(node, f"its conversion leaves a tensor of rank above {MAX_RANK}", REMEDY))
            continue
        rule = rules.first(operation)
        if rule is None:
            continue
        if rule.to == REFUSED:
            refused.append(Stopped(node, rule.said(), REMEDY))
        elif rule.reaches(rules.baseline):
            outside.append(_off(operation, node, rule))
        else:
            older[f"{operation.op_type} up to {rule.up_to}"] = (
                older.get(f"{operation.op_type} up to {rule.up_to}", 0) + 1
            )
    certain = sum(row.certain for row in outside)
    share = 1 - certain / len(operations) if operations else None
    note = ", ".join(f"{name} x{times}" for name, times in older.items())
    return Plan(refused, outside, NEURAL_ENGINE, share=share, note=f"older chips also: {note}" if note else "")


def ml_program(program: ExportedProgram) -> tuple[Program, dict[str, Node]]:
    """The ML program of a graph in fp16, which is not saved; and the graph's nodes, whose names its scopes carry."""
    logging.getLogger("coremltools").setLevel(logging.CRITICAL)  # its error says what it logs
    read = program.run_decompositions({})
    nodes = {node.name: node for node in read.graph.nodes}
    count = len(read.graph_signature.user_outputs)
    for node in read.graph.nodes:
        node.meta["stack_trace"] = node.name  # coremltools carries this along, through all of its passes
    with warnings.catch_warnings(), redirect_stderr(StringIO()):  # it draws its own progress bars
        warnings.simplefilter("ignore")
        converted = coremltools.convert(
            read,
            convert_to="milinternal",
            outputs=[coremltools.TensorType(name=f"output_{n}", dtype=np.float32) for n in range(count)],
            compute_precision=precision_of(HALF),
            minimum_deployment_target=coremltools.target.iOS17,
            pass_pipeline=pass_pipeline(HALF),
        )
    assert isinstance(converted, Program)
    return converted, nodes


def _computes(operation: Operation) -> bool:
    return operation.op_type != "const" and not operation.op_type.startswith("constexpr_")


def _made_for(operation: Operation, nodes: dict[str, Node]) -> Node:
    """The node of the graph that an operator was made for; of one that a pass invented, the graph's last."""
    names = operation.scopes.get(ScopeSource.EXIR_STACK_TRACE, []) if operation.scopes else []
    known = [nodes[name] for name in names if name in nodes]
    return known[-1] if known else next(reversed(nodes.values()))


def _off(operation: Operation, node: Node, rule: Rule) -> Outside:
    reason = f"{rule.said()} [{rule.id}]"
    return Outside(node, operation.op_type, rule.to, reason, certain=rule.confidence != "low")


def _known(node: Node) -> bool:
    name = node.target.name() if isinstance(node.target, OpOverload) else getattr(node.target, "__name__", "")
    return sanitize_op_kind(name) in _TORCH_OPS_REGISTRY.name_to_func_mapping
