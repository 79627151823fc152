"""Core ML: a package made ready to be called, by Core ML itself on macOS and by our own evaluator elsewhere."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import coremltools
import numpy as np
import torch

from export import mil_reference
from export.targets import Session

MAIN = "main"


def load(path: Path) -> Session:
    """Core ML itself on macOS; elsewhere the program operator by operator, rounded to its type after each."""
    return open_function(path, MAIN)


def open_function(path: Path, name: str) -> Session:
    """As `load`, of the function `name` of a package that holds several sizes."""
    if sys.platform == "darwin":
        model = coremltools.models.MLModel(str(path), function_name=None if name == MAIN else name)
        described = model.get_spec().description
        spec = next((function for function in described.functions if function.name == name), described)

        def predict(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
            result = model.predict({value.name: array for value, array in zip(spec.input, inputs, strict=True)})
            return [np.asarray(result[value.name], dtype=np.float32) for value in spec.output]

        return Session(predict, "executed", macos())
    program = mil_reference.load(path)
    mil_reference.function_of(program, name)  # refused now if there is none
    return Session(
        lambda inputs: mil_reference.evaluate(program, inputs, name=name), "reference-evaluated", reference()
    )


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

        return Session(predict, "executed", macos())
    program = mil_reference.load(path)
    states: dict[str, torch.Tensor] = {}

    def evaluate(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        if inputs[1].item() == 1:
            states.clear()
        return mil_reference.evaluate(program, inputs, states)

    return Session(evaluate, "reference-evaluated", reference())


def macos() -> str:
    """The runtime's name where Core ML runs."""
    return f"Core ML on macOS {platform.mac_ver()[0]}"


def reference() -> str:
    """The evaluator's name."""
    return f"export.mil_reference, coremltools {version('coremltools')}"
