"""Quantization-aware training: a student learns with the rounding that int8 will bring (arXiv 1712.05877, section 3).

Weights are rounded to int8 for each channel of the output, and what a layer takes to int8 as a whole, by the ranges
that training met. Gradients pass through the rounding. The fake quantization sits on the layers as hooks and not, as
torchao's PT2E puts it, in an exported graph: that has no blocks whose features could be compared with a teacher's, and
its weights are not the student's by name. The result is a student like any other, which `handheld export` quantizes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchao.quantization.pt2e import FakeQuantize, MovingAverageMinMaxObserver

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, *TRANSPOSED)
LARGEST = 127  # of weights, symmetric about 0
SMALLEST_SCALE = 1e-12  # of a channel whose weights are all 0


class QuantizationAwareness(nn.Module):
    """Fake int8 in the convolutions and linears of one student; off until `enable`.

    It holds the range of what each layer takes. `attach` puts it on a module with the layers of `student`: on the
    student itself, whose ranges it follows while that trains, and on its average, which it gives the same.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.on = False
        self.names = [name for name, layer in student.named_modules() if isinstance(layer, LAYERS)]
        self.ranges = nn.ModuleList(_follower() for _ in self.names)

    def enable(self, on: bool) -> None:
        """Whether attached modules compute with rounded numbers."""
        self.on = on

    def attach(self, module: nn.Module) -> None:
        """Round what the layers of `module` compute with, whenever this is on."""
        for name, follower in zip(self.names, self.ranges, strict=True):
            layer = module.get_submodule(name)
            layer.register_forward_pre_hook(_Rounding(self, follower))
            layer.register_forward_hook(_unrounded, always_call=True)


class _Rounding:
    """Before a layer's forward: its weight and its input, rounded."""

    def __init__(self, awareness: QuantizationAwareness, follower: nn.Module) -> None:
        self.awareness, self.follower = awareness, follower

    def __call__(self, layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        if not self.awareness.on:
            return given
        assert isinstance(self.follower, FakeQuantize)
        self.follower.enable_observer(layer.training)
        # found ahead of the parameter of this name, which stays where the optimizer and the average look for it
        layer.__dict__["weight"] = rounded_weight(layer)
        x, *others = given
        return (self.follower(x.float()).to(x.dtype), *others)


def _unrounded(layer: nn.Module, _given: Any, _result: Any) -> None:
    layer.__dict__.pop("weight", None)


def rounded_weight(layer: nn.Module) -> torch.Tensor:
    """The layer's weight as int8 for each channel of its output would hold it."""
    weight = layer.get_parameter("weight")
    axis = 1 if isinstance(layer, TRANSPOSED) else 0
    others = [dim for dim in range(weight.ndim) if dim != axis]
    scale = weight.detach().abs().amax(others).clamp(min=SMALLEST_SCALE) / LARGEST
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, axis, -LARGEST, LARGEST)


def _follower() -> FakeQuantize:
    """int8 of a whole tensor, by a moving average of the least and the largest number met."""
    return FakeQuantize(
        observer=MovingAverageMinMaxObserver,
        quant_min=-128,
        quant_max=127,
        dtype=torch.int8,
        qscheme=torch.per_tensor_affine,
    )
