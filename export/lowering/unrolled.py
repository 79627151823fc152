"""The unrolled layout: a graph in which every frame is a tensor of its own, batch 1 throughout."""

from __future__ import annotations

from torch import fx

from export.lowering.emit import Emitter
from export.lowering.frames import Recorder, one_by_one


def unroll(folded: fx.GraphModule) -> fx.GraphModule:
    """A folded rank-4 graph, frame by frame: the same inputs and outputs, cut and joined at the ends only.

    For back ends whose convolutions take batch 1 only, as those of ExecuTorch's Vulkan do.
    """
    recorder = Recorder(folded, one_by_one)
    emitter = Emitter(recorder.constants)
    for number, pieces in enumerate(recorder.inputs):
        emitter.input(f"input_{number}", pieces)
    outputs = [emitter.gather(output.refs) for output in recorder.outputs]
    return emitter.module(outputs[0] if len(outputs) == 1 else outputs)
