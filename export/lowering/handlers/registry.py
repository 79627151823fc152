"""Which function says which operator at rank 4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Handler = Callable[..., Any]
HANDLERS: dict[str, Handler] = {}
#: Operators whose handlers take their weights as `Weight`, to rewrite them ahead of the graph.
TAKES_WEIGHTS: set[str] = set()


def handles(*names: str, weights: bool = False) -> Callable[[Handler], Handler]:
    """Register a handler for operators by their names in an exported graph.

    It is called with the `Lowering`, the graph's node and the node's arguments, in which every tensor is a `Packed`
    (with `weights`, one that depends on no input is a `Weight`), and returns a `Packed`, or several.
    """

    def add(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        if weights:
            TAKES_WEIGHTS.update(names)
        return handler

    return add
