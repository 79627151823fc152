"""Refusing by name: which operator, of which layer and line, on what shapes, and what to do about it."""

from __future__ import annotations

import os

from torch.fx import Node

from export.lowering.nested import tensors_in
from export.lowering.packed import MAX_RANK
from toolkit.errors import UserError

#: Calls in an exported graph that only check.
SKIPPED = {"aten._assert_tensor_metadata.default", "aten._assert_scalar.default", "_guards_fn"}


class LoweringError(UserError):
    """An operator that cannot be said at rank 4 yet; the message names it and the layer it came from."""


def refusal(node: Node, reason: str) -> LoweringError:
    """An error that says which operator of which layer stopped the lowering, and what to do about it."""
    shapes = [list(t.shape) for a in node.all_input_nodes for t in tensors_in(a.meta.get("val"))]
    source = f" at {source_line(node)}" if source_line(node) else ""
    return LoweringError(
        f"lowering: {node.target} on {shapes} {reason} at rank {MAX_RANK}, in layer "
        f"'{layer(node)}'{source}. Rewrite the layer with supported operators, "
        "or add a handler in export/lowering/handlers/ (see CONTRIBUTING.md)"
    )


def layer(node: Node) -> str:
    """The path of the module that a node came from."""
    paths = [str(path) for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]
    return paths[-1] if paths else "the model itself"


def source_line(node: Node) -> str:
    """The line of Python that a node came from, outside of torch's own modules where there is one; or ""."""
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines() if "File " in line]
    lines = [line for line in lines if f"{os.sep}torch{os.sep}nn{os.sep}" not in line] or lines
    return lines[-1].removeprefix("File ") if lines else ""
