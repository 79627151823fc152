"""Elementwise operators, all of them: torch's own tag says which they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from export.lowering.alignment import aligned
from export.lowering.packed import Packed


def pointwise(node: Node, args: Sequence[Any], kwargs: dict[str, Any]) -> Packed:
    """Any operator that torch tags as pointwise, with broadcasting, in whatever layout the data already lies."""
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Packed)]
    together = aligned(tensors)
    storages = iter(together.storages)
    args = [next(storages) if isinstance(value, Packed) else value for value in args]
    kwargs = {key: next(storages) if isinstance(value, Packed) else value for key, value in kwargs.items()}
    assert isinstance(node.target, torch._ops.OpOverload)
    return together.result(node.target(*args, **kwargs))
