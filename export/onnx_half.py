"""ONNX in fp16: converted by ONNX Runtime's own tool, with what fp16 would damage left in fp32."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from export.onnx import load, save
from export.onnx_graph import HEAVY, Graph, Inputs, difference, feeds, prepared, quiet, reach, run
from export.targets import FP16, Conversion, Session, Target, Written, add_target
from toolkit.errors import CheckFailed

LARGEST, SMALLEST = float(np.finfo(np.float16).max), float(np.finfo(np.float16).smallest_normal)
#: Of the largest finite number, what a value on real inputs may reach: other inputs reach further.
HEADROOM = 4
#: What fp16 makes of a constant may be off by this share of it, or of the largest in the same tensor.
CONSTANT_ERROR = 2**-10

#: Sums over many values, of which fp16 loses the small ones or overflows; ONNX Runtime computes most in fp32 anyway.
SUMS = frozenset(
    {f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Mean", "Prod", "Sum", "SumSquare")}
    | {f"{kind}Normalization" for kind in ("Batch", "Group", "Instance", "Layer", "MeanVariance", "RMS")}
    | {"CumSum", "GlobalAveragePool", "GlobalLpPool", "LpNormalization", "LpPool", "LogSoftmax", "Softmax"}
)
#: Functions that leave fp16's range for inputs that are well within it.
STEEP = frozenset({"Exp", "Log", "Pow", "Reciprocal", "Sqrt"})
#: Results of these are as large as they may be, so what takes them must hold that too.
UNBOUNDED = STEEP | {name for name in SUMS if name.startswith("Reduce")} | {"Div", "CumSum"}
MOVES = frozenset(
    {"Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose"}
    | {"Unsqueeze"}
)


def convert(conversion: Conversion, path: Path) -> Written:
    """Write `path` with fp16 weights and values; inputs and outputs stay fp32.

    Fp32 stay `wide` nodes, and what `damaged` names. Raises `CheckFailed` where the file, evaluated with every fp16
    result rounded to fp16, is not within the target's tolerance of fp32: ONNX Runtime has no fp16 kernels on x86,
    where it computes the same file in fp32.
    """
    graph = prepared(conversion)
    exact = damaged(graph, conversion) | graph.wide(conversion.wide)
    expected = [run(graph.model, feed) for feed in feeds(conversion)[:1]]
    half = _converted(graph, exact)
    written = save(half, path)
    for feed, outputs in zip(feeds(conversion), expected, strict=False):
        parity = difference(run(rounded(half), feed), outputs, FP16)
        if not parity.passed:
            raise CheckFailed(f"onnx-fp16: with each result rounded to fp16: {parity}")
    return written


def damaged(graph: Graph, conversion: Conversion) -> set[str]:
    """Names of the nodes that must stay fp32, by rules about operators and by what happens on the real inputs.

    - Sums, means and norms, with the squares that they take: fp16 ends at 65504, the square of 256.
    - Steep functions and divisions by computed values, what takes their results, and whatever lies between two such
      nodes: an epsilon of a norm survives only in a chain that never passes through fp16.
    - Coordinates of GridSample (`Graph.coordinates`).
    - Nodes with a constant that fp16 cannot say.
    - Nodes that give or take a value that comes within a quarter of fp16's largest, or stays below its smallest normal
      number, on the calibration inputs.
    - Operators that have no fp16 form in ONNX Runtime's list.
    """
    found = {node.name for node in graph.nodes if node.op_type in (*DEFAULT_OP_BLOCK_LIST, "Cast")}
    found |= _norms(graph) | graph.coordinates()
    found |= {node.name for node in graph.nodes if any(_is_lost(graph, node, name) for name in node.input)}
    extreme = _extreme(graph, conversion)
    return found | {node.name for node in graph.nodes if not extreme.isdisjoint([*node.input, *node.output])}


def rounded(half: onnx.ModelProto) -> onnx.ModelProto:
    """The model in fp32, with the result of each of its fp16 nodes rounded to fp16."""
    model = onnx.shape_inference.infer_shapes(half, strict_mode=True)
    graph = model.graph
    is_half = {v.name for v in graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT16}
    nodes = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
            elif attribute.HasField("t"):
                _widen(attribute.t)
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name in is_half:
                node.output[place] = f"{name}/exact"
                nodes.append(helper.make_node("Cast", [f"{name}/exact"], [f"{name}/half"], to=TensorProto.FLOAT16))
                nodes.append(helper.make_node("Cast", [f"{name}/half"], [name], to=TensorProto.FLOAT))
    for tensor in graph.initializer:
        _widen(tensor)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return model


def load_rounded(path: Path) -> Session:
    """A session of the file in fp32, with the result of each of its fp16 nodes rounded to fp16."""
    model = onnx.load(path)
    names = [value.name for value in model.graph.input]
    model = rounded(model)
    runtime = f"onnxruntime {onnxruntime.__version__}"
    return Session(lambda inputs: run(model, dict(zip(names, inputs, strict=True))), "reference-evaluated", runtime)


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def _norms(graph: Graph) -> set[str]:
    """Sums and steep functions with all that must not come between them in fp16."""

    def divides(node: NodeProto) -> bool:
        return node.op_type == "Div" and node.input[1] not in graph.constants

    def squares(node: NodeProto) -> bool:
        return node.op_type == "Mul" and node.input[0] == node.input[1]

    seeds = [
        node
        for node in graph.nodes
        if node.op_type in SUMS | STEEP or divides(node) or squares(node) or graph.is_mean(node)
    ]
    unbounded = [node for node in seeds if node.op_type in UNBOUNDED or graph.is_mean(node)]
    taken = [taker for node in unbounded for taker in graph.after(node)]
    takers = reach(taken, graph.after, lambda node: node.op_type in MOVES)
    takers -= {node.name for node in graph.nodes if node.op_type in HEAVY}

    def light(node: NodeProto) -> bool:
        return node.op_type not in HEAVY or graph.is_mean(node)

    downstream = reach(taken, graph.after, light)
    upstream = reach([before for node in seeds for before in graph.before(node)], graph.before, light)
    heavy = {node.name for node in graph.nodes if not light(node)}
    return {node.name for node in seeds} | takers | ((downstream & upstream) - heavy)


def _is_lost(graph: Graph, node: NodeProto, name: str) -> bool:
    """Whether fp16 cannot say a constant of a node: it overflows, or a number that stands alone changes.

    Weights are held against the largest of their output channel.
    """
    array = graph.constants.get(name)
    if array is None or array.dtype != np.float32 or not array.size:
        return False
    rows = np.abs(array.reshape(len(array), -1) if array.ndim > 1 and node.op_type in HEAVY else array.reshape(1, -1))
    rows = rows[np.isfinite(rows).all(1)]
    error = np.abs(rows - np.minimum(rows, LARGEST).astype(np.float16).astype(np.float32)).max(1, initial=0)
    return bool((error > CONSTANT_ERROR * rows.max(1, initial=0)).any())


def _extreme(graph: Graph, conversion: Conversion) -> set[str]:
    """Names of the tensors whose largest magnitude on the real inputs is too large or too small for fp16."""
    if not conversion.calibration:
        return set()
    with TemporaryDirectory() as folder, quiet():
        source, augmented = Path(folder) / "fp32.onnx", Path(folder) / "augmented.onnx"
        onnx.save(graph.model, source)
        calibrator = create_calibrator(source, None, str(augmented), CalibrationMethod.MinMax)
        calibrator.collect_data(Inputs(conversion))
        ranges = calibrator.compute_data()
    peaks = {
        name: max(abs(float(number)) for bound in found.range_value for number in np.ravel(bound))
        for name, found in ranges.items()
    }
    return {name for name, peak in peaks.items() if not (peak == 0 or SMALLEST <= peak <= LARGEST / HEADROOM)}


def _converted(graph: Graph, exact: set[str]) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    _own_constants(model.graph, exact)
    half = convert_float_to_float16(model, keep_io_types=True, op_block_list=[], node_block_list=sorted(exact))
    _without_detours(half.graph)
    ordered = OnnxModel(half)
    ordered.topological_sort()
    del half.graph.value_info[:]
    return half


def _own_constants(graph: onnx.GraphProto, exact: set[str]) -> None:
    """Give fp32 nodes their own copies of constants: the tool rounds one that an fp16 node takes too, for both."""
    tensors = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    shared = {name for node in graph.node if node.name not in exact for name in node.input if name in tensors}
    copied: set[str] = set()
    for node in (node for node in graph.node if node.name in exact):
        for place, name in enumerate(node.input):
            if name in shared:
                node.input[place] = f"{name}/fp32"
                if name not in copied:
                    copied.add(name)
                    graph.initializer.add().CopyFrom(tensors[name])
                    graph.initializer[-1].name = f"{name}/fp32"


def _without_detours(graph: onnx.GraphProto) -> None:
    """Take out the casts to fp16 and back that the tool puts between two fp32 nodes: they would round, or overflow."""
    narrowed = {node.output[0]: node.input[0] for node in _casts(graph, TensorProto.FLOAT16)}
    outputs = {value.name for value in graph.output}
    renamed: dict[str, str] = {}
    for node in _casts(graph, TensorProto.FLOAT):
        if node.input[0] in narrowed:
            source = narrowed[node.input[0]]
            if node.output[0] in outputs:  # the name must stay
                node.op_type, node.input[0] = "Identity", source
                del node.attribute[:]
            else:
                renamed[node.output[0]] = source
                graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    for node in _casts(graph, TensorProto.FLOAT16):
        if not any(node.output[0] in other.input for other in graph.node):
            graph.node.remove(node)


def _casts(graph: onnx.GraphProto, kind: int) -> Sequence[NodeProto]:
    casts: Iterable[NodeProto] = (node for node in graph.node if node.op_type == "Cast")
    return [node for node in casts if any(item.name == "to" and item.i == kind for item in node.attribute)]


add_target(Target("onnx-fp16", "model-fp16.onnx", FP16, convert, load, open_rounded=load_rounded))
