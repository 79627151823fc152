"""ExecuTorch with XNNPACK in int8: static ranges from real inputs, convolutions and linears alone.

Everything else stays fp32 inside the same delegate: norms, whose squares no int8 holds, the sums of temporal taps and
of residuals, correlations, resampling, and what only moves values.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from torch import fx
from torch.export import ExportedProgram
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from export.executorch import XNNPACK, forget_origins, load, methods, open_method, write
from export.reductions import adds_up, attribute
from export.targets import INT8, Conversion, Target, Written, add_target
from toolkit.errors import UserError

TARGET = "executorch-xnnpack-int8"
QUANTIZED = (
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv1d.default,
    torch.ops.aten.convolution.default,
    torch.ops.aten.linear.default,
)


def convert(conversion: Conversion, path: Path) -> Written:
    """Write `path` as a `.pte` whose convolutions and linears compute in int8, all but `wide` and sums.

    Weights have a scale a channel, activations one a tensor. Raises `UserError` without inputs to calibrate on,
    `CheckFailed` where a convolution stays outside the delegate.
    """
    if not conversion.calibration:
        raise UserError(f"{TARGET}: has no inputs to calibrate on; give real ones, as a run's held-out data")
    programs = {
        name: quantize(program, fitted(conversion.calibration, program), conversion.wide)
        for name, program in methods(conversion).items()
    }
    return write(programs, path, XNNPACK)


@torch.no_grad()
def quantize(
    program: ExportedProgram, calibration: Sequence[Sequence[np.ndarray]], wide: frozenset[str] = frozenset()
) -> ExportedProgram:
    """The program with quantized convolutions and linears, their ranges from the `calibration` calls.

    `wide` names nodes that stay fp32, and so do convolutions that only add up: their inputs are squares and products,
    whose range int8 does not hold.
    """
    module = program.module()
    assert isinstance(module, fx.GraphModule)
    part_weights(module)
    config = get_symmetric_quantization_config(is_per_channel=True)
    quantizer = XNNPACKQuantizer()
    for operator in QUANTIZED:
        quantizer.set_operator_type(operator, config)
    quantizer.set_filter_function(lambda node: node.name not in wide and not adds_up(node))
    inputs = [[torch.from_numpy(array) for array in call] for call in calibration]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = prepare_pt2e(module, quantizer)
        for call in inputs:
            prepared(*call)
        converted = convert_pt2e(prepared)
        forget_origins(converted.graph)
        return torch.export.export(converted, tuple(inputs[0]))


def part_weights(module: fx.GraphModule) -> None:
    """Give every user of a weight or bias a copy of its own, for a layer that is called twice.

    The quantizer takes a weight once only, and would leave the second call in fp32 on int8 weights, which XNNPACK
    refuses; and XNNPACK rounds a bias to the scale of one call's input, which is wrong for the other's. In the file
    what is alike is there once.
    """
    for node in [node for node in module.graph.nodes if node.op == "get_attr"]:
        for number, user in enumerate(list(node.users)[1:], 1):
            name = f"{str(node.target).replace('.', '_')}_{number}"
            module.register_buffer(name, attribute(node).detach().clone())
            with module.graph.inserting_before(node):
                own = module.graph.get_attr(name)
            own.meta = dict(node.meta)
            user.replace_input_with(node, own)
    module.recompile()


def fitted(calibration: Sequence[Sequence[np.ndarray]], program: ExportedProgram) -> list[list[np.ndarray]]:
    """The calls with inputs of the program's shapes: of another size they are repeated and cropped."""
    inputs = [node.meta["val"] for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    return [[_fit(array, tuple(x.shape)) for array, x in zip(call, inputs, strict=True)] for call in calibration]


def _fit(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if array.shape == shape:
        return array
    repeated = np.tile(array, [-(-wanted // have) for wanted, have in zip(shape, array.shape, strict=True)])
    return np.ascontiguousarray(repeated[tuple(slice(size) for size in shape)])


add_target(Target(TARGET, "model-int8.pte", INT8, convert, load, open_size=open_method))
