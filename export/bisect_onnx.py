"""Inner values of an ONNX model: a copy of it gives them as outputs, with ONNX Runtime's rewriting of graphs off."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from export.bisect_walk import Value


class OnnxValues:
    """The values of the model at `path` for `inputs`, in the order of its inputs."""

    def __init__(self, path: Path, inputs: Sequence[np.ndarray]) -> None:
        model = onnx.load(path)
        inferred = onnx.shape_inference.infer_shapes(model).graph
        shapes = {
            value.name: tuple(side.dim_value for side in value.type.tensor_type.shape.dim)
            for value in (*inferred.value_info, *inferred.output)
            if value.type.tensor_type.HasField("shape")
        }
        self.values = [
            Value(name, node.op_type, tuple(node.input), shapes.get(name))
            for node in model.graph.node
            for name in node.output
            if name
        ]
        self.outputs = [value.name for value in model.graph.output]
        self._inputs = dict(zip((value.name for value in model.graph.input), inputs, strict=True))
        told = set(self.outputs)
        model.graph.output.extend(onnx.ValueInfoProto(name=v.name) for v in self.values if v.name not in told)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)

    def read(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """These values."""
        found = self._session.run(list(names), self._inputs)
        return {name: np.asarray(array) for name, array in zip(names, found, strict=True)}
