"""Core ML: weights and activations in 8 bits, by torchao's quantization of exported programs (PT2E).

What is quantized is decided by Core ML's quantizer, which ExecuTorch ships for torchao; ranges are those of the
calibration inputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path

import torch
from coremltools.optimize.torch.quantization import LinearQuantizerConfig
from executorch.backends.apple.coreml.quantizer import CoreMLQuantizer
from torch import fx
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from export.coreml_write import Form, tensor_inputs, tensor_outputs, write
from export.targets import Conversion, Written
from toolkit.errors import UserError

#: Apple's default scheme: weights symmetric, one scale an output channel; activations one scale and zero point.
CONFIG = {"quantization_scheme": "symmetric", "activation_observer": "min_max", "weight_observer": "min_max"}


class _Quantizer(CoreMLQuantizer):  # type: ignore[misc]  (its package has no types)
    """Core ML's own, that lets some nodes be: their weights and what they compute stay fp16."""

    def __init__(self, wide: Collection[str]) -> None:
        super().__init__(LinearQuantizerConfig.from_dict({"global_config": dict(CONFIG)}))
        self.wide = wide

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        """Say of every node how it is quantized, but of the wide ones."""
        annotated: fx.GraphModule = super().annotate(model)
        for node in annotated.graph.nodes:
            if node.name in self.wide:
                node.meta.pop(Q_ANNOTATION_KEY, None)
        return annotated


def convert_w8a8(conversion: Conversion, path: Path, form: Form) -> Written:
    """Write `path` with 8-bit weights and activations, calibrated on `conversion.calibration`; the rest is fp16.

    Raises `UserError` without calibration inputs, and on several sizes: ranges of one are not those of another.
    """
    if not conversion.calibration:
        raise UserError("coreml-w8a8: has no inputs to calibrate on; export from a run, whose held-out data it takes")
    if conversion.sizes:
        raise UserError("coreml-w8a8: is calibrated for one size; export one size, or another Core ML target")
    names = conversion.names
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        prepared = prepare_pt2e(conversion.program.module(), _Quantizer(conversion.wide))
        calls = [tuple(torch.from_numpy(array) for array in arrays) for arrays in conversion.calibration]
        for call in calls:
            prepared(*call)
        program = torch.export.export(convert_pt2e(prepared), calls[0])
    inputs = tensor_inputs(program, names)
    return write(program, path, form, inputs, tensor_outputs(names[len(inputs) :]))
