"""Further functions of numbers among the MIL operators: elementwise ones, activations, reductions, norms, attention."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from export.mil_operators import BINARY, UNARY, Inputs, axes_of, operator, wide
from toolkit.errors import CheckFailed

UNARY.update(
    {
        "acos": torch.acos,
        "acosh": torch.acosh,
        "asin": torch.asin,
        "asinh": torch.asinh,
        "atan": torch.atan,
        "atanh": torch.atanh,
        "ceil": torch.ceil,
        "cos": torch.cos,
        "cosh": torch.cosh,
        "erf": torch.erf,
        "exp2": torch.exp2,
        "logical_not": torch.logical_not,
        "sin": torch.sin,
        "sinh": torch.sinh,
        "softsign": F.softsign,
        "tan": torch.tan,
    }
)
BINARY.update(
    {
        "floor_div": torch.floor_divide,
        "logical_and": torch.logical_and,
        "logical_or": torch.logical_or,
        "logical_xor": torch.logical_xor,
        "mod": torch.remainder,
    }
)


def _kept(given: Inputs) -> bool:
    return bool(given.get("keep_dims", False))


def _channels(value: object, rank: int) -> torch.Tensor:
    """One number a channel, to be multiplied with `(N, C, ...)`."""
    return wide(value).reshape(1, -1, *[1] * (rank - 2))


@operator("inverse")
def _inverse(given: Inputs) -> torch.Tensor:
    return 1 / (wide(given["x"]) + float(given.get("epsilon") or 0))


@operator("threshold")
def _threshold(given: Inputs) -> torch.Tensor:
    return wide(given["x"]).clamp(min=float(given["alpha"]))


@operator("elu")
def _elu(given: Inputs) -> torch.Tensor:
    return F.elu(wide(given["x"]), float(given["alpha"]))


@operator("leaky_relu")
def _leaky_relu(given: Inputs) -> torch.Tensor:
    return F.leaky_relu(wide(given["x"]), float(given["alpha"]))


@operator("prelu")
def _prelu(given: Inputs) -> torch.Tensor:
    return F.prelu(wide(given["x"]), wide(given["alpha"]))


@operator("linear_activation")
def _linear_activation(given: Inputs) -> torch.Tensor:
    return float(given["alpha"]) * wide(given["x"]) + float(given.get("beta") or 0)


@operator("clamped_relu")
def _clamped_relu(given: Inputs) -> torch.Tensor:
    return F.leaky_relu(wide(given["x"]), float(given["alpha"])).clamp(max=float(given["beta"]))


@operator("scaled_tanh")
def _scaled_tanh(given: Inputs) -> torch.Tensor:
    return float(given["alpha"]) * torch.tanh(float(given["beta"]) * wide(given["x"]))


@operator("softplus_parametric")
def _softplus_parametric(given: Inputs) -> torch.Tensor:
    x = wide(given["x"])
    return _channels(given["alpha"], x.ndim) * F.softplus(_channels(given["beta"], x.ndim) * x)


@operator("reduce_prod")
def _reduce_prod(given: Inputs) -> torch.Tensor:
    x = wide(given["x"])
    rank = x.ndim
    for axis in axes_of(given):
        x = x.prod(axis, keepdim=True)
    return x if _kept(given) else x.squeeze(tuple(axis % rank for axis in axes_of(given)))


@operator("reduce_l1_norm")
def _reduce_l1_norm(given: Inputs) -> torch.Tensor:
    return wide(given["x"]).abs().sum(axes_of(given), _kept(given))


@operator("reduce_l2_norm")
def _reduce_l2_norm(given: Inputs) -> torch.Tensor:
    return wide(given["x"]).square().sum(axes_of(given), _kept(given)).sqrt()


@operator("reduce_sum_square")
def _reduce_sum_square(given: Inputs) -> torch.Tensor:
    return wide(given["x"]).square().sum(axes_of(given), _kept(given))


@operator("reduce_log_sum")
def _reduce_log_sum(given: Inputs) -> torch.Tensor:
    return wide(given["x"]).sum(axes_of(given), _kept(given)).log()


@operator("cumsum")
def _cumsum(given: Inputs) -> torch.Tensor:
    x, axis = wide(given["x"]), int(given["axis"])
    if given.get("reverse"):
        x = x.flip(axis)
    total = x.cumsum(axis).to(x.dtype)
    total = total - x if given.get("exclusive") else total
    return total.flip(axis) if given.get("reverse") else total


@operator("instance_norm")
def _instance_norm(given: Inputs) -> torch.Tensor:
    x = wide(given["x"])
    result = F.instance_norm(x, eps=float(given["epsilon"]))
    if given.get("gamma") is not None:
        result = result * _channels(given["gamma"], x.ndim)
    return result if given.get("beta") is None else result + _channels(given["beta"], x.ndim)


@operator("l2_norm")
def _l2_norm(given: Inputs) -> torch.Tensor:
    """Over all but the batch: the last three dimensions."""
    x = wide(given["x"])
    return x * torch.rsqrt(x.square().sum((-3, -2, -1), keepdim=True) + float(given["epsilon"]))


@operator("scaled_dot_product_attention")
def _scaled_dot_product_attention(given: Inputs) -> torch.Tensor:
    mask = given.get("attn_mask")
    if mask is not None:
        mask = torch.from_numpy(mask) if isinstance(mask, np.ndarray) else mask
        mask = mask if mask.dtype == torch.bool else mask.float()
    query, key, value = (wide(given[name]) for name in ("query", "key", "value"))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


@operator("einsum")
def _einsum(given: Inputs) -> torch.Tensor:
    return torch.einsum(str(given["equation"]), *[wide(value) for value in given["values"]])


@operator("band_part")
def _band_part(given: Inputs) -> torch.Tensor:
    x, lower, upper = wide(given["x"]), int(given["lower"]), int(given["upper"])
    x = x.triu(-lower) if lower >= 0 else x
    return x.tril(upper) if upper >= 0 else x


@operator("fill")
def _fill(given: Inputs) -> torch.Tensor:
    return torch.full([int(side) for side in np.asarray(given["shape"]).ravel()], np.asarray(given["value"]).item())


@operator("fill_like")
def _fill_like(given: Inputs) -> torch.Tensor:
    return torch.full(tuple(wide(given["ref_tensor"]).shape), np.asarray(given["value"]).item())


@operator("range_1d")
def _range_1d(given: Inputs) -> torch.Tensor:
    start, end, step = (wide(given[name]).item() for name in ("start", "end", "step"))
    if step == 0:
        raise CheckFailed("Core ML reference: a range with steps of 0 is not known")
    return torch.arange(start, end, step)
