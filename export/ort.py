"""ONNX Runtime's own format, for builds of it that read no ONNX and have the operators of these models only."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort
from onnxruntime.tools.ort_format_model.ort_flatbuffers_py import fbs
from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

from export.onnx import load, model_of
from export.onnx_graph import quiet
from export.targets import FP32, Conversion, Target, Written, add_target

#: Beside the artifact: what `build.sh --include_ops_by_config` of ONNX Runtime takes.
CONFIG_SUFFIX = ".required_operators.config"


def convert(conversion: Conversion, path: Path) -> Written:
    """Write `path`, and beside it the list of the operators that a build of ONNX Runtime needs to run it.

    The style is `Fixed`: all of ONNX Runtime's optimizations are made here, but for the layout of x86 (NCHWc), so that
    the file runs on ARM too, and a minimal build need not optimize.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"{path.stem}.onnx"
        onnx.save(model_of(conversion), source)
        with quiet():
            convert_onnx_models_to_ort(source, optimization_styles=[OptimizationStyle.Fixed])
        config = source.with_suffix(CONFIG_SUFFIX).read_text(encoding="utf-8").splitlines()
        kept = [line for line in config if not line.startswith("#")]  # the comments name a temporary file
        path.write_bytes(source.with_suffix(".ort").read_bytes())
        path.with_suffix(CONFIG_SUFFIX).write_text("\n".join([f"# For {path.name}", *kept, ""]), encoding="utf-8")
    return read(path)


def read(path: Path) -> Written:
    """Operator counts and the highest rank of any tensor, as they stand in the file.

    Operators of ONNX Runtime's own domain are called `com.microsoft.NAME`.
    """
    counts: Counter[str] = Counter()
    ranks = [0]
    for graph in _graphs(InferenceSession.GetRootAs(path.read_bytes(), 0).Model().Graph()):
        for number in range(graph.NodesLength()):
            node = graph.Nodes(number)
            domain = node.Domain().decode()
            counts[f"{domain}.{node.OpType().decode()}" if domain else node.OpType().decode()] += 1
        ranks += [graph.Initializers(number).DimsLength() for number in range(graph.InitializersLength())]
        ranks += [rank for number in range(graph.NodeArgsLength()) for rank in _rank(graph.NodeArgs(number))]
    return Written(max_rank=max(ranks), operators=dict(counts.most_common()))


def _graphs(graph: fbs.Graph.Graph) -> Iterator[fbs.Graph.Graph]:
    """A graph and those inside its nodes."""
    yield graph
    for number in range(graph.NodesLength()):
        node = graph.Nodes(number)
        for place in range(node.AttributesLength()):
            inner = node.Attributes(place).G()
            if inner is not None:
                yield from _graphs(inner)


def _rank(value: fbs.ValueInfo.ValueInfo) -> Iterator[int]:
    kind = value.Type()
    if kind is None or kind.ValueType() != fbs.TypeInfoValue.TypeInfoValue.tensor_type:
        return
    tensor = fbs.TensorTypeAndShape.TensorTypeAndShape()
    tensor.Init(kind.Value().Bytes, kind.Value().Pos)
    if tensor.Shape() is not None:
        yield tensor.Shape().DimLength()


add_target(Target("ort-fp32", "model.ort", FP32, convert, load, beside=(f"model{CONFIG_SUFFIX}",)))
