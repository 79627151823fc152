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
from typing import Any

import coremltools
import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram

from export import mil_reference
from export.targets import FP16, Conversion, Session, Target, Written, add_target
from toolkit.errors import CheckFailed


def convert(conversion: Conversion, path: Path) -> Written:
    """Write `path` as an `.mlpackage` in fp16 for iOS 17 and later; inputs and outputs stay fp32."""
    return _write(conversion.program, path, conversion.names, minimum_deployment_target=coremltools.target.iOS17)


def convert_stateful(conversion: Conversion, path: Path) -> Written:
    """The same of a stream's step, for iOS 18 and later: Core ML keeps the states, in fp16, from call to call.

    Raises `CheckFailed` on a program without states.
    """
    program, names = conversion.program, conversion.names
    states = [name for name in names if name.startswith("state_")]
    if not states:
        raise CheckFailed("coreml-state-fp16: keeps the states of a stream, and this has none; use --mode stream")
    inputs = [node.meta["val"] for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    examples = [torch.zeros(value.shape) for value in inputs]
    held = examples[len(inputs) - len(states) :]
    step = _Stateful(program.module(), held)
    with torch.no_grad():
        stateful = torch.export.export(step, tuple(examples[: len(inputs) - len(states)]))
    kept = [
        coremltools.StateType(coremltools.TensorType(shape=tuple(value.shape), dtype=np.float16), name=name)
        for name, value in zip(states, held, strict=True)
    ]
    named = [name for name in names if not name.removeprefix("next_").startswith("state_")]
    target = coremltools.target.iOS18
    return _write(stateful, path, named, minimum_deployment_target=target, states=kept)


class _Stateful(nn.Module):
    """A step whose states are buffers that it writes."""

    def __init__(self, step: nn.Module, states: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.step, self.count = step, len(states)
        for number, state in enumerate(states):
            self.register_buffer(f"state_{number}", state.clone())

    def forward(self, latent: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        states = [getattr(self, f"state_{number}") for number in range(self.count)]
        frames, *following = self.step(latent, first, *states)
        for state, value in zip(states, following, strict=True):
            state.copy_(value)
        assert isinstance(frames, torch.Tensor)
        return frames


def _write(program: ExportedProgram, path: Path, names: list[str], **options: Any) -> Written:
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
            compute_precision=coremltools.precision.FLOAT16,
            skip_model_load=True,
            pass_pipeline=_passes(),
            **options,
        )
    if path.exists():
        shutil.rmtree(path)
    model.save(str(path))
    return read(path)


def _passes() -> coremltools.PassPipeline:
    """coremltools' own passes, without those in which its version 9.0 fails."""
    passes = coremltools.PassPipeline.DEFAULT
    # a linear of one output and a number added to it: "tuple index out of range"
    passes.remove_passes({"common::fuse_linear_bias"})
    # loses its place when it moves the updates of several states
    passes.remove_passes({"common::canonicalize_inplace_pattern", "common::prefer_state_in_downstream"})
    return passes


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


def load_stateful(path: Path) -> Session:
    """As `load`, of an artifact that keeps its states; the first step of a stream (`first` is 1) begins anew."""
    if sys.platform == "darwin":
        model = coremltools.models.MLModel(str(path))
        spec = model.get_spec().description
        kept = [model.make_state()]

        def predict(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
            if inputs[1].item() == 1:
                kept[0] = model.make_state()
            feed = {value.name: array for value, array in zip(spec.input, inputs, strict=True)}
            return [np.asarray(model.predict(feed, state=kept[0])[spec.output[0].name], dtype=np.float32)]

        return Session(predict, "executed", f"Core ML on macOS {platform.mac_ver()[0]}")
    program = mil_reference.load(path)
    states: dict[str, torch.Tensor] = {}

    def evaluate(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        if inputs[1].item() == 1:
            states.clear()
        return mil_reference.evaluate(program, inputs, states)

    return Session(evaluate, "reference-evaluated", f"export.mil_reference, coremltools {version('coremltools')}")


add_target(Target("coreml-fp16", "model.mlpackage", FP16, convert, load))
add_target(Target("coreml-state-fp16", "stateful.mlpackage", FP16, convert_stateful, load_stateful, keeps_states=True))
