"""What the reduced precisions of ONNX share: the graph that they start from, and its nodes that must stay exact."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cached_property
from io import StringIO
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, numpy_helper
from onnxruntime.quantization import CalibrationDataReader
from onnxruntime.quantization.preprocess import quant_pre_process

from export.onnx import model_of, origin
from export.targets import Conversion
from toolkit.parity import Execution, Parity, Tolerance, compare
from toolkit.quiet import native_stderr_hidden

#: Operators with weights, which most of a network's time goes into.
HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


class Graph:
    """A model's nodes by what they take and give."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.maker: dict[str, NodeProto] = {name: node for node in self.nodes for name in node.output if name}
        self._takers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(filter(None, node.input)):
                self._takers.setdefault(name, []).append(node)

    @cached_property
    def constants(self) -> Mapping[str, np.ndarray]:
        """Initializers by name."""
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer}

    def before(self, node: NodeProto) -> list[NodeProto]:
        """The nodes whose results a node takes."""
        return [self.maker[name] for name in node.input if name in self.maker]

    def after(self, node: NodeProto) -> list[NodeProto]:
        """The nodes that take a node's results."""
        return [taker for name in node.output for taker in self._takers.get(name, [])]

    def has_weights(self, node: NodeProto) -> bool:
        """Whether a heavy node multiplies by a constant: layers do, attention and correlation do not."""
        return node.op_type in HEAVY and node.input[1] in self.constants

    def is_mean(self, node: NodeProto) -> bool:
        """Whether a convolution has one weight everywhere: a norm's mean over channels, or a blur, and no layer."""
        return self.has_weights(node) and bool(np.ptp(self.constants[node.input[1]]) == 0)

    def coordinates(self) -> set[str]:
        """Names of the nodes that compute where a GridSample looks, back to the layers that predict it, and its own.

        An error there moves picture content: in 8 bits, flows of ±20 pixels come in steps of 0.16; in fp16, a
        coordinate in [-1, 1] of an image 1024 wide in steps of up to a quarter of a pixel.
        """
        samplers = [node for node in self.nodes if node.op_type == "GridSample"]
        grids = [self.maker[node.input[1]] for node in samplers if node.input[1] in self.maker]
        chain = reach(grids, self.before, lambda node: node.op_type not in HEAVY)
        return chain | {node.name for node in samplers}

    def wide(self, names: Collection[str]) -> set[str]:
        """Names of the nodes that were made for the program's nodes `names`."""
        return {node.name for node in self.nodes if origin(node) in names}


def reach(
    start: Sequence[NodeProto],
    step: Callable[[NodeProto], list[NodeProto]],
    goes_on: Callable[[NodeProto], bool],
) -> set[str]:
    """Names of all nodes reached from `start` by steps; those where it does not go on are the last of their way."""
    found: set[str] = set()
    waiting = list(start)
    while waiting:
        node = waiting.pop()
        if node.name not in found:
            found.add(node.name)
            waiting += step(node) if goes_on(node) else []
    return found


def prepared(conversion: Conversion) -> Graph:
    """The program in fp32 with factors and offsets folded into convolutions, and every shape inferred.

    ONNX Runtime's own basic optimizations do it: what is rounded later are then the weights that will be used.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "prepared.onnx"
        onnx.save(model_of(conversion), source)
        with quiet():
            quant_pre_process(source, target, skip_symbolic_shape=True)
        model = onnx.load(target)
    used = {node.domain or "" for node in model.graph.node} | {""}
    opsets = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    for node in model.graph.node:
        del node.metadata_props[:]
        node.name = node.name or f"{node.output[0]}/{node.op_type}"  # parts of what ONNX Runtime took apart have none
    constants = {tensor.name for tensor in model.graph.initializer}
    computed = [value for value in model.graph.value_info if value.name not in constants]
    del model.graph.value_info[:]
    model.graph.value_info.extend(computed)  # a constant described there too would be cast, by the tool for fp16
    return Graph(model)


def feeds(conversion: Conversion) -> list[dict[str, np.ndarray]]:
    """The real inputs by name."""
    return [dict(zip(conversion.names, inputs, strict=False)) for inputs in conversion.calibration]


class Inputs(CalibrationDataReader):  # type: ignore[misc]
    """The real inputs, one call after the other; the calibrator keeps only ranges of each."""

    def __init__(self, conversion: Conversion) -> None:
        self._feeds = iter(feeds(conversion))

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def run(model: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """A model's outputs in ONNX Runtime, on the CPU."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, dict(feed))]


def difference(outputs: list[np.ndarray], expected: list[np.ndarray], tolerance: Tolerance) -> Parity:
    """How far outputs that were evaluated here are from others."""
    runtime = f"onnxruntime {onnxruntime.__version__}"
    return compare(Execution(outputs, "reference-evaluated", runtime), expected, tolerance)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what ONNX Runtime's tools print and log, at any level below an error."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with native_stderr_hidden(), redirect_stdout(StringIO()):
            yield
    finally:
        logging.disable(before)
