"""Core ML: weights and activations in 8 bits, by torchao's quantization of exported programs (PT2E).

What is quantized is decided by Core ML's quantizer, which ExecuTorch ships for torchao; ranges are those of the
calibration inputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import torch
from coremltools.optimize.torch.quantization import LinearQuantizerConfig, ModuleLinearQuantizerConfig
from executorch.backends.apple.coreml.quantizer import CoreMLQuantizer
from executorch.backends.apple.coreml.quantizer import _coreml_quantizer_utils as patterns
from executorch.backends.apple.coreml.quantizer._annotation_config import AnnotationConfig
from executorch.backends.apple.coreml.quantizer._coreml_quantizer import _AnnotationPatternRegistry
from torch import fx
from torch._ops import OpOverload
from torch.nn import functional
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from export.coreml_write import Form, tensor_inputs, tensor_outputs, write
from export.graphs import coordinates, operator_name
from export.reductions import LAYERS, adds_up, attribute
from export.targets import Conversion, Written
from toolkit.errors import UserError

#: Apple's default scheme: weights symmetric, one scale an output channel; activations one scale and zero point.
CONFIG = {"quantization_scheme": "symmetric", "activation_observer": "min_max", "weight_observer": "min_max"}
#: The activations that are quantized together with what is before them, by their names in graphs.
ACTIVATIONS = (
    *("relu", "relu6", "leaky_relu", "silu", "elu", "celu", "selu", "mish", "hardtanh", "hardswish", "hardsigmoid"),
    *("gelu", "sigmoid", "logsigmoid", "tanh"),
)


class _Quantizer(CoreMLQuantizer):  # type: ignore[misc]  # its package has no types
    """Core ML's own, that lets some nodes be: their weights and what they compute stay fp16."""

    def __init__(self, wide: Collection[str]) -> None:
        super().__init__(LinearQuantizerConfig.from_dict({"global_config": dict(CONFIG)}))
        self.wide = wide

    def _annotate_all_patterns(
        self,
        model: fx.GraphModule,
        quantization_config: ModuleLinearQuantizerConfig | None,
        filter_fn: Callable[[fx.Node], bool] | None = None,
    ) -> None:
        """The patterns of Core ML's quantizer whose operators `model` has; it tries some 500, which takes a minute."""
        config = AnnotationConfig.from_quantization_config(quantization_config)
        names = {str(node.target).split(".")[1] for node in model.graph.nodes if isinstance(node.target, OpOverload)}
        activations = [*(getattr(functional, name) for name in ACTIVATIONS if name in names), None]
        weighted = [partial(patterns.get_conv_pattern, dim) for dim in (1, 2) if f"conv{dim}d" in names]
        weighted += [patterns.get_linear_pattern] if "linear" in names else []
        for activation in activations:
            for make in weighted:
                patterns.annotate_weighted_mod_pattern(model, make(activation), config, filter_fn)
        for activation in activations:
            for binary in (torch.add, torch.mul, torch.matmul):
                if binary.__name__ in names:
                    made = patterns.get_binary_op_act_pattern(binary, activation)
                    patterns.annotate_binary_op_act_pattern(model, made, config, filter_fn)
        for name, annotator in _AnnotationPatternRegistry.get_annotators().items():
            if "pool" in name or name == "flatten":
                annotator(model, config, filter_fn)

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        """Say of every node how it is quantized, but of the wide ones, of norms, of a sampling's coordinates, and of
        the activations and sums after any of them."""
        annotated: fx.GraphModule = super().annotate(model)
        spared = norms_of(annotated.graph) | coordinates(annotated.graph.nodes)
        spared |= {node for node in annotated.graph.nodes if node.name in self.wide or _has_constant(node)}
        spared |= {user for node in spared for user in node.users if operator_name(user.target) in ACTIVATIONS}
        spared |= {user for node in spared for user in node.users if operator_name(user.target) == "add"}
        for node in spared:
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
        module = conversion.program.module()
        assert isinstance(module, fx.GraphModule)
        fold(module)
        prepared = prepare_pt2e(module, _Quantizer(conversion.wide))
        calls = [tuple(torch.from_numpy(array) for array in arrays) for arrays in conversion.calibration]
        for call in calls:
            prepared(*call)
        program = torch.export.export(convert_pt2e(prepared), calls[0])
    inputs = tensor_inputs(program, names)
    return write(program, path, form, inputs, tensor_outputs(names[len(inputs) :]))


def fold(module: fx.GraphModule) -> None:
    """Make factors and offsets of each channel, which batch norms become, part of the convolution before them.

    Else 8 bits would hold what is between them too, whose range differs from channel to channel.
    """
    for node in list(module.graph.nodes):
        if node.target not in (torch.ops.aten.mul.Tensor, torch.ops.aten.add.Tensor) or node.kwargs:
            continue
        layer, constant = node.args
        if not (_is_conv(layer) and len(layer.users) == 1 and isinstance(constant, fx.Node)):
            continue
        if constant.op != "get_attr" or attribute(constant).shape != (1, layer.meta["val"].shape[1], 1, 1):
            continue
        _fold_one(module, layer, attribute(constant).flatten(), is_factor=node.target is torch.ops.aten.mul.Tensor)
        node.replace_all_uses_with(layer)
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _fold_one(module: fx.GraphModule, layer: fx.Node, values: torch.Tensor, *, is_factor: bool) -> None:
    """Give a convolution weights and biases of its own, with a factor or an offset for each output channel in them."""
    x, weight, *others = layer.args
    bias, *settings = others or [None]
    assert isinstance(weight, fx.Node)
    biases = attribute(bias).detach() if isinstance(bias, fx.Node) else torch.zeros_like(values)

    def own(name: str, tensor: torch.Tensor) -> fx.Node:
        module.register_buffer(f"folded_{layer.name}_{name}", tensor)
        node = module.graph.get_attr(f"folded_{layer.name}_{name}")
        node.meta["val"] = tensor
        return node

    with module.graph.inserting_before(layer):
        if is_factor:
            weight = own("weight", attribute(weight).detach() * values.reshape(-1, 1, 1, 1))
        bias = own("bias", biases * values if is_factor else biases + values)
    layer.args = (x, weight, bias, *settings)


def _is_conv(node: object) -> bool:
    return (
        isinstance(node, fx.Node)
        and node.target is torch.ops.aten.conv2d.default
        and isinstance(node.args[1], fx.Node)
        and node.args[1].op == "get_attr"
    )


def norms_of(graph: fx.Graph) -> set[fx.Node]:
    """What makes up norms by `rsqrt`: from the squares on, which 8 bits do not hold, to the products with the result.

    The smallest of 255 levels is 0, of which `rsqrt` makes an infinity.
    """
    roots = [node for node in graph.nodes if node.target is torch.ops.aten.rsqrt.default]
    found = {user for root in roots for user in root.users}
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if node.op == "call_function" and node not in found and (adds_up(node) or str(node.target) not in LAYERS):
            found.add(node)
            waiting += [] if _is_square(node) else node.all_input_nodes
    return found


def _has_constant(node: fx.Node) -> bool:
    """Whether a sum or product has one operand that nothing computes: it is cheap, and in 8 bits only loses."""
    binary = node.target in (torch.ops.aten.mul.Tensor, torch.ops.aten.add.Tensor)
    return binary and not all(isinstance(arg, fx.Node) and arg.op != "get_attr" for arg in node.args)


def _is_square(node: fx.Node) -> bool:
    return node.target is torch.ops.aten.pow.Tensor_Scalar or (
        node.target is torch.ops.aten.mul.Tensor and node.args[0] is node.args[1]
    )
