"""ONNX in 8 bits: layers with int8 weights and uint8 activations, quantized by ONNX Runtime's own tool."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

from export.onnx import load, save
from export.onnx_graph import Graph, Inputs, prepared, quiet
from export.targets import INT8, Conversion, Target, Written, add_target
from toolkit.errors import CheckFailed

#: Layers that ONNX Runtime computes in integers on the CPU; a transposed convolution it would only round.
LAYERS = ("Conv", "Gemm", "MatMul")
#: What a layer's own output range cuts off: with a range that starts at 0 nothing is left of them.
CUT_OFF = ("Relu", "Clip")


def convert(conversion: Conversion, path: Path) -> Written:
    """Write `path` with its layers in 8 bits between QuantizeLinear and DequantizeLinear, all else in fp32.

    Weights are symmetric int8, one scale an output channel; activations asymmetric uint8, whose ranges are the least
    and greatest values on the real inputs. Fp32 stay `wide` nodes, products of two computed tensors, means, norms,
    data movement, additions, and the layers that predict where a GridSample looks. Raises `CheckFailed` where no layer
    is left to quantize, and where there are no inputs to calibrate on.
    """
    if not conversion.calibration:
        raise CheckFailed("onnx-int8: there are no real inputs to calibrate on; give the source at least one example")
    graph = prepared(conversion)
    layers = {node.name for node in graph.nodes if _is_layer(graph, node)}
    if not layers:
        raise CheckFailed("onnx-int8: nothing to quantize: no convolution or linear layer; leave this target out")
    layers -= graph.coordinates()
    if not layers:
        raise CheckFailed(
            "onnx-int8: every layer predicts where a GridSample looks, which 8 bits cannot say; leave this target out"
        )
    layers -= graph.wide(conversion.wide)
    return save(_quantized(graph, layers, conversion) if layers else graph.model, path)


def _quantized(graph: Graph, layers: set[str], conversion: Conversion) -> onnx.ModelProto:
    exact = [node.name for node in graph.nodes if node.op_type in LAYERS and node.name not in layers]
    exact += [node.name for node in graph.nodes if node.op_type in CUT_OFF and not _follows(graph, node, layers)]
    model = copy.deepcopy(graph.model)  # the tool empties the model that it is given
    _own_weights(model.graph)
    with tempfile.TemporaryDirectory() as folder, quiet():
        target = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            target,
            Inputs(conversion),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*LAYERS, *CUT_OFF],
            nodes_to_exclude=exact,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return onnx.load(target)


def _own_weights(graph: onnx.GraphProto) -> None:
    """Give nodes that share a weight a copy each.

    The tool would round it for those that stay fp32 too, and `session.x64quantprecision` cannot load a shared one.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    taken: set[str] = set()
    for node in (node for node in graph.node if node.op_type in LAYERS):
        name = node.input[1]
        if name in taken and name in tensors:
            node.input[1] = f"{name}/{node.name}"
            graph.initializer.add().CopyFrom(tensors[name])
            graph.initializer[-1].name = node.input[1]
        taken.add(name)


def _is_layer(graph: Graph, node: onnx.NodeProto) -> bool:
    return node.op_type in LAYERS and graph.has_weights(node) and not graph.is_mean(node)


def _follows(graph: Graph, node: onnx.NodeProto, layers: set[str]) -> bool:
    return any(before.name in layers for before in graph.before(node))


add_target(Target("onnx-int8", "model-int8.onnx", INT8, convert, load))
