"""Bringing packed tensors into a storage that one operator of rank 4 can work on.

Three questions cover every operator: what do several tensors look like side by side (`aligned`, for elementwise
operators with broadcasting), where is one dimension (`isolated`, for operators along dimensions), and which axes
are made of some dimensions only (`separated`, for reductions)? Each is answered in the order in which the data
already lies wherever rank 4 allows it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch

from export.lowering.packed import MAX_RANK, Atom, Dim, Packed, Unrepresentable, new_dim, size_of, with_rank


@dataclass(frozen=True)
class Aligned:
    """Tensors over the same axes (or 1, where they broadcast), and what a result over these axes means."""

    storages: list[torch.Tensor]
    axes: list[Dim]
    dims: list[Dim]

    def result(self, storage: torch.Tensor) -> Packed:
        """The logical tensor of an elementwise result."""
        return Packed(storage, self.axes, self.dims)


@dataclass(frozen=True)
class Isolated:
    """A storage in which each of some dimensions has an axis of its own: `places` says which."""

    storage: torch.Tensor
    axes: list[Dim]
    dims: list[Dim]
    places: dict[int, int]

    def result(self, storage: torch.Tensor) -> Packed:
        """The logical tensor after an operator that may have changed the sizes of the isolated dimensions."""
        axes, dims = list(self.axes), list(self.dims)
        for dim, place in self.places.items():
            if storage.shape[place] != size_of(axes[place]):
                axes[place] = dims[dim] = new_dim(storage.shape[place])
        return Packed(storage, axes, dims)


def aligned(tensors: Sequence[Packed]) -> Aligned:
    """Storages that broadcast together as the logical tensors do, in the layout of the largest of them."""
    tensors = unified(tensors)
    lead = max(tensors, key=lambda tensor: size_of([a for axis in tensor.axes for a in axis]))
    rank = len(lead.dims)
    dims = [next((tensor.dims[d] for tensor in tensors if tensor.dims[d]), ()) for d in range(rank)]
    stored = [tensor.stored for tensor in tensors]
    present = {atom for atoms in stored for atom in atoms}

    def holders(atom: Atom) -> Hashable:
        return tuple(atom in atoms for atoms in stored)

    known = [tuple(atom for atom in dim if atom in present) for dim in dims]
    axes = fitted(_pure(_placed(lead.axes, known), holders), holders)
    if len(axes) > MAX_RANK:  # broadcasting needs more axes than there are: write the smaller tensors out
        axes = fitted(axes, lambda _atom: 0)
        return Aligned([tensor.arranged(axes).storage for tensor in tensors], axes, dims)
    storages = []
    for tensor, atoms in zip(tensors, stored, strict=True):
        storages.append(tensor.arranged([tuple(atom for atom in axis if atom in atoms) for axis in axes]).storage)
    return Aligned(storages, axes, dims)


def isolated(x: Packed, dims: Sequence[int]) -> Isolated:
    """`x` in a storage that gives each of `dims` an axis of its own; raises `Unrepresentable` above rank 4."""
    dims = sorted({dim % len(x.dims) for dim in dims})
    x = solid(x, dims)
    owner = {atom: dim for dim in dims for atom in x.dims[dim]}
    axes: list[Dim] = []
    done: set[int] = set()
    for axis in _pure(x.axes, lambda atom: owner.get(atom, -1)):
        dim = owner.get(axis[0], -1) if axis else -1
        if dim not in done:
            axes.append(x.dims[dim] if dim >= 0 else axis)
        done |= {dim} - {-1}
    axes = _with_unit_axes(axes, [dim for dim in dims if not x.dims[dim]], x)
    axes = fitted(axes, lambda atom: owner.get(atom, -1), keep_units=True)
    if len(axes) > MAX_RANK:
        rest = tuple(atom for dim, atoms in enumerate(x.dims) if dim not in dims for atom in atoms)
        axes = [*([rest] if rest else []), *(x.dims[dim] for dim in dims)]
    if len(axes) > MAX_RANK:
        raise Unrepresentable(f"{len(axes)} separate axes for a tensor of shape {list(x.shape)}")
    places: dict[int, int] = {}
    units = [place for place, axis in enumerate(axes) if not axis]
    for dim in dims:
        place = next((p for p, axis in enumerate(axes) if x.dims[dim] and axis == x.dims[dim]), None)
        places[dim] = units.pop(0) if place is None else place
    return Isolated(x.arranged(axes).storage, axes, list(x.dims), places)


def separated(x: Packed, marked: set[int]) -> tuple[Packed, list[int]]:
    """`x` in a storage each of whose axes lies wholly within or without the `marked` dimensions; the axes within."""
    x = solid(x)
    inside = {atom for dim in marked for atom in x.dims[dim]}
    axes = fitted(_pure(x.axes, lambda atom: atom in inside), lambda atom: atom in inside)
    if len(axes) > MAX_RANK:
        atoms = [atom for dim in x.dims for atom in dim]
        axes = [tuple(a for a in atoms if a not in inside), tuple(a for a in atoms if a in inside)]
    if not inside:
        axes = [*axes, ()] if len(axes) < MAX_RANK else [(*axes[0], *axes[1]), *axes[2:], ()]
        return x.arranged(axes), [len(axes) - 1]
    return x.arranged(axes), [place for place, axis in enumerate(axes) if axis and axis[0] in inside]


def reduced(x: Packed, storage: torch.Tensor, marked: set[int]) -> Packed:
    """What is left of `x` (as `separated` gave it) when the `marked` dimensions have become size 1."""
    axes = [axis if storage.shape[place] != 1 else () for place, axis in enumerate(x.axes)]
    return Packed(storage, axes, [() if index in marked else dim for index, dim in enumerate(x.dims)])


def solid(x: Packed, dims: Sequence[int] | None = None) -> Packed:
    """`x` with the repetitions of `dims` (by default of all) written out in storage."""
    stored = x.stored
    wanted = [dim if dims is None or d in dims else () for d, dim in enumerate(x.dims)]
    missing = {atom for dim in wanted for atom in dim if atom not in stored}
    if not missing:
        return x
    known = [tuple(atom for atom in dim if atom in stored or atom in missing) for dim in x.dims]
    return x.arranged(fitted(_placed(x.axes, known), lambda _atom: 0))


def unified(tensors: Sequence[Packed], apart_from: int | None = None) -> list[Packed]:
    """The same tensors with one rank, in which equal places of a dimension are the same atoms in all of them.

    The dimension `apart_from`, in which sizes may differ, is left alone.
    """
    rank = max(len(tensor.dims) for tensor in tensors)
    result = _apart([with_rank(tensor, rank) for tensor in tensors])
    for dim in range(rank):
        holders = [index for index, tensor in enumerate(result) if tensor.dims[dim]]
        if dim == apart_from or len(holders) < 2 or len({result[index].dims[dim] for index in holders}) == 1:
            continue
        cuts = _cuts([result[index].dims[dim] for index in holders])
        if cuts is None:  # 2 * 3 beside 3 * 2: give all but the largest one atom, which can be cut anywhere
            anchor = max(holders, key=lambda index: len(result[index].stored))
            for index in set(holders) - {anchor}:
                result[index] = _fused(result[index], dim)
            cuts = _cuts([result[index].dims[dim] for index in holders])
            assert cuts is not None
        parts = [Atom(size) for size in cuts]
        for index in holders:
            result[index] = result[index].refined(_matching(result[index].dims[dim], parts))
    return result


def _apart(tensors: Sequence[Packed]) -> list[Packed]:
    """The tensors with atoms of their own wherever one atom lies in different dimensions, as in x[:, None] - x."""
    seen: dict[Atom, int] = {}
    result = []
    for tensor in tensors:
        here = {atom: dim for dim, atoms in enumerate(tensor.dims) for atom in atoms}
        if any(seen.get(atom, dim) != dim for atom, dim in here.items()):
            tensor = tensor.refined({atom: (Atom(atom.size),) for atom in here})
        else:
            seen |= here
        result.append(tensor)
    return result


def joined(tensors: Sequence[Packed], dim: int) -> tuple[list[torch.Tensor], Isolated]:
    """Storages equal in all but one axis, that of `dim`: what a concatenation takes."""
    solids = [solid(tensor) for tensor in unified(tensors, apart_from=dim)]
    lead = max(solids, key=lambda tensor: size_of([a for axis in tensor.axes for a in axis]))
    pattern = isolated(lead, [dim])
    place = pattern.places[dim]
    storages = []
    for tensor in solids:
        axes = [tensor.dims[dim] if p == place else axis for p, axis in enumerate(pattern.axes)]
        storages.append(tensor.arranged(axes).storage)
    return storages, pattern


def _cuts(dims: Sequence[Dim]) -> list[int] | None:
    """The sizes of the coarsest atoms, outermost first, of which all `dims` are made; None if there are none."""
    places = set()
    for dim in dims:
        inner = 1
        for atom in reversed(dim):
            inner *= atom.size
            places.add(inner)
    ordered = sorted(places)
    sizes = []
    for below, above in zip([1, *ordered], ordered, strict=False):
        if above % below:
            return None
        sizes.append(above // below)
    return sizes[::-1]


def _matching(dim: Dim, parts: Sequence[Atom]) -> dict[Atom, Dim]:
    """Which of `parts` each atom of `dim` is made of."""
    found: dict[Atom, Dim] = {}
    pending = list(parts)
    for atom in dim:
        taken: list[Atom] = []
        while size_of(taken) < atom.size:
            taken.append(pending.pop(0))
        found[atom] = tuple(taken)
    return found


def _fused(x: Packed, dim: int) -> Packed:
    """`x` with one atom for the dimension `dim`."""
    alone = isolated(x, [dim])
    single = new_dim(x.shape[dim])
    axes = [single if place == alone.places[dim] else axis for place, axis in enumerate(alone.axes)]
    return x.arranged(alone.axes).relabelled(axes, [single if d == dim else atoms for d, atoms in enumerate(x.dims)])


def _placed(axes: Sequence[Dim], dims: Sequence[Dim]) -> list[Dim]:
    """`axes` with the atoms of `dims` that they lack, each put behind its predecessor in logical order."""
    result = list(axes)
    previous: Atom | None = None
    for atom in (atom for dim in dims for atom in dim):
        if not any(atom in axis for axis in result):
            at = next((place for place, axis in enumerate(result) if previous in axis), None)
            if at is None or previous is None:
                result.insert(0, (atom,))
            else:
                cut = result[at].index(previous) + 1
                result[at : at + 1] = [axis for axis in (result[at][:cut], (atom,), result[at][cut:]) if axis]
        previous = atom
    return result


def _pure(axes: Sequence[Dim], key: Callable[[Atom], Hashable]) -> list[Dim]:
    """`axes` cut wherever the key of their atoms changes."""
    result: list[Dim] = []
    for axis in axes:
        runs: list[list[Atom]] = []
        for atom in axis:
            if runs and key(runs[-1][0]) == key(atom):
                runs[-1].append(atom)
            else:
                runs.append([atom])
        result += [tuple(run) for run in runs] or [()]
    return result


def fitted(axes: Sequence[Dim], key: Callable[[Atom], Hashable], keep_units: bool = False) -> list[Dim]:
    """At most 4 axes if that can be had: axes of size 1 dropped first, then neighbours with the same key joined."""
    result = list(axes)
    while len(result) > MAX_RANK and () in result and not keep_units:
        result.remove(())
    place = 0
    while len(result) > MAX_RANK and place + 1 < len(result):
        here, there = result[place], result[place + 1]
        if here and there and key(here[-1]) == key(there[0]):
            result[place : place + 2] = [(*here, *there)]
        else:
            place += 1
    return result


def _with_unit_axes(axes: list[Dim], dims: Sequence[int], x: Packed) -> list[Dim]:
    """`axes` with exactly one axis of size 1 for each of `dims` (which have size 1), near where it belongs."""
    result, units = list(axes), axes.count(())
    spare = units - len(dims)
    while spare > 0 and len(result) > MAX_RANK:
        result.remove(())
        spare -= 1
    for dim in dims[units:]:
        before = next((atoms[-1] for atoms in reversed(x.dims[:dim]) if atoms), None)
        at = next((place for place, axis in enumerate(result) if before in axis), -1)
        result.insert(at + 1, ())
    return result
