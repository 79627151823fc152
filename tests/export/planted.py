"""Small models, and artifacts of them in which one thing was changed by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools
import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from export.calls import Call, clip_call
from export.sources import Source
from export.targets import Conversion, find_target


class Net(nn.Module):
    """Three convolutions, a norm over channels, two activations and a skip, for pictures (1, 4, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.third = nn.Conv2d(6, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.first(x))
        y = y * torch.rsqrt(y.square().mean(1, keepdim=True) + 0.1)
        y = self.second(y) + y
        return torch.sigmoid(self.third(y)) - x


def call_of(module: nn.Module | None = None, *shape: int) -> Call:
    """The call of a module, by default of `Net`, with one further real input."""
    torch.manual_seed(0)
    module = (Net() if module is None else module).eval()
    inputs = torch.randn(shape or (1, 4, 8, 8))
    source = Source("net", module, (inputs,), "module", "Net", ("x",), (), task=None)
    with torch.no_grad():
        return clip_call(source)


def converted(target: str, call: Call, folder: Path) -> Path:
    """The artifact of a target."""
    chosen = find_target(target)
    path = folder / chosen.file_name
    with torch.no_grad():
        chosen.convert(Conversion(call.program, call.names, call.calibration), path)
    return path


def inputs_of(call: Call) -> list[np.ndarray]:
    return [call.sample[info.name] for info in call.inputs]


def change_onnx_weight(path: Path, name: str) -> None:
    """One number in the middle of the initializer whose name holds `name`."""
    model = onnx.load(path)
    (held,) = [tensor for tensor in model.graph.initializer if name in tensor.name]
    array = numpy_helper.to_array(held).copy()
    array.flat[array.size // 2] += 0.5
    held.CopyFrom(numpy_helper.from_array(array, held.name))
    onnx.save(model, path)


def replace_onnx_operator(path: Path, old: str, new: str, place: int = 0) -> str:
    """The `place`-th operator called `old` becomes `new`; returns the name of its output."""
    model = onnx.load(path)
    node = [node for node in model.graph.node if node.op_type == old][place]
    node.op_type = new
    onnx.save(model, path)
    return str(node.output[0])


def change_coreml_weight(path: Path, weight: torch.Tensor) -> None:
    """The first number of a weight, found in the weight file by its bytes in fp16."""
    _change_bytes(next(path.rglob("weight.bin")), weight.detach().half().numpy().tobytes(), np.float16(3).tobytes())


def change_coreml_program(path: Path, change: Callable[[Any], None]) -> None:
    """Call `change` with the operations of the program's main block, and write them back."""
    file = next(path.rglob("model.mlmodel"))
    spec = coremltools.models.utils.load_spec(str(file))
    function = spec.mlProgram.functions["main"]
    change(function.block_specializations[function.opset].operations)
    coremltools.models.utils.save_spec(spec, str(file))


def change_pte_weight(path: Path, weight: torch.Tensor) -> None:
    """The first number of a weight that XNNPACK keeps with its channels last."""
    stored = weight.detach().permute(0, 2, 3, 1).contiguous().numpy().tobytes()
    _change_bytes(path, stored, np.float32(3).tobytes())


def change_delegate_weight(path: Path, weight: torch.Tensor) -> None:
    """The first number of a weight that a delegate of a `.pte` keeps in fp16."""
    _change_bytes(path, weight.detach().half().numpy().tobytes(), np.float16(3).tobytes())


def _change_bytes(path: Path, found: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(found) == 1
    start = content.index(found)
    path.write_bytes(content[:start] + new + content[start + len(new) :])
