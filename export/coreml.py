"""Core ML: coremltools writes an ML program; macOS executes it, elsewhere our own evaluator interprets it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import coremltools
import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram

from export.coreml_compress import Compression
from export.coreml_images import adapt, convert_images, load_images
from export.coreml_quantize import convert_w8a8
from export.coreml_run import MAIN, load, load_stateful, open_function
from export.coreml_sizes import write_sizes
from export.coreml_write import Form, Replay, marked, tensor_inputs, tensor_outputs, write
from export.targets import FP16, FP32, INT8, Conversion, Target, Written, add_target
from toolkit.errors import CheckFailed, UserError

IOS16, IOS17, IOS18 = coremltools.target.iOS16, coremltools.target.iOS17, coremltools.target.iOS18
HALF = Form(IOS17)


def convert(conversion: Conversion, path: Path, form: Form = HALF) -> Written:
    """Write `path` as an `.mlpackage`, by default in fp16 for iOS 17 and later; inputs and outputs stay fp32.

    With further sizes it holds a function for each, and is for iOS 18 and later.
    """
    names = conversion.names

    def write_one(program: ExportedProgram, path: Path, form: Form) -> Written:
        inputs = tensor_inputs(program, names)
        with marked(program, conversion.wide):
            return write(program, path, form, inputs, tensor_outputs(names[len(inputs) :]))

    if conversion.sizes:
        return write_sizes({MAIN: conversion.program, **conversion.sizes}, path, form, write_one)
    return write_one(conversion.program, path, form)


def convert_stateful(conversion: Conversion, path: Path) -> Written:
    """The same of a stream's step, for iOS 18 and later: Core ML keeps the states, in fp16, from call to call.

    Raises `CheckFailed` on a program without states, `UserError` on several sizes.
    """
    if conversion.sizes:
        raise UserError("coreml-state-fp16: holds one size; export one size, or several with coreml-fp16")
    program, names = conversion.program, conversion.names
    states = [name for name in names if name.startswith("state_")]
    if not states:
        raise CheckFailed("coreml-state-fp16: keeps the states of a stream, and this has none; use --mode stream")
    inputs = [node.meta["val"] for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    examples = [torch.zeros(value.shape) for value in inputs]
    held = examples[len(inputs) - len(states) :]
    kept = [
        coremltools.StateType(coremltools.TensorType(shape=tuple(value.shape), dtype=np.float16), name=name)
        for name, value in zip(states, held, strict=True)
    ]
    named = [name for name in names if not name.removeprefix("next_").startswith("state_")]
    with marked(program, conversion.wide):
        step = _Stateful(Replay(program), held)
        with torch.no_grad():
            stateful = torch.export.export(step, tuple(examples[: len(inputs) - len(states)]))
        given = tensor_inputs(stateful, named)
        return write(stateful, path, Form(IOS18), given, tensor_outputs(named[len(given) :]), states=kept)


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


#: What is written under each precision, and how close it must be.
FORMS = {
    "coreml-fp32": (Form(IOS17, coremltools.precision.FLOAT32), FP32),
    "coreml-ios16-fp16": (Form(IOS16), FP16),
    "coreml-ios18-fp16": (Form(IOS18), FP16),
    "coreml-int8": (Form(IOS17, compression=Compression(8)), INT8),
    "coreml-int4": (Form(IOS18, compression=Compression(4, grouped=True)), INT8),
    "coreml-pal8": (Form(IOS17, compression=Compression(8, palette=True)), INT8),
    "coreml-pal6": (Form(IOS17, compression=Compression(6, palette=True)), INT8),
    "coreml-pal4": (Form(IOS18, compression=Compression(4, palette=True, grouped=True)), INT8),
}

add_target(Target("coreml-fp16", "model.mlpackage", FP16, convert, load, open_size=open_function))
for _name, (_form, _tolerance) in FORMS.items():
    _file = f"{_name.removeprefix('coreml-')}.mlpackage"
    _sizes = None if _form.deployment is IOS16 else open_function
    add_target(Target(_name, _file, _tolerance, partial(convert, form=_form), load, open_size=_sizes))
add_target(Target("coreml-w8a8", "w8a8.mlpackage", INT8, partial(convert_w8a8, form=HALF), load))
_image = partial(convert_images, form=HALF)
add_target(Target("coreml-image-fp16", "image-fp16.mlpackage", FP16, _image, load_images, adapt=adapt))
add_target(Target("coreml-state-fp16", "stateful.mlpackage", FP16, convert_stateful, load_stateful, keeps_states=True))
