"""The operators of Core ML's programs over 8-bit numbers: quantized activations, and pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from export.mil_operators import DTYPES, UNARY, Inputs, operator, wide
from toolkit.errors import CheckFailed

DTYPES.update({"int8": torch.int8, "uint8": torch.uint8})
UNARY["round"] = torch.round


def _along(value: Any, given: Inputs, rank: int) -> torch.Tensor:
    """A scale or zero point, shaped to its axis where it has one entry a channel."""
    tensor = torch.as_tensor(np.asarray(value)).float()
    if tensor.ndim == 0:
        return tensor
    if given.get("axis") is None:
        raise CheckFailed("Core ML reference: scales of several channels without their axis are not known")
    shape = [1] * rank
    shape[int(given["axis"])] = -1
    return tensor.reshape(shape)


def _zero(given: Inputs, rank: int) -> torch.Tensor:
    point = given.get("zero_point")
    return torch.zeros(()) if point is None else _along(point, given, rank)


@operator("quantize")
def _quantize(given: Inputs) -> torch.Tensor:
    """Whole numbers of `scale` from `zero_point`, as many as the type holds."""
    x, dtype = wide(given["input"]), DTYPES[str(given["output_dtype"])]
    whole = torch.round(x / _along(given["scale"], given, x.ndim)) + _zero(given, x.ndim)
    limits = torch.iinfo(dtype)
    return whole.clamp(limits.min, limits.max).to(dtype)


@operator("dequantize")
def _dequantize(given: Inputs) -> torch.Tensor:
    x = torch.as_tensor(np.asarray(given["input"])).float()
    return (x - _zero(given, x.ndim)) * _along(given["scale"], given, x.ndim)
