"""The operators of Core ML's ML programs, each by torch's operator of the same meaning.

Arithmetic is done in fp32, whatever the operands; `export.mil_reference` rounds every result to its type. To add one:
a function that takes the operator's inputs by name and gives its result, under `@operator("name")`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from toolkit.errors import CheckFailed

Inputs = dict[str, Any]
Operator = Callable[[Inputs], torch.Tensor | list[torch.Tensor]]

OPERATORS: dict[str, Operator] = {}
DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "int16": torch.int16,
    "uint16": torch.uint16,
    "int32": torch.int32,
    "bool": torch.bool,
}
UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "abs": torch.abs,
    "exp": torch.exp,
    "floor": torch.floor,
    "identity": torch.Tensor.clone,
    "relu": F.relu,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "sign": torch.sign,
    "silu": F.silu,
    "softplus": F.softplus,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tanh": torch.tanh,
}
BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add,
    "equal": torch.eq,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mul": torch.mul,
    "not_equal": torch.ne,
    "pow": torch.pow,
    "real_div": torch.div,
    "sub": torch.sub,
}


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Register the evaluation of MIL operators."""

    def add(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return add


def wide(value: Any) -> torch.Tensor:
    """A tensor in fp32 where it is fp16: arithmetic is wide, results are rounded."""
    tensor = value if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value))
    return tensor.float() if tensor.dtype in (torch.float16, torch.float64) else tensor


def optional(value: Any) -> torch.Tensor | None:
    """An input that may be left out, in fp32 where it is fp16."""
    return None if value is None else wide(value)


def ints(value: Any) -> list[int]:
    """The numbers of a constant."""
    return [int(i) for i in np.asarray(value).ravel()]


def axes_of(given: Inputs) -> list[int]:
    """The input `axes`."""
    return ints(given["axes"])


def _conv_padding(given: Inputs, kernel: Sequence[int], size: Sequence[int]) -> list[int]:
    """(before, after) for each spatial dimension, first to last."""
    kind = str(given["pad_type"])
    if kind == "valid":
        return [0] * (2 * len(kernel))
    if kind == "custom":
        return ints(given["pad"])
    if kind not in ("same", "same_lower"):
        raise CheckFailed(f"Core ML reference: convolution padding '{kind}' is not known")
    padding: list[int] = []
    for k, s, d, n in zip(kernel, ints(given["strides"]), ints(given["dilations"]), size, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        small, large = total // 2, total - total // 2
        padding += [small, large] if kind == "same" else [large, small]
    return padding


@operator("conv")
def _conv(given: Inputs) -> torch.Tensor:
    x, weight = wide(given["x"]), wide(given["weight"])
    spatial = weight.ndim - 2
    padding = _conv_padding(given, weight.shape[2:], x.shape[2:])
    pairs = [padding[2 * i : 2 * i + 2] for i in reversed(range(spatial))]
    padded = F.pad(x, [side for pair in pairs for side in pair])
    strides, dilations, groups = ints(given["strides"]), ints(given["dilations"]), int(given["groups"])
    functions: list[Any] = [F.conv1d, F.conv2d, F.conv3d]
    result = functions[spatial - 1](padded, weight, optional(given.get("bias")), strides, 0, dilations, groups)
    assert isinstance(result, torch.Tensor)
    return result


@operator("conv_transpose")
def _conv_transpose(given: Inputs) -> torch.Tensor:
    x, weight = wide(given["x"]), wide(given["weight"])
    spatial, kind = weight.ndim - 2, str(given["pad_type"])
    if kind not in ("valid", "custom"):
        raise CheckFailed(f"Core ML reference: padding '{kind}' of a transposed convolution is not known")
    strides, dilations, groups = ints(given["strides"]), ints(given["dilations"]), int(given["groups"])
    functions: list[Any] = [F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d]
    whole = functions[spatial - 1](x, weight, optional(given.get("bias")), strides, 0, 0, groups, dilations)
    return _cropped(whole, ints(given["pad"]) if kind == "custom" else [0] * (2 * spatial))


@operator("crop")
def _crop(given: Inputs) -> torch.Tensor:
    return _cropped(wide(given["x"]), [*ints(given["crop_height"]), *ints(given["crop_width"])])


def _cropped(x: torch.Tensor, sides: Sequence[int]) -> torch.Tensor:
    """`x` without so many places (before, after) of its last dimensions, given first to last."""
    pairs = [sides[place : place + 2] for place in reversed(range(0, len(sides), 2))]
    return F.pad(x, [-side for pair in pairs for side in pair])


@operator("linear")
def _linear(given: Inputs) -> torch.Tensor:
    return F.linear(wide(given["x"]), wide(given["weight"]), optional(given.get("bias")))


@operator("matmul")
def _matmul(given: Inputs) -> torch.Tensor:
    x, y = wide(given["x"]), wide(given["y"])
    x = x.transpose(-1, -2) if given.get("transpose_x") else x
    return x @ (y.transpose(-1, -2) if given.get("transpose_y") else y)


@operator("cast")
def _cast(given: Inputs) -> torch.Tensor:
    return torch.as_tensor(given["x"]).to(DTYPES[str(given["dtype"])])


@operator("rsqrt")
def _rsqrt(given: Inputs) -> torch.Tensor:
    return torch.rsqrt(wide(given["x"]) + float(given.get("epsilon") or 0))


@operator("clip")
def _clip(given: Inputs) -> torch.Tensor:
    return wide(given["x"]).clamp(float(given["alpha"]), float(given["beta"]))


@operator("sigmoid_hard")
def _sigmoid_hard(given: Inputs) -> torch.Tensor:
    return (float(given["alpha"]) * wide(given["x"]) + float(given["beta"])).clamp(0, 1)


@operator("thresholded_relu")
def _thresholded_relu(given: Inputs) -> torch.Tensor:
    x = wide(given["x"])
    return torch.where(x >= float(given["alpha"]), x, 0.0)


@operator("gelu")
def _gelu(given: Inputs) -> torch.Tensor:
    return F.gelu(wide(given["x"]), approximate="tanh" if "TANH" in str(given["mode"]) else "none")


@operator("softmax")
def _softmax(given: Inputs) -> torch.Tensor:
    return wide(given["x"]).softmax(int(given["axis"]))


@operator("reduce_mean")
def _reduce_mean(given: Inputs) -> torch.Tensor:
    return wide(given["x"]).mean(axes_of(given), bool(given.get("keep_dims", False)))


@operator("reduce_sum")
def _reduce_sum(given: Inputs) -> torch.Tensor:
    return wide(given["x"]).sum(axes_of(given), bool(given.get("keep_dims", False)))


@operator("reduce_max")
def _reduce_max(given: Inputs) -> torch.Tensor:
    return wide(given["x"]).amax(axes_of(given), bool(given.get("keep_dims", False)))


@operator("reduce_min")
def _reduce_min(given: Inputs) -> torch.Tensor:
    return wide(given["x"]).amin(axes_of(given), bool(given.get("keep_dims", False)))


@operator("reduce_log_sum_exp")
def _reduce_log_sum_exp(given: Inputs) -> torch.Tensor:
    return wide(given["x"]).logsumexp(axes_of(given), bool(given.get("keep_dims", False)))


@operator("reduce_argmax")
def _reduce_argmax(given: Inputs) -> torch.Tensor:
    return wide(given["x"]).argmax(int(given["axis"]), bool(given.get("keep_dims", False)))


@operator("reduce_argmin")
def _reduce_argmin(given: Inputs) -> torch.Tensor:
    return wide(given["x"]).argmin(int(given["axis"]), bool(given.get("keep_dims", False)))


@operator("log")
def _log(given: Inputs) -> torch.Tensor:
    return torch.log(wide(given["x"]) + float(given.get("epsilon") or 0))


@operator("select")
def _select(given: Inputs) -> torch.Tensor:
    return torch.where(wide(given["cond"]).bool(), wide(given["a"]), wide(given["b"]))


@operator("layer_norm")
def _layer_norm(given: Inputs) -> torch.Tensor:
    x, axes = wide(given["x"]), axes_of(given)
    centred = x - x.mean(axes, keepdim=True)
    result = centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + float(given["epsilon"]))
    gamma, beta = optional(given.get("gamma")), optional(given.get("beta"))
    result = result if gamma is None else result * gamma
    return result if beta is None else result + beta


@operator("batch_norm")
def _batch_norm(given: Inputs) -> torch.Tensor:
    mean, variance = wide(given["mean"]), wide(given["variance"])
    gamma, beta = optional(given.get("gamma")), optional(given.get("beta"))
    return F.batch_norm(wide(given["x"]), mean, variance, gamma, beta, eps=float(given["epsilon"]))


@operator("reshape")
def _reshape(given: Inputs) -> torch.Tensor:
    return wide(given["x"]).reshape(ints(given["shape"]))


@operator("transpose")
def _transpose(given: Inputs) -> torch.Tensor:
    return wide(given["x"]).permute(ints(given["perm"]))


@operator("squeeze")
def _squeeze(given: Inputs) -> torch.Tensor:
    x = wide(given["x"])
    return x.squeeze() if given.get("axes") is None else x.squeeze(tuple(axes_of(given)))


@operator("expand_dims")
def _expand_dims(given: Inputs) -> torch.Tensor:
    x = wide(given["x"])
    for axis in sorted(axes_of(given)):
        x = x.unsqueeze(axis)
    return x


@operator("tile")
def _tile(given: Inputs) -> torch.Tensor:
    return wide(given["x"]).repeat(ints(given["reps"]))


@operator("concat")
def _concat(given: Inputs) -> torch.Tensor:
    return torch.cat([wide(value) for value in given["values"]], int(given["axis"]))


@operator("stack")
def _stack(given: Inputs) -> torch.Tensor:
    return torch.stack([wide(value) for value in given["values"]], int(given["axis"]))


@operator("split")
def _split(given: Inputs) -> list[torch.Tensor]:
    x, axis = wide(given["x"]), int(given["axis"])
    sizes = given.get("split_sizes")
    return list(x.chunk(int(given["num_splits"]), axis) if sizes is None else x.split(ints(sizes), axis))


@operator("pad")
def _pad(given: Inputs) -> torch.Tensor:
    x, pad, mode = wide(given["x"]), ints(given["pad"]), str(given["mode"])
    pairs = [pad[2 * i : 2 * i + 2] for i in reversed(range(len(pad) // 2))]
    if mode == "constant":
        return F.pad(x, [side for pair in pairs for side in pair], value=float(given["constant_val"]))
    while len(pairs) > 1 and not any(pairs[-1]):  # torch takes no such padding of the leading dimensions, even of 0
        pairs.pop()
    flat = [side for pair in pairs for side in pair]
    return F.pad(x, flat, mode={"replicate": "replicate", "reflect": "reflect"}[mode])


@operator("pixel_shuffle")
def _pixel_shuffle(given: Inputs) -> torch.Tensor:
    return F.pixel_shuffle(wide(given["x"]), int(given["upscale_factor"]))


@operator("reverse")
def _reverse(given: Inputs) -> torch.Tensor:
    return wide(given["x"]).flip(axes_of(given))


def _pool_padding(given: Inputs, kernel: Sequence[int]) -> list[int]:
    """The padding on both sides of each spatial dimension."""
    padding = _conv_padding({**given, "dilations": [1] * len(kernel)}, kernel, [])
    if str(given["pad_type"]) not in ("valid", "custom") or padding[::2] != padding[1::2]:
        raise CheckFailed("Core ML reference: pooling with unlike padding on two sides is not known")
    return padding[::2]


@operator("max_pool")
def _max_pool(given: Inputs) -> torch.Tensor:
    kernel, strides, ceil = ints(given["kernel_sizes"]), ints(given["strides"]), bool(given["ceil_mode"])
    return F.max_pool2d(wide(given["x"]), kernel, strides, _pool_padding(given, kernel), ceil_mode=ceil)


@operator("avg_pool")
def _avg_pool(given: Inputs) -> torch.Tensor:
    kernel, strides, ceil = ints(given["kernel_sizes"]), ints(given["strides"]), bool(given["ceil_mode"])
    padding, include = _pool_padding(given, kernel), not given["exclude_padding_from_average"]
    return F.avg_pool2d(wide(given["x"]), kernel, strides, padding, ceil, include)


@operator("upsample_nearest_neighbor")
def _upsample_nearest_neighbor(given: Inputs) -> torch.Tensor:
    rows, columns = float(given["scale_factor_height"]), float(given["scale_factor_width"])
    if not rows.is_integer() or not columns.is_integer():
        raise CheckFailed("Core ML reference: nearest neighbours at a factor that is not whole are not known")
    return wide(given["x"]).repeat_interleave(int(rows), -2).repeat_interleave(int(columns), -1)


@operator("upsample_bilinear")
def _upsample_bilinear(given: Inputs) -> torch.Tensor:
    x = wide(given["x"])
    factors = [float(given["scale_factor_height"]), float(given["scale_factor_width"])]
    size = [int(np.floor(places * factor)) for places, factor in zip(x.shape[-2:], factors, strict=True)]
    return F.interpolate(x, size=size, mode="bilinear", align_corners=bool(given["align_corners"]))


@operator("resample")
def _resample(given: Inputs) -> torch.Tensor:
    """`grid_sample`, by coordinates from -1 to 1, x then y."""
    mode, kind = str(given["sampling_mode"]), str(given["coordinates_mode"])
    padding = {"border": "border", "constant": "zeros", "reflection": "reflection"}.get(str(given["padding_mode"]))
    if kind != "normalized_minus_one_to_one" or padding is None or (padding == "zeros" and given["padding_value"] != 0):
        raise CheckFailed("Core ML reference: resampling by these coordinates, or with this padding, is not known")
    corners = bool(given["align_corners"])
    return F.grid_sample(wide(given["x"]), wide(given["coordinates"]), mode, padding, corners)
