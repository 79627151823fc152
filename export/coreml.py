"""Core ML: coremltools writes an ML program; macOS executes it, elsewhere our own evaluator interprets it."""

from __future__ import annotations

import logging
import platform
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr
from importlib.metadata import version
from io import StringIO
from pathlib import Path

import coremltools
import numpy as np
from torch.export import ExportedProgram

from export import mil_reference
from export.targets import FP16, Session, Target, Written, add_target


def convert(program: ExportedProgram, path: Path, names: list[str]) -> Written:
    """Write `path` as an `.mlpackage` in fp16 for iOS 17 and later; inputs and outputs stay fp32."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
    user_inputs = [node for node in inputs if node.name in program.graph_signature.user_inputs]
    with warnings.catch_warnings(), redirect_stderr(StringIO()):  # coremltools draws its own progress bars
        warnings.simplefilter("ignore")
        model = coremltools.convert(
            program.run_decompositions({}),
            inputs=[
                coremltools.TensorType(name=name, shape=tuple(node.meta["val"].shape))
                for name, node in zip(names, user_inputs, strict=False)
            ],
            outputs=[coremltools.TensorType(name=name, dtype=np.float32) for name in names[len(user_inputs) :]],
            minimum_deployment_target=coremltools.target.iOS17,
            compute_precision=coremltools.precision.FLOAT16,
            skip_model_load=True,
        )
    if path.exists():
        shutil.rmtree(path)
    model.save(str(path))
    return read(path)


def read(path: Path) -> Written:
    """Operator counts and the highest rank in the program as it was saved."""
    function = mil_reference.main_function(mil_reference.load(path))
    operators = [op for op in function.operations if op.op_type != "const"]
    ranks = [value.rank for op in function.operations for value in op.outputs if value.rank is not None]
    return Written(max_rank=max(ranks), operators=dict(Counter(op.op_type for op in operators).most_common()))


def load(path: Path) -> Session:
    """Core ML itself on macOS; elsewhere the program operator by operator, rounded to fp16 after each."""
    if sys.platform == "darwin":
        model = coremltools.models.MLModel(str(path))
        spec = model.get_spec().description

        def predict(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
            result = model.predict({value.name: array for value, array in zip(spec.input, inputs, strict=True)})
            return [np.asarray(result[value.name], dtype=np.float32) for value in spec.output]

        return Session(predict, "executed", f"Core ML on macOS {platform.mac_ver()[0]}")
    program = mil_reference.load(path)
    runtime = f"export.mil_reference, coremltools {version('coremltools')}"
    return Session(lambda inputs: mil_reference.evaluate(program, inputs), "reference-evaluated", runtime)


add_target(Target("coreml-fp16", "model.mlpackage", FP16, convert, load))
