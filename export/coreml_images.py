"""Core ML with pictures for tensors: an app passes and gets `CVPixelBuffer`s, RGB of 8 bits a channel.

A video decoder gives each frame as a picture, `frame_0`, `frame_1` ...: the graph scales them from [-1, 1] to 0 to
255, clips and rounds. Optical flow takes its two images as pictures, which Core ML scales to [0, 1] itself.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import coremltools
import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram

from export import mil_reference
from export.coreml_run import macos, reference
from export.coreml_write import Form, Replay, marked, tensor_inputs, tensor_outputs, write
from export.targets import Conversion, Session, Written
from toolkit.bundle import TensorInfo
from toolkit.errors import UserError

TARGET = "coreml-image-fp16"
FRAMES = "frames"
IMAGES = ("image1", "image2")
RGB = coremltools.colorlayout.RGB
LARGEST = 255


def convert_images(conversion: Conversion, path: Path, form: Form) -> Written:
    """Write `path`; raises `UserError` where no input or output is known to be a picture, and on several sizes."""
    names, program = conversion.names, conversion.program
    inputs = tensor_inputs(program, names)
    if conversion.sizes:
        raise UserError(f"{TARGET}: holds one size; export one size, or several with coreml-fp16")
    if FRAMES not in names[len(inputs) :] and not set(IMAGES) <= set(names[: len(inputs)]):
        raise UserError(
            f"{TARGET}: is for video decoders and optical flow, whose pictures it knows; export coreml-fp16, and scale "
            "the pictures in the app"
        )
    given = [_picture(kind) if kind.name in IMAGES else kind for kind in inputs]
    with marked(program, conversion.wide):
        if FRAMES not in names[len(inputs) :]:
            return write(program, path, form, given, tensor_outputs(names[len(inputs) :]))
        pictured, count = _pictured(program)
        others = tensor_outputs(names[len(inputs) + 1 :])
        frames = [coremltools.ImageType(name=name, color_layout=RGB) for name in frame_names(count)]
        return write(pictured, path, form, given, [*frames, *others])


def frame_names(count: int) -> list[str]:
    """The names of a clip's pictures."""
    return [f"frame_{number}" for number in range(count)]


def adapt(
    inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], sample: Mapping[str, np.ndarray]
) -> tuple[list[TensorInfo], list[TensorInfo], dict[str, np.ndarray]]:
    """The signature with pictures, and the sample's frames as such: what `sample.npz` holds of them for devices."""
    given = [
        _described(info.name, info.shape, "picture that Core ML scales to [0, 1]") if info.name in IMAGES else info
        for info in inputs
    ]
    results: list[TensorInfo] = []
    pictures: dict[str, np.ndarray] = {}
    for info in outputs:
        if info.name == FRAMES:
            frames = np.rint(np.clip(sample[FRAMES] * 127.5 + 127.5, 0, LARGEST)).astype(np.uint8)
            pictures = {name: frames[n : n + 1] for n, name in enumerate(frame_names(len(frames)))}
            results += [_described(name, frame.shape, "frame of the video") for name, frame in pictures.items()]
        else:
            results.append(info)
    return given, results, pictures


def load_images(path: Path) -> Session:
    """The package as its PyTorch program is called: images in [0, 1] are rounded to pictures of 8 bits.

    Frames come as pictures `(1, 3, H, W)` of 0 to 255; of a stream, whose states come with them, together as frames in
    [-1, 1].
    """
    spec = coremltools.models.MLModel(str(path), skip_model_load=True).get_spec().description
    pictured = [value.type.WhichOneof("Type") == "imageType" for value in spec.input]
    frames = sum(value.type.WhichOneof("Type") == "imageType" for value in spec.output)
    run = _predict(path) if sys.platform == "darwin" else _evaluate(path)

    def call(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        given = [np.rint(x * LARGEST).clip(0, LARGEST) if p else x for x, p in zip(inputs, pictured, strict=True)]
        results = run(given)
        if not any(value.name.startswith("next_state_") for value in spec.output):
            return results
        return [np.concatenate(results[:frames]) / np.float32(127.5) - 1, *results[frames:]]

    return Session(call, "executed" if sys.platform == "darwin" else "reference-evaluated", _runtime())


def _runtime() -> str:
    return macos() if sys.platform == "darwin" else reference()


def _evaluate(path: Path) -> Any:
    program = mil_reference.load(path)
    return lambda inputs: mil_reference.evaluate(program, inputs)


def _predict(path: Path) -> Any:
    from PIL import Image

    model = coremltools.models.MLModel(str(path))
    spec = model.get_spec().description

    def picture(value: Any, array: np.ndarray) -> Any:
        if value.type.WhichOneof("Type") != "imageType":
            return array
        return Image.fromarray(array[0].transpose(1, 2, 0).astype(np.uint8))

    def array(value: Any, result: Any) -> np.ndarray:
        if value.type.WhichOneof("Type") != "imageType":
            return np.asarray(result, dtype=np.float32)
        return np.asarray(result.convert("RGB"), dtype=np.float32).transpose(2, 0, 1)[None]

    def predict(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        feed = {value.name: picture(value, given) for value, given in zip(spec.input, inputs, strict=True)}
        results = model.predict(feed)
        return [array(value, results[value.name]) for value in spec.output]

    return predict


def _picture(kind: coremltools.TensorType) -> coremltools.ImageType:
    return coremltools.ImageType(name=kind.name, shape=kind.shape, scale=1 / LARGEST, color_layout=RGB)


def _described(name: str, shape: Sequence[int], what: str) -> TensorInfo:
    meaning = f"{what}: an RGB image of {shape[3]}x{shape[2]} (a CVPixelBuffer), 8 bits a channel"
    return TensorInfo(name=name, shape=tuple(shape), dtype="uint8", meaning=meaning)


def _pictured(program: ExportedProgram) -> tuple[ExportedProgram, int]:
    """The program with its first output as pictures, and how many."""
    values = [node.meta["val"] for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    examples = tuple(torch.zeros(value.shape, dtype=value.dtype) for value in values)
    module = Replay(program)
    with torch.no_grad():
        first = module(*examples)
        first = first if isinstance(first, torch.Tensor) else first[0]
        return torch.export.export(_Pictures(module), examples), len(first)


class _Pictures(nn.Module):
    """A decoder whose frames in [-1, 1] come one by one as whole numbers of 0 to 255."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results = self.module(*inputs)
        frames, *others = [results] if isinstance(results, torch.Tensor) else results
        pixels = torch.round(torch.clamp(frames * 127.5 + 127.5, 0.0, float(LARGEST)))
        return (*(pixels[number : number + 1] for number in range(pixels.shape[0])), *others)
