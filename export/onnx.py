"""ONNX: torch's dynamo exporter writes it, ONNX Runtime runs it."""

from __future__ import annotations

import ast
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import onnx
import onnxruntime
import torch
from onnxscript import rewriter
from onnxscript.rewriter.rules.common import _basic_rules, _no_op
from torch.export import ExportedProgram

from export.targets import FP32, Conversion, Session, Target, Written, add_target

OPSET = 18  # what torch's exporter writes without a version conversion
#: Names of inputs and outputs, and the model, of programs that are still in use.
_MODELS: WeakKeyDictionary[ExportedProgram, tuple[list[str], onnx.ModelProto]] = WeakKeyDictionary()


def convert(conversion: Conversion, path: Path) -> Written:
    """Write `path` as one self-contained ONNX file."""
    return save(model_of(conversion), path)


def model_of(conversion: Conversion) -> onnx.ModelProto:
    """The program in fp32. A node is called after the program's node that it was made for: `conv2d_3/Conv`.

    A program is exported once, however many targets start from it. The model is the caller's own.
    """
    names, known = _MODELS.get(conversion.program, ([], None))
    if known is None or names != conversion.names:
        known = _exported(conversion)
        _MODELS[conversion.program] = (conversion.names, known)
    model = onnx.ModelProto()
    model.CopyFrom(known)
    return model


def _exported(conversion: Conversion) -> onnx.ModelProto:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), _fewer_rules():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(conversion.program, opset_version=OPSET, dynamo=True, verbose=False)
    assert exported is not None
    assert exported.exported_program is not None
    model = exported.model_proto
    graph = model.graph
    for value, name in zip([*graph.input, *graph.output], conversion.names, strict=True):
        _rename(graph, value.name, name)
    _name_nodes(graph, exported.exported_program)
    return model


def save(model: onnx.ModelProto, path: Path) -> Written:
    """Write a model that ONNX's checker accepts, and say what stands in it."""
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return read(model)


def origin(node: onnx.NodeProto) -> str:
    """The name of the program's node that a node of `model_of` was made for."""
    return str(node.name).partition("/")[0]


@contextmanager
def _fewer_rules() -> Iterator[None]:
    """Without those of onnxscript's rules that change numbers or only take time.

    For x + 0 and x * 1: they take 1e-8 for 0 and 1.00001 for 1, and a norm over zeros that lost its epsilon divides
    zero by zero. For two slices that halve the last axis: it walks the whole graph from every node, and so takes
    time by the square of their number.
    """
    rules, dropped = rewriter._DEFAULT_REWRITE_RULES, (*_no_op.rules, _basic_rules.slice_split_rule)
    rewriter._DEFAULT_REWRITE_RULES = tuple(rule for rule in rules if rule not in dropped)
    try:
        yield
    finally:
        rewriter._DEFAULT_REWRITE_RULES = rules


def read(model: onnx.ModelProto) -> Written:
    """Operator counts and the highest rank of any tensor, by ONNX's own shape inference."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    ranks = [len(value.type.tensor_type.shape.dim) for value in values] + [len(t.dims) for t in graph.initializer]
    return Written(max_rank=max(ranks), operators=dict(Counter(node.op_type for node in graph.node).most_common()))


def load(path: Path) -> Session:
    """A session of ONNX Runtime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # 8-bit sums overflow on x86 without VNNI
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def call(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.asarray(output) for output in session.run(None, dict(zip(names, inputs, strict=True)))]

    return Session(call, "executed", f"onnxruntime {onnxruntime.__version__}")


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.name == old:
            value.name = new
    for node in graph.node:
        for field in (node.input, node.output):
            for index, name in enumerate(field):
                if name == old:
                    field[index] = new


def _name_nodes(graph: onnx.GraphProto, decomposed: ExportedProgram) -> None:
    """Name nodes by the program's, which the exporter takes apart, and renames in doing so, before it converts them."""
    made_for = {node.name: node for node in decomposed.graph.nodes}
    used: Counter[str] = Counter()
    for node in graph.node:
        scopes = next((prop.value for prop in node.metadata_props if prop.key == "pkg.torch.onnx.name_scopes"), "")
        inner = str(ast.literal_eval(scopes)[-1]) if scopes else node.output[0]
        name = f"{_first(made_for[inner], node) if inner in made_for else inner}/{node.op_type}"
        used[name] += 1
        node.name = name if used[name] == 1 else f"{name}_{used[name]}"


def _first(made_for: torch.fx.Node, node: onnx.NodeProto) -> str:
    """The name that a node of the decomposed program had before; of a norm within a convolution, the convolution's."""
    if node.op_type in ("Conv", "ConvTranspose", "Gemm") and "batch_norm" in str(made_for.target):
        made_for = made_for.all_input_nodes[0]
    sources = made_for.meta.get("from_node") or []
    while sources and sources[-1].from_node:
        sources = sources[-1].from_node
    return str(sources[-1].name) if sources else made_for.name


add_target(Target("onnx-fp32", "model.onnx", FP32, convert, load))
