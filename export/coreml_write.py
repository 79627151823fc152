"""Core ML: a lowered program written as an `.mlpackage` by coremltools, and what stands in it."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import coremltools
import numpy as np
import torch
from coremltools.converters.mil.mil import Operation, Var
from coremltools.converters.mil.mil.scope import ScopeSource
from torch import fx, nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.traceback import annotate, preserve_node_meta

from export import mil_reference
from export.coreml_compress import Compression, add_compression
from export.targets import Written

#: MIL operators with weights: what `Conversion.wide` may name.
WEIGHTED = ("conv", "conv_transpose", "linear", "matmul", "einsum")
#: In the metadata that torch hands on from graph to graph: this node keeps the higher precision.
_WIDE = "handheld_wide"
#: The same in coremltools' programs, as what it calls the debug handle of a node, a number.
_WIDE_HANDLE = 1
#: What coremltools folds into the convolution or product before it, if their other operands are weights.
_FOLDED = ("add", "sub", "mul", "div", "batch_norm", "_native_batch_norm_legit_no_training", "getitem")


@dataclass(frozen=True)
class Form:
    """How a package is written: for which system and later ones, computing in fp16 or fp32, its weights compressed."""

    deployment: coremltools.target
    precision: coremltools.precision = coremltools.precision.FLOAT16
    compression: Compression | None = None


@contextmanager
def marked(program: ExportedProgram, wide: Collection[str]) -> Iterator[None]:
    """Within the block the nodes `wide` of `program` are marked.

    Graphs that are made of the program in the block have the marks too.
    """
    nodes = [node for node in program.graph.nodes if node.name in wide]
    before = [node.meta.get("custom") for node in nodes]
    for node, custom in zip(nodes, before, strict=True):
        node.meta["custom"] = {**(custom or {}), _WIDE: True}
    try:
        with preserve_node_meta():
            yield
    finally:
        for node, custom in zip(nodes, before, strict=True):
            node.meta.pop("custom")
            if custom is not None:
                node.meta["custom"] = custom


def _folded(node: Node, weights: Collection[str]) -> Iterator[Node]:
    """What follows `node` and may become one operator with it."""
    while len(node.users) == 1:
        (user,) = node.users
        name = str(getattr(user.target, "__name__", user.target)).split(".")[0]
        others = [used for used in user.all_input_nodes if used is not node]
        if name not in _FOLDED or any(other.name not in weights for other in others):
            return
        yield user
        node = user


class Replay(nn.Module):
    """A program as a module; a graph traced through it within `marked` has its marks."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self.module = program.module()

    def forward(self, *inputs: torch.Tensor) -> Any:
        """As the program gives its outputs."""
        return _Marking(self.module).run(*inputs)


class _Marking(fx.Interpreter):
    def run_node(self, n: Node) -> Any:
        if n.op == "call_module" and n.target == "_guards_fn":  # looks at the inputs' sizes, which tracing has fixed
            return None
        if not (n.meta.get("custom") or {}).get(_WIDE):
            return super().run_node(n)
        with annotate({_WIDE: True}):
            return super().run_node(n)


def is_wide(operation: Operation) -> bool:
    """Whether an operator, in the course of a conversion, was made for a node that is marked."""
    return operation.op_type in WEIGHTED and operation.scopes.get(ScopeSource.EXIR_DEBUG_HANDLE) == [_WIDE_HANDLE]


def tensor_inputs(program: ExportedProgram, names: Sequence[str]) -> list[coremltools.TensorType]:
    """The program's inputs as Core ML's, by their names."""
    inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
    shapes = [tuple(node.meta["val"].shape) for node in inputs if node.name in program.graph_signature.user_inputs]
    return [coremltools.TensorType(name=name, shape=shape) for name, shape in zip(names, shapes, strict=False)]


def tensor_outputs(names: Sequence[str]) -> list[coremltools.TensorType]:
    """Outputs in fp32."""
    return [coremltools.TensorType(name=name, dtype=np.float32) for name in names]


def write(
    program: ExportedProgram,
    path: Path,
    form: Form,
    inputs: Sequence[coremltools.TensorType | coremltools.ImageType],
    outputs: Sequence[coremltools.TensorType | coremltools.ImageType],
    **options: Any,
) -> Written:
    """Write `path`. Call it within `marked`, if nodes of the program keep the higher precision.

    In fp16 their operators compute in fp32; where weights are compressed, theirs are not, and they compute in fp16.
    """
    decomposed = program.run_decompositions({})
    signature = decomposed.graph_signature
    weights = {
        *signature.inputs_to_parameters,
        *signature.inputs_to_buffers,
        *signature.inputs_to_lifted_tensor_constants,
    }
    for node in decomposed.graph.nodes:
        node.meta["debug_handle"] = None
    for node in decomposed.graph.nodes:
        if (node.meta.get("custom") or {}).get(_WIDE):
            for part in (node, *_folded(node, weights)):
                part.meta["debug_handle"] = _WIDE_HANDLE
    with progress_hidden():
        model = coremltools.convert(
            decomposed,
            inputs=list(inputs),
            outputs=list(outputs),
            compute_precision=precision_of(form),
            minimum_deployment_target=form.deployment,
            skip_model_load=True,
            pass_pipeline=pass_pipeline(form),
            **options,
        )
        shutil.rmtree(path, ignore_errors=True)
        model.save(str(path))
        shutil.rmtree(model.package_path, ignore_errors=True)  # its own copy, which it would keep until Python ends
    return read(path)


@contextmanager
def progress_hidden() -> Iterator[None]:
    """coremltools warns, and draws progress bars of its own; not within the block."""
    logging.getLogger("coremltools").setLevel(logging.CRITICAL)  # its errors say what it logs
    with warnings.catch_warnings(), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        yield


def precision_of(form: Form) -> Any:
    """What computes in which precision, as coremltools wants it said."""
    if form.precision is coremltools.precision.FLOAT32:
        return form.precision
    keeps = [_places_samples] if form.compression is not None else [_places_samples, is_wide]
    return coremltools.transform.FP16ComputePrecision(op_selector=lambda op: not any(keep(op) for keep in keeps))


def _places_samples(operation: Operation) -> bool:
    """Whether an operator resamples, or computes the coordinates for it since the last convolution or product.

    In fp16 a coordinate is a whole pixel's part off, which costs optical flow some 20 dB; all else is worth less.
    """
    if operation.op_type == "resample":
        return True
    if operation.op_type in WEIGHTED:
        return False
    found, pending = set(), list(operation.outputs)
    while pending:
        value = pending.pop()
        for user in value.child_ops:
            if user.op_type == "resample" and user.coordinates is value:
                return True
            if user not in found and user.op_type not in (*WEIGHTED, "resample"):
                found.add(user)
                pending += user.outputs
    return False


def pass_pipeline(form: Form) -> coremltools.PassPipeline:
    """coremltools' own passes, without those in which its version 9.0 fails, and with the compression of weights."""
    passes = coremltools.PassPipeline.DEFAULT
    # a linear of one output and a number added to it: "tuple index out of range"
    passes.remove_passes({"common::fuse_linear_bias"})
    # loses its place when it moves the updates of several states
    passes.remove_passes({"common::canonicalize_inplace_pattern", "common::prefer_state_in_downstream"})
    if form.compression is not None:
        add_compression(passes, form.compression, is_wide)
    return passes


def read(path: Path) -> Written:
    """Operator counts of the package's main function as it was saved, and the highest rank in all of its functions."""
    program = mil_reference.load(path)
    operators = [op for op in mil_reference.main_function(program).operations if op.op_type != "const"]
    computed = [value for function in program.functions.values() for op in function.operations for value in op.outputs]
    ranks = [value.rank for value in computed if value.rank is not None and not _is_packed(value)]
    return Written(max_rank=max(ranks), operators=dict(Counter(op.op_type for op in operators).most_common()))


def _is_packed(value: Var) -> bool:
    """Whether a constant is no tensor of the network, but what a compressed weight is unpacked from."""
    users = value.child_ops
    return value.op.op_type == "const" and bool(users) and all(u.op_type.startswith("constexpr_") for u in users)
