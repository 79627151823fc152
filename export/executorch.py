"""ExecuTorch: lowered to a delegate; with XNNPACK, run in the ExecuTorch runtime of this host.

One file holds a method `forward`, and one more for every further size; they share the weights that are alike.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import EdgeCompileConfig, EdgeProgramManager, to_edge_transform_and_lower
from executorch.exir.backend.utils import get_delegates
from executorch.runtime import Runtime, Verification
from torch.export import ExportedProgram

from export.graphs import operator_name
from export.lowering.nested import tensors_in
from export.targets import FP32, Conversion, Session, Target, Written, add_target
from toolkit.errors import CheckFailed, unknown_name
from toolkit.quiet import native_stderr_hidden

FORWARD = "forward"
NOT_OPERATORS = ("executorch_call_delegate", "getitem")


@dataclass(frozen=True)
class Delegate:
    """A back end that takes over parts of a program; `prepare` says a program as it likes it."""

    name: str
    label: str
    partitioner: Callable[[], Any]
    prepare: Callable[[ExportedProgram], ExportedProgram]


def convert(conversion: Conversion, path: Path) -> Written:
    """Write `path` as a `.pte` whose convolutions all sit in XNNPACK delegates; raises `CheckFailed` otherwise."""
    return write(methods(conversion), path, XNNPACK)


def methods(conversion: Conversion) -> dict[str, ExportedProgram]:
    """Every program of a conversion by the name of its method."""
    return {FORWARD: conversion.program, **conversion.sizes}


def write(programs: Mapping[str, ExportedProgram], path: Path, delegate: Delegate) -> Written:
    """Write one file with a method a program; raises `CheckFailed` where a convolution stays outside the delegate."""
    edge = partition(programs, delegate)
    written = read(edge, delegate.name)
    stray = [name for name in written.operators if name.startswith("cpu:") and "convolution" in name]
    if stray:
        raise CheckFailed(
            f"ExecuTorch: {', '.join(stray)} stayed outside the {delegate.label} delegate and would be slow"
        )
    path.write_bytes(bytes(edge.to_executorch().buffer))
    return written


def partition(programs: Mapping[str, ExportedProgram], delegate: Delegate, check: bool = True) -> EdgeProgramManager:
    """The programs as edge programs, with what the delegate takes inside it.

    With `check`, an operator that ExecuTorch does not take raises; without, it is left standing.
    """
    with warnings.catch_warnings(), native_stderr_hidden():
        warnings.simplefilter("ignore")
        prepared = {name: delegate.prepare(program) for name, program in programs.items()}
        for program in prepared.values():
            forget_origins(program.graph)
        partitioners = {name: [delegate.partitioner()] for name in prepared}
        config = EdgeCompileConfig(_check_ir_validity=check)
        return to_edge_transform_and_lower(prepared, partitioner=partitioners, compile_config=config)


def read(edge: EdgeProgramManager, delegate: str = "xnnpack") -> Written:
    """Operator counts (`xnnpack:NAME` delegated, `cpu:NAME` not), the delegated share, the highest rank anywhere.

    Counts are those of the method `forward`; the rank is that of all methods.
    """
    ranks = [0]
    for name in edge.methods:
        outer, inner = _graphs(edge, name)
        ranks += [t.ndim for graph in (outer, *inner) for node in graph.nodes for t in tensors_in(node.meta.get("val"))]
    outer, inner = _graphs(edge, FORWARD)
    counts: Counter[str] = Counter(f"cpu:{name}" for name in _operators(outer))
    for graph in inner:
        counts.update(f"{delegate}:{name}" for name in _operators(graph))
    delegated = sum(count for name, count in counts.items() if name.startswith(f"{delegate}:"))
    return Written(
        max_rank=max(ranks),
        operators=dict(counts.most_common()),
        delegates=len(inner),
        delegated_share=delegated / max(1, counts.total()),
    )


def load(path: Path) -> Session:
    """The program's method `forward` in the ExecuTorch runtime."""
    return open_method(path, FORWARD)


def open_method(path: Path, name: str) -> Session:
    """One method of the program in the ExecuTorch runtime; raises `UserError` where it has no such method."""
    with native_stderr_hidden():
        program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
        if name not in program.method_names:
            raise unknown_name(f"method of {path}:", name, sorted(program.method_names))
        method = program.load_method(name)
    assert method is not None

    def call(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        with native_stderr_hidden():
            outputs = method.execute([torch.from_numpy(array) for array in inputs])
        return [output.numpy().copy() for output in outputs]  # the method's own memory, overwritten by the next call

    return Session(call, "executed", f"executorch {version('executorch')}")


def shuffle_pixels(x: torch.Tensor, factor: int) -> torch.Tensor:
    """`pixel_shuffle` of `(N, C*r*r, H, W)` as two transposes of rank 4; ExecuTorch's own rewriting has rank 6."""
    batch, channels, height, width = x.shape
    planes = batch * channels // factor**2
    rows = x.reshape(planes, factor**2, height, width).permute(0, 2, 1, 3)  # (N*C, H, r*r, W)
    columns = rows.reshape(planes * height * factor, factor, width).permute(0, 2, 1)  # (N*C*H*r, W, r)
    return columns.reshape(batch, channels // factor**2, height * factor, width * factor)


def shuffles_spelt_out(program: ExportedProgram) -> ExportedProgram:
    """The program with its pixel shuffles at rank 4."""
    return program.run_decompositions({torch.ops.aten.pixel_shuffle.default: shuffle_pixels})


def forget_origins(graph: torch.fx.Graph) -> None:
    """Drop what torch notes of each node's origins: every pass copies it, and there are dozens."""
    for node in graph.nodes:
        node.meta.pop("from_node", None)


def _graphs(edge: EdgeProgramManager, method: str) -> tuple[torch.fx.Graph, list[torch.fx.Graph]]:
    """A method's graph, and those of its delegates."""
    program = edge.exported_program(method)
    lowered = [getattr(program.graph_module, str(node.target)) for node in get_delegates(program.graph)]
    return program.graph, [module.original_module.graph for module in lowered]


def _operators(graph: torch.fx.Graph) -> list[str]:
    names = [operator_name(node.target) for node in graph.nodes if node.op == "call_function"]
    return [name for name in names if name not in NOT_OPERATORS]


XNNPACK = Delegate("xnnpack", "XNNPACK", XnnpackPartitioner, shuffles_spelt_out)

add_target(Target("executorch-xnnpack-fp32", "model.pte", FP32, convert, load, open_size=open_method))
