"""Talking to a native runner as the host does, and the tiny programs that tests give it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

TIMEOUT_S = 120

#: How an arm64 program is run on another machine. The processor is named because qemu's default one computes int8 in
#: another way than real ones.
QEMU = ("qemu-aarch64-static", "-cpu", "cortex-a76", "-L", "/usr/aarch64-linux-gnu")


class TwoOfTwo(torch.nn.Module):
    """Two inputs and two outputs of different shapes, part of it convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, video: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.convolution(video))
        return hidden + bias, torch.cat([hidden, hidden * 2], dim=1)


def two_inputs() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(size=shape).astype(np.float32) for shape in ((1, 4, 5, 6), (1, 3, 5, 6))]


def to_executorch(module: torch.nn.Module, inputs: Sequence[np.ndarray], path: Path) -> Path:
    """Write `module` as a program whose convolutions XNNPACK runs."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    exported = torch.export.export(module.eval(), tuple(torch.from_numpy(array) for array in inputs))
    program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    path.write_bytes(program.buffer)
    return path


def by_pytorch(module: torch.nn.Module, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    with torch.no_grad():
        outputs = module.eval()(*[torch.from_numpy(array) for array in inputs])
    return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else [outputs])]


@dataclass(frozen=True)
class Talk:
    """What a runner said, event by event, its exit code, and its log."""

    events: list[dict[str, Any]]
    code: int
    log: str

    @property
    def kinds(self) -> list[str]:
        return [event["event"] for event in self.events]

    @property
    def last(self) -> dict[str, Any]:
        return self.events[-1]


def talk(program: Sequence[str | Path], *commands: str, folder: Path) -> Talk:
    """Start a runner in `folder`, give it `commands`, then the end of its input. Every line it prints must be JSON."""
    given = "".join(f"{command}\n" for command in commands)
    done = subprocess.run(program, input=given.encode(), capture_output=True, cwd=folder, timeout=TIMEOUT_S)
    events = [json.loads(line) for line in done.stdout.decode().splitlines()]
    return Talk(events, done.returncode, done.stderr.decode(errors="replace"))


def write_inputs(inputs: Sequence[np.ndarray], folder: Path) -> list[str]:
    """Write raw files, and give the arguments that name them."""
    arguments = []
    for number, array in enumerate(inputs):
        (folder / f"input{number}.bin").write_bytes(array.tobytes())
        sides = "x".join(map(str, array.shape))
        arguments += ["--input", f"{array.dtype}:{sides}:input{number}.bin"]
    return arguments


def read_outputs(event: dict[str, Any], folder: Path) -> list[np.ndarray]:
    return [
        np.frombuffer((folder / file["path"]).read_bytes(), file["dtype"]).reshape(file["shape"])
        for file in event["files"]
    ]
