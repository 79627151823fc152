"""Joins of frames moved up to where the frames were cut apart.

Models work through long clips in chunks: `cat([f(a), f(b)])` is `f(cat([a, b]))` where `f` works frame by frame, and
`cat` of all the slices of a tensor is that tensor. Moved up as far as they go, joins show that a chunk's borders mean
nothing, so that they may lie elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from export.lowering.frame_rules import RESIZED, Role, role_of, sized


def hoist_joins(module: GraphModule) -> GraphModule:
    """The same rank-4 graph, its joins along time as early as they can be."""
    graph = module.graph
    pending = [node for node in graph.nodes if _joins(node)]
    while pending:
        join = pending.pop()
        replacement = (_whole(join) or _hoisted(join, pending)) if join.users else None
        if replacement is not None:
            parts = _parts(join)
            join.replace_all_uses_with(replacement)
            for node in (join, *parts):
                if not node.users:
                    graph.erase_node(node)
    graph.eliminate_dead_code()
    graph.lint()
    return module


def _joins(node: Node) -> bool:
    return node.op == "call_function" and bool(node.all_input_nodes) and role_of(node) is Role.JOINS


def _parts(join: Node) -> list[Node]:
    parts: Any = join.args[0]
    return list(parts)


def _whole(join: Node) -> Node | None:
    """The tensor of whose slices, one behind the other, the join is made."""
    place, source = 0, None
    for part in _parts(join):
        if str(part.target) != "aten.slice.Tensor" or role_of(part) is not Role.SELECTS:
            return None
        whole, (start, end, step) = part.all_input_nodes[0], [*part.args[2:], None, None, None][:3]
        length = whole.meta["val"].shape[0]
        first, last, _ = slice(start, end).indices(length)  # type: ignore[arg-type]
        if source not in (None, whole) or first != place or step not in (None, 1):
            return None
        source, place = whole, last
    return source if source is not None and place == source.meta["val"].shape[0] else None


def _hoisted(join: Node, pending: list[Node]) -> Node | None:
    """The operator that all parts are, on the joins of what they take; None where they are not one."""
    parts = _parts(join)
    framed = _framed(parts)
    if not framed or any(len(part.users) > 1 for part in parts):
        return None
    args = list(parts[0].args)
    for place in framed:
        taken = _joined([part.args[place] for part in parts], join)
        args[place] = taken
        pending.append(taken)
    with join.graph.inserting_before(join):
        if sized(parts[0]):
            args[1] = list(join.meta["val"].shape)
        assert callable(parts[0].target)
        result = join.graph.call_function(parts[0].target, tuple(args), dict(parts[0].kwargs))
    result.meta["val"] = join.meta["val"]
    return result


def _joined(pieces: list[Any], before: Node) -> Node:
    """The join of pieces: one that there is `before` the one at hand, or a new one, right behind the last of them."""
    order = {node: place for place, node in enumerate(pieces[0].graph.nodes)}
    for user in pieces[0].users:
        if _joins(user) and user.args[0] == pieces and order[user] < order[before]:
            return user
    with pieces[0].graph.inserting_after(max(pieces, key=lambda piece: order[piece])):
        join = pieces[0].graph.call_function(torch.ops.aten.cat.default, (pieces,))
    join.meta["val"] = torch.cat([piece.meta["val"] for piece in pieces])
    return join


def _framed(parts: Sequence[Node]) -> list[int]:
    """Which arguments of one operator the parts take frame by frame; none where they are not one operator."""
    first = parts[0]
    if first.op != "call_function" or not isinstance(first.meta["val"], torch.Tensor) or not first.all_input_nodes:
        return []
    role = role_of(first)
    alike = all(p.target is first.target and role_of(p) is role and p.kwargs == first.kwargs for p in parts)
    if not alike or role not in (Role.FIRST, Role.ALIKE) or len({len(part.args) for part in parts}) > 1:
        return []
    framed = []
    for place in range(len(first.args)):
        if _are_frames(parts, place):
            framed.append(place)
        elif not (sized(first) and place == 1) and not _are_one(parts, place):
            return []
    return framed if role is Role.ALIKE or framed == [0] else []


def _are_frames(parts: Sequence[Node], place: int) -> bool:
    """Whether every part takes at `place` as many frames as it gives, of one shape and not the same tensor."""
    taken = [part.args[place] for part in parts]
    if _are_one(parts, place) or not all(isinstance(item, Node) and item.meta["val"].ndim for item in taken):
        return False
    shapes = [item.meta["val"].shape for item in taken if isinstance(item, Node)]
    given = [part.meta["val"].shape for part in parts]
    if str(parts[0].target) not in RESIZED:  # joined numbers are the same numbers in any shape
        broadcast = role_of(parts[0]) is Role.ALIKE
        if any(m[0] != i[0] or (broadcast and len(m) != len(i)) for m, i in zip(shapes, given, strict=True)):
            return False
    return len({shape[1:] for shape in shapes}) == 1


def _are_one(parts: Sequence[Node], place: int) -> bool:
    """Whether all parts take the same at `place`: a setting, or a tensor that is not taken frame by frame."""
    first: Any = parts[0].args[place]
    if not isinstance(first, Node):
        return all(part.args[place] == first for part in parts)
    shape, given = first.meta["val"].shape, parts[0].meta["val"].shape
    if role_of(parts[0]) is Role.ALIKE and len(shape) == len(given) and shape[:1] not in ((), (1,)):
        return False
    return all(_same(part.args[place], first) for part in parts)


def _same(mine: Any, its: Node) -> bool:
    return mine is its or (isinstance(mine, Node) and mine.op == its.op == "get_attr" and mine.target == its.target)
