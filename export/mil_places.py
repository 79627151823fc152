"""MIL operators that take, put or sort places of a tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from export.mil_operators import Inputs, ints, operator, wide
from toolkit.errors import CheckFailed

_MASKS = ("begin_mask", "end_mask", "squeeze_mask")
#: How `scatter` and its kin put numbers where some are, as torch calls it; None overwrites.
_MODES = {"update": None, "add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _places(value: Any, size: int) -> torch.Tensor:
    """Indices, of which negative ones count from the end."""
    places = torch.as_tensor(np.array(value) if not isinstance(value, torch.Tensor) else value).long()
    return torch.where(places < 0, places + size, places)


def _index(given: Inputs, rank: int) -> tuple[Any, ...]:
    """What `begin`, `end`, `stride` and their masks say, for torch."""
    begin, end = ints(given["begin"]), ints(given["end"])
    stride = ints(given["stride"]) if given.get("stride") is not None else [1] * rank
    masks = {key: list(given[key]) if given.get(key) is not None else [False] * rank for key in _MASKS}
    index: list[Any] = []
    for axis in range(rank):
        if masks["squeeze_mask"][axis]:
            index.append(begin[axis])
            continue
        first = None if masks["begin_mask"][axis] else begin[axis]
        last = None if masks["end_mask"][axis] else end[axis]
        index.append(slice(first, last, stride[axis]))
    return tuple(index)


@operator("slice_by_index")
def _slice_by_index(given: Inputs) -> torch.Tensor:
    x = wide(given["x"])
    return x[_index(given, x.ndim)]


@operator("slice_update")
def _slice_update(given: Inputs) -> torch.Tensor:
    x = wide(given["x"]).clone()
    x[_index(given, x.ndim)] = wide(given["update"])
    return x


@operator("slice_by_size")
def _slice_by_size(given: Inputs) -> torch.Tensor:
    x = wide(given["x"])
    begin, size = ints(given["begin"]), ints(given["size"])
    return x[tuple(slice(b, None if s == -1 else b + s) for b, s in zip(begin, size, strict=True))]


@operator("gather")
def _gather(given: Inputs) -> torch.Tensor:
    x = wide(given["x"])
    if int(given.get("batch_dims") or 0):
        raise CheckFailed("Core ML reference: gather with batch dimensions is not known")
    axis = int(given["axis"]) % x.ndim
    places = _places(given["indices"], x.shape[axis])
    taken = x.index_select(axis, places.reshape(-1))
    return taken.reshape(*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])


@operator("gather_along_axis")
def _gather_along_axis(given: Inputs) -> torch.Tensor:
    x, axis = wide(given["x"]), int(given["axis"])
    return x.gather(axis, _places(given["indices"], x.shape[axis]))


@operator("gather_nd")
def _gather_nd(given: Inputs) -> torch.Tensor:
    x = wide(given["x"])
    if int(given.get("batch_dims") or 0):
        raise CheckFailed("Core ML reference: gather_nd with batch dimensions is not known")
    return x[_coordinates(given["indices"], x)]


def _coordinates(indices: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    places = torch.as_tensor(np.array(indices) if not isinstance(indices, torch.Tensor) else indices).long()
    return tuple(_places(places[..., axis], x.shape[axis]) for axis in range(places.shape[-1]))


@operator("scatter_along_axis")
def _scatter_along_axis(given: Inputs) -> torch.Tensor:
    data, axis = wide(given["data"]), int(given["axis"])
    return _put(data, axis, _places(given["indices"], data.shape[axis]), wide(given["updates"]), str(given["mode"]))


@operator("scatter")
def _scatter(given: Inputs) -> torch.Tensor:
    """Whole slices at places of one axis."""
    data, updates = wide(given["data"]), wide(given["updates"])
    axis = int(given["axis"]) % data.ndim
    places = _places(given["indices"], data.shape[axis])
    if places.ndim != 1:
        raise CheckFailed("Core ML reference: scatter with indices of more than one dimension is not known")
    shape = [1] * data.ndim
    shape[axis] = -1
    return _put(data, axis, places.reshape(shape).expand_as(updates), updates, str(given["mode"]))


def _put(data: torch.Tensor, axis: int, places: torch.Tensor, updates: torch.Tensor, mode: str) -> torch.Tensor:
    if mode not in _MODES:
        raise CheckFailed(f"Core ML reference: scatter in mode '{mode}' is not known")
    how = _MODES[mode]
    if how is None:
        return data.scatter(axis, places, updates)
    return data.scatter_reduce(axis, places, updates, how)


@operator("scatter_nd")
def _scatter_nd(given: Inputs) -> torch.Tensor:
    data, updates, mode = wide(given["data"]).clone(), wide(given["updates"]), str(given["mode"])
    where = _coordinates(given["indices"], data)
    if mode not in ("update", "add"):
        raise CheckFailed(f"Core ML reference: scatter_nd in mode '{mode}' is not known")
    return data.index_put(where, updates, accumulate=mode == "add")


@operator("topk")
def _topk(given: Inputs) -> list[torch.Tensor]:
    values, places = wide(given["x"]).topk(int(given["k"]), int(given["axis"]), not given["ascending"])
    return [values, places] if given.get("return_indices", True) else [values]


@operator("argsort")
def _argsort(given: Inputs) -> torch.Tensor:
    descending = not given["ascending"]
    return torch.argsort(wide(given["x"]), dim=int(given["axis"]), descending=descending, stable=True)


@operator("one_hot")
def _one_hot(given: Inputs) -> torch.Tensor:
    size = int(given["one_hot_vector_size"])
    chosen = F.one_hot(_places(given["indices"], size), size).movedim(-1, int(given["axis"]))
    on, off = np.asarray(given["on_value"]).item(), np.asarray(given["off_value"]).item()
    return torch.where(chosen.bool(), on, off)


@operator("pixel_unshuffle")
def _pixel_unshuffle(given: Inputs) -> torch.Tensor:
    return F.pixel_unshuffle(wide(given["x"]), int(given["downscale_factor"]))


@operator("space_to_depth")
def _space_to_depth(given: Inputs) -> torch.Tensor:
    """Unlike `pixel_unshuffle`, the place within a block comes before the channel."""
    x, block = wide(given["x"]), int(given["block_size"])
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, channels, height // block, block, width // block, block)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(batch, -1, height // block, width // block)


@operator("depth_to_space")
def _depth_to_space(given: Inputs) -> torch.Tensor:
    x, block = wide(given["x"]), int(given["block_size"])
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, block, block, channels // block**2, height, width)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(batch, -1, height * block, width * block)


@operator("shape")
def _shape(given: Inputs) -> torch.Tensor:
    return torch.tensor(torch.as_tensor(given["x"]).shape)


@operator("resize_nearest_neighbor")
def _resize_nearest_neighbor(given: Inputs) -> torch.Tensor:
    size = int(given["target_size_height"]), int(given["target_size_width"])
    x = wide(given["x"])
    if any(target % places for target, places in zip(size, x.shape[-2:], strict=True)):
        raise CheckFailed("Core ML reference: nearest neighbours at a factor that is not whole are not known")
    return F.interpolate(x, size=size, mode="nearest")
