"""Tensors of any logical rank, kept in storage of rank 4 at most.

A video model speaks in tensors of rank 5 to 8; phones stop at 4. A `Packed` value holds a real tensor, the
`storage`, and says of each of its axes and of each logical dimension which *atoms* it is made of, outermost
first. Reshaping and permuting only rewrite that description; data moves when an operator needs a certain
layout (`arranged`), and then by transposes of rank 4 and by `pixel_shuffle`, so that a 3-D pixel shuffle in any
spelling ends as frame interleaving plus `pixel_shuffle`.

Dimensions of size 1 have no atoms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

MAX_RANK = 4


class Unrepresentable(Exception):
    """A layout that rank 4 cannot hold; the caller names the operator and refuses."""


class Atom:
    """An indivisible factor of a dimension. Two atoms are the same only if they are the same object."""

    def __init__(self, size: int) -> None:
        self.size = size


Dim = tuple[Atom, ...]


def _size(dim: Sequence[Atom]) -> int:
    return math.prod(atom.size for atom in dim)


def _new_dim(size: int) -> Dim:
    return () if size == 1 else (Atom(size),)


class Packed:
    """A logical tensor of shape `shape` that lies in `storage`, a tensor of rank 4 at most."""

    def __init__(self, storage: torch.Tensor, axes: Sequence[Dim], dims: Sequence[Dim]) -> None:
        self.storage, self.axes, self.dims = storage, list(axes), list(dims)

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Packed:
        """A tensor of rank 4 at most, as it is."""
        if tensor.ndim > MAX_RANK:
            raise Unrepresentable(f"a tensor of shape {list(tensor.shape)}")
        dims = [_new_dim(size) for size in tensor.shape]
        return cls(tensor, dims, dims)

    @classmethod
    def from_frames(cls, frames: torch.Tensor) -> Packed:
        """Frames `(T, C, H, W)` as a logical video `(1, C, T, H, W)`."""
        time, channels, height, width = (_new_dim(size) for size in frames.shape)
        return cls(frames, [time, channels, height, width], [(), channels, time, height, width])

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(_size(dim) for dim in self.dims)

    def permute(self, order: Sequence[int]) -> Packed:
        """Dimensions in another order; no data moves."""
        return Packed(self.storage, self.axes, [self.dims[index] for index in order])

    def reshape(self, shape: Sequence[int]) -> Packed:
        """The same elements in row-major order under another shape; data moves only if factors do not divide."""
        if math.prod(shape) != math.prod(self.shape):
            raise Unrepresentable(f"{list(self.shape)} as {list(shape)}")
        atoms = [atom for dim in self.dims for atom in dim]
        splits = _splits(atoms, shape)
        if splits is None:
            flat = self.arranged([tuple(atoms)]).storage
            dims = [_new_dim(size) for size in shape]
            return Packed(flat, [tuple(atom for dim in dims for atom in dim)], dims)
        axes = [tuple(part for atom in axis for part in splits.get(atom, (atom,))) for axis in self.axes]
        parts = [part for atom in atoms for part in splits.get(atom, (atom,))]
        dims, taken = [], 0
        for size in shape:
            start, product = taken, 1
            while product < size:
                product *= parts[taken].size
                taken += 1
            dims.append(tuple(parts[start:taken]))
        return Packed(self.storage, axes, dims)

    def arranged(self, axes: Sequence[Dim]) -> Packed:
        """The same logical tensor with storage laid out as `axes` (which hold the same atoms)."""
        return Packed(rearrange(self.storage, self.axes, axes), axes, self.dims)

    def plain(self) -> torch.Tensor:
        """A tensor of the logical shape; raises `Unrepresentable` if its rank is above 4."""
        if len(self.dims) > MAX_RANK:
            raise Unrepresentable(f"a tensor of shape {list(self.shape)}")
        return self.arranged(self.dims).storage

    def frames(self) -> torch.Tensor:
        """A logical video `(1, C, T, H, W)` as frames `(T, C, H, W)`; raises `Unrepresentable` for other shapes."""
        if len(self.dims) != 5 or self.dims[0]:
            raise Unrepresentable(f"a tensor of shape {list(self.shape)} as frames of one video")
        _, channels, time, height, width = self.dims
        return self.arranged([time, channels, height, width]).storage

    def spread(self, order: Sequence[int]) -> torch.Tensor:
        """Storage with exactly one axis for each logical dimension named in `order`; the others have size 1."""
        if len(order) > MAX_RANK:
            raise Unrepresentable(f"a tensor of shape {list(self.shape)}")
        return self.arranged([self.dims[index] for index in order]).storage

    def storage_order(self) -> list[int]:
        """Logical dimensions of more than one element in the order in which they lie in storage."""
        position = {atom: place for place, atom in enumerate(a for axis in self.axes for a in axis)}
        present = [index for index, dim in enumerate(self.dims) if dim]
        return sorted(present, key=lambda index: position[self.dims[index][0]])


def unspread(storage: torch.Tensor, order: Sequence[int], rank: int) -> Packed:
    """The inverse of `Packed.spread`: a logical tensor of `rank` dimensions, those outside `order` of size 1."""
    axes = [_new_dim(size) for size in storage.shape]
    dims: list[Dim] = [()] * rank
    for index, axis in zip(order, axes, strict=True):
        dims[index] = axis
    return Packed(storage, axes, dims)


def _splits(atoms: Sequence[Atom], shape: Sequence[int]) -> dict[Atom, Dim] | None:
    """How to split atoms so that every boundary of `shape` falls between two; None if a factor does not divide."""
    boundaries, product = set(), 1
    for size in reversed(shape):
        product *= size
        boundaries.add(product)
    splits: dict[Atom, Dim] = {}
    inner = 1
    for atom in reversed(atoms):
        parts: list[Atom] = []
        done = inner
        for cut in sorted(b for b in boundaries if inner < b < inner * atom.size):
            if cut % done or (inner * atom.size) % cut:
                return None
            parts.insert(0, Atom(cut // done))
            done = cut
        outer = inner * atom.size // done
        if parts:
            splits[atom] = (Atom(outer), *parts) if outer > 1 else tuple(parts)
        inner *= atom.size
    return splits


def rearrange(tensor: torch.Tensor, source: Sequence[Dim], target: Sequence[Dim]) -> torch.Tensor:
    """Move a tensor whose axes are `source` into axes `target`, with operators of rank 4 at most."""
    if [list(axis) for axis in source] == [list(axis) for axis in target]:
        return tensor
    shape = [_size(axis) for axis in target]
    wanted = [atom for axis in target for atom in axis]
    if len(target) == MAX_RANK:
        shuffled = _by_pixel_shuffle(tensor, source, target)
        if shuffled is not None:
            return shuffled
    have = [atom for axis in source for atom in axis]
    return _permute_atoms(tensor, have, wanted).reshape(shape)


def _by_pixel_shuffle(tensor: torch.Tensor, source: Sequence[Dim], target: Sequence[Dim]) -> torch.Tensor | None:
    """The move as `pixel_shuffle`: the target's last two axes are (H, r) and (W, r), and H, W lie last in source."""
    lead, channels, rows, columns = target
    have = [atom for axis in source for atom in axis]
    if len(rows) < 2 or len(columns) < 2 or rows[-1].size != columns[-1].size:
        return None
    spatial = [*rows[:-1], *columns[:-1]]
    if have[-len(spatial) :] != spatial:
        return None
    order = [*lead, *channels, rows[-1], columns[-1], *spatial]
    factor = rows[-1].size
    shape = [_size(lead), _size(channels) * factor * factor, _size(rows[:-1]), _size(columns[:-1])]
    return F.pixel_shuffle(_permute_atoms(tensor, have, order).reshape(shape), factor)


def _permute_atoms(tensor: torch.Tensor, have: list[Atom], wanted: list[Atom]) -> torch.Tensor:
    """Bring the atoms of a row-major tensor into another order by swapping neighbouring runs, each swap of rank 4."""
    if {id(a) for a in have} != {id(a) for a in wanted}:
        raise Unrepresentable("a layout that broadcasts")
    have = list(have)
    for place in range(len(wanted)):
        if have[place] is wanted[place]:
            continue
        start = next(i for i, atom in enumerate(have) if atom is wanted[place])
        stop = start + 1
        while stop < len(have) and have[stop] is wanted[place + stop - start]:
            stop += 1
        before, skipped, run, after = have[:place], have[place:start], have[start:stop], have[stop:]
        blocks = [_size(before), _size(skipped), _size(run), _size(after)]
        tensor = tensor.reshape(blocks).permute(0, 2, 1, 3)
        have = [*before, *run, *skipped, *after]
    return tensor
