"""Nested arguments and results, as graphs have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def map_nested(item: Any, function: Callable[[Any], Any]) -> Any:
    """`function` of every leaf of lists, tuples and dictionaries."""
    if isinstance(item, list | tuple):
        return type(item)(map_nested(part, function) for part in item)
    if isinstance(item, dict):
        return {key: map_nested(value, function) for key, value in item.items()}
    return function(item)


def tensors_in(item: Any) -> list[torch.Tensor]:
    """All tensors of a nested value."""
    if isinstance(item, torch.Tensor):
        return [item]
    if isinstance(item, dict):
        item = list(item.values())
    return [tensor for part in item for tensor in tensors_in(part)] if isinstance(item, list | tuple) else []
