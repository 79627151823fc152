"""ExecuTorch with Vulkan in fp16, for Android: every frame a tensor of its own, because its convolutions take batch 1.

The runtime of this host has no Vulkan: the graph is read back out of the file and evaluated
(`export.executorch_vulkan_graph`).
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import fx
from torch.export import ExportedProgram

from export import executorch
from export.executorch import FORWARD, Delegate, methods
from export.executorch_reference import open_delegated
from export.executorch_sparing import Sparing
from export.executorch_vulkan_graph import VulkanPartitioner, open_graph
from export.lowering.lower import program_of
from export.lowering.unrolled import unroll
from export.targets import FP16, Conversion, Session, Target, Written, add_target
from toolkit.errors import UserError

TARGET = "executorch-vulkan-fp16"
BACKEND = "VulkanBackend"


def convert(conversion: Conversion, path: Path) -> Written:
    """Write `path` as a `.pte` whose convolutions all sit in Vulkan delegates; inputs and outputs stay fp32.

    Raises `UserError` where nodes are to stay `wide`, `CheckFailed` where a convolution stays outside.
    """
    if conversion.wide:
        raise UserError(f"{TARGET}: a delegate has one precision; keep operators wide with another target")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return executorch.write(methods(conversion), path, VULKAN)


def load(path: Path) -> Session:
    """The method `forward`: executed where ExecuTorch has Vulkan here, else its graph is evaluated."""
    return open_method(path, FORWARD)


def open_method(path: Path, name: str) -> Session:
    """One method of the file, as `load`."""
    return open_delegated(path, name, BACKEND, open_graph, "export.executorch_vulkan_graph")


def frame_by_frame(program: ExportedProgram) -> ExportedProgram:
    """The same numbers with batch 1 throughout: what works frame by frame is written out once a frame."""
    inputs = [node.meta["val"] for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    module = program.module()
    assert isinstance(module, fx.GraphModule)
    if all(value.ndim == 0 or value.shape[0] == 1 for value in inputs) and not _batched(program):
        return program
    return program_of(unroll(module), [torch.zeros(value.shape, dtype=value.dtype) for value in inputs])


def _batched(program: ExportedProgram) -> bool:
    """Whether any convolution takes more than one frame."""
    taken = [node.args[0] for node in program.graph.nodes if "conv" in str(node.target)]
    return any(isinstance(x, fx.Node) and x.meta["val"].shape[0] != 1 for x in taken)


VULKAN = Delegate("vulkan", "Vulkan", lambda: Sparing(VulkanPartitioner({"force_fp16": True})), frame_by_frame)

add_target(Target(TARGET, "model-vulkan.pte", FP16, convert, load, open_size=open_method, one_precision=True))
