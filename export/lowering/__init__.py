"""Exact rewriting of PyTorch video models to graphs whose tensors have rank 4 at most."""

from export.lowering.lower import LoweredModule, TensorSpec, lower, obstacles
from export.lowering.refusal import LoweringError

__all__ = ["LoweredModule", "LoweringError", "TensorSpec", "lower", "obstacles"]
