"""How each operator of a video graph is said at rank 4: one small function an operator, grouped by kind.

A handler takes the `Lowering`, the node and the node's arguments, in which every tensor is a `Packed`, and
returns a `Packed`. To add one: write the function in the module of its kind, name its operators in `@handles`, and
test it against the operator itself. Pointwise operators (by their tag in torch) and operators whose tensors all
have rank 4 at most need no handler. Every module of this package is loaded.
"""

import pkgutil
from importlib import import_module

from export.lowering.handlers.registry import HANDLERS, TAKES_WEIGHTS, handles

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["HANDLERS", "TAKES_WEIGHTS", "handles"]
