"""ExecuTorch: lowered to XNNPACK, run in the ExecuTorch runtime of this host."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import EdgeProgramManager, to_edge_transform_and_lower
from executorch.exir.backend.utils import get_delegates
from executorch.runtime import Runtime, Verification

from export.targets import FP32, Conversion, Session, Target, Written, add_target
from toolkit.errors import CheckFailed
from toolkit.quiet import native_stderr_hidden

NOT_OPERATORS = ("executorch_call_delegate", "getitem")


def convert(conversion: Conversion, path: Path) -> Written:
    """Write `path` as a `.pte` whose convolutions all sit in XNNPACK delegates; raises `CheckFailed` otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = conversion.program.run_decompositions({torch.ops.aten.pixel_shuffle.default: shuffle_pixels})
        edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        written = read(edge)
        stray = [name for name in written.operators if name.startswith("cpu:") and "convolution" in name]
        if stray:
            raise CheckFailed(f"ExecuTorch: {', '.join(stray)} stayed outside the XNNPACK delegate and would be slow")
        path.write_bytes(bytes(edge.to_executorch().buffer))
    return written


def read(edge: EdgeProgramManager) -> Written:
    """Operator counts (`xnnpack:NAME` delegated, `cpu:NAME` not), the delegated share, the highest rank anywhere."""
    graph = edge.exported_program().graph
    delegates = get_delegates(graph)
    inner = [getattr(edge.exported_program().graph_module, str(node.target)) for node in delegates]
    counts: Counter[str] = Counter(f"cpu:{name}" for name in _operators(graph))
    for lowered in inner:
        counts.update(f"xnnpack:{name}" for name in _operators(lowered.original_module.graph))
    delegated = sum(count for name, count in counts.items() if name.startswith("xnnpack:"))
    graphs = [graph, *(lowered.original_module.graph for lowered in inner)]
    return Written(
        max_rank=max(_ranks(graphs)),
        operators=dict(counts.most_common()),
        delegates=len(delegates),
        delegated_share=delegated / counts.total(),
    )


def load(path: Path) -> Session:
    """The program's method in the ExecuTorch runtime."""
    with native_stderr_hidden():
        program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
        method = program.load_method("forward")
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


def _operators(graph: torch.fx.Graph) -> list[str]:
    names = [_name(node.target) for node in graph.nodes if node.op == "call_function"]
    return [name for name in names if name not in NOT_OPERATORS]


def _name(target: Any) -> str:
    found = getattr(target, "_name", None) or getattr(target, "__name__", str(target))
    return str(found).removeprefix("aten::").removeprefix("dim_order_ops::").split(".")[0]


def _ranks(graphs: list[torch.fx.Graph]) -> list[int]:
    leaves: list[Any] = []
    for graph in graphs:
        for node in graph.nodes:
            value = node.meta.get("val")
            leaves += value if isinstance(value, list | tuple) else [value]
    return [leaf.ndim for leaf in leaves if isinstance(leaf, torch.Tensor)]


add_target(Target("executorch-xnnpack-fp32", "model.pte", FP32, convert, load))
