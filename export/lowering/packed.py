"""Tensors of any logical rank, kept in storage of rank 4 at most.

A video model speaks in tensors of rank 5 to 8; phones stop at 4. A `Packed` value holds a real tensor, the
`storage`, and says of each of its axes and of each logical dimension which *atoms* it is made of, outermost
first. Reshaping, permuting and expanding only rewrite that description; data moves when an operator needs a
certain layout (`arranged`), and then by transposes of rank 4 and by `pixel_shuffle`, so that a 3-D pixel shuffle
in any spelling ends as frame interleaving plus `pixel_shuffle`.

Dimensions of size 1 have no atoms. A dimension's atom that no axis of the storage has is a repetition: the same
data at each of its places, which most operators need not see written out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

MAX_RANK = 4
#: A repetition of up to this many is written as a concatenation, which every back end takes into its delegate.
CONCATENATED_REPEATS = 8


class Unrepresentable(Exception):
    """A layout that rank 4 cannot hold; the caller names the operator and refuses."""


class Atom:
    """An indivisible factor of a dimension. Two atoms are the same only if they are the same object."""

    def __init__(self, size: int) -> None:
        self.size = size


Dim = tuple[Atom, ...]
Layout = tuple[tuple[tuple[int, int], ...], ...]


def size_of(dim: Sequence[Atom]) -> int:
    """The number of places along a dimension or axis made of these atoms."""
    return math.prod(atom.size for atom in dim)


def new_dim(size: int) -> Dim:
    """A dimension of one fresh atom, or of none if its size is 1."""
    return () if size == 1 else (Atom(size),)


class Packed:
    """A logical tensor of shape `shape` that lies in `storage`, a tensor of rank 4 at most."""

    def __init__(self, storage: torch.Tensor, axes: Sequence[Dim], dims: Sequence[Dim]) -> None:
        self._storage, self.axes, self.dims = storage, list(axes), list(dims)
        self._laid_out: dict[Layout, torch.Tensor] = {}  # what this storage was already moved into

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Packed:
        """A tensor of rank 4 at most, as it is."""
        if tensor.ndim > MAX_RANK:
            raise Unrepresentable(f"a tensor of shape {list(tensor.shape)}")
        dims = [new_dim(size) for size in tensor.shape]
        return Packed(tensor, dims, dims)

    @classmethod
    def from_frames(cls, frames: torch.Tensor) -> Packed:
        """Frames `(T, C, H, W)` as a logical video `(1, C, T, H, W)`."""
        time, channels, height, width = (new_dim(size) for size in frames.shape)
        return Packed(frames, [time, channels, height, width], [(), channels, time, height, width])

    @property
    def storage(self) -> torch.Tensor:
        return self._storage

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(size_of(dim) for dim in self.dims)

    @property
    def stored(self) -> set[Atom]:
        """The atoms that the storage has; the others of `dims` are repetitions."""
        return {atom for axis in self.axes for atom in axis}

    def described(self, axes: Sequence[Dim], dims: Sequence[Dim]) -> Packed:
        """The same storage under another description; `axes` may only split or rename atoms."""
        same = Packed(self._storage, axes, dims)
        same._laid_out = self._laid_out
        return same

    def relabelled(self, axes: Sequence[Dim], dims: Sequence[Dim]) -> Packed:
        """The same storage under a description of other atoms."""
        return Packed(self._storage, axes, dims)

    def mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Packed:
        """The same description of storage to which `function`, of one tensor, element by element, was applied."""
        return Packed(function(self.storage), self.axes, self.dims)

    def permute(self, order: Sequence[int]) -> Packed:
        """Dimensions in another order; no data moves."""
        return self.described(self.axes, [self.dims[index] for index in order])

    def refined(self, parts: dict[Atom, Dim]) -> Packed:
        """Atoms replaced by several (or by one other) of the same product; no data moves."""

        def refine(dim: Dim) -> Dim:
            return tuple(part for atom in dim for part in parts.get(atom, (atom,)))

        return self.described([refine(axis) for axis in self.axes], [refine(dim) for dim in self.dims])

    def reshape(self, shape: Sequence[int]) -> Packed:
        """The same elements in row-major order under another shape; data moves only if factors do not divide."""
        if math.prod(shape) != math.prod(self.shape):
            raise Unrepresentable(f"{list(self.shape)} as {list(shape)}")
        if 0 in shape:
            raise Unrepresentable(f"an empty tensor of shape {list(shape)}")
        splits = _splits([atom for dim in self.dims for atom in dim], shape)
        if splits is None:
            flat = tuple(atom for dim in self.dims for atom in dim)
            single = new_dim(size_of(flat))
            return self.arranged([flat]).relabelled([single], [single]).reshape(shape)
        refined = self.refined(splits)
        parts = [part for dim in refined.dims for part in dim]
        dims, taken = [], 0
        for size in shape:
            start, product = taken, 1
            while product < size:
                product *= parts[taken].size
                taken += 1
            dims.append(tuple(parts[start:taken]))
        return refined.described(refined.axes, dims)

    def expand(self, shape: Sequence[int]) -> Packed:
        """Dimensions of size 1, and new ones in front, repeated up to `shape`; no data moves."""
        padded = with_rank(self, len(shape))
        dims = [dim or new_dim(size) for dim, size in zip(padded.dims, shape, strict=True)]
        return padded.described(padded.axes, dims)

    def arranged(self, axes: Sequence[Dim]) -> Packed:
        """The same logical tensor with storage laid out as `axes`, repetitions written out where `axes` has them."""
        layout = _layout(self.axes, axes)
        if layout not in self._laid_out:
            self._laid_out[layout] = rearrange(self._storage, self.axes, axes)
        return Packed(self._laid_out[layout], axes, self.dims)

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


def with_rank(x: Packed, rank: int) -> Packed:
    """`x` with dimensions of size 1 put in front, up to `rank`."""
    return x.described(x.axes, [()] * (rank - len(x.dims)) + list(x.dims))


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


def _layout(source: Sequence[Dim], target: Sequence[Dim]) -> Layout:
    """What a move does, whatever its atoms are called: for each target axis runs of (stride in the source, size)."""
    strides, inner = {}, 1
    for atom in reversed([atom for axis in source for atom in axis]):
        strides[atom] = inner
        inner *= atom.size
    axes = []
    for axis in target:
        runs: list[tuple[int, int]] = []
        for atom in axis:
            stride = strides.get(atom, 0)
            if runs and stride and runs[-1][0] == stride * atom.size:
                runs[-1] = (stride, runs[-1][1] * atom.size)
            else:
                runs.append((stride, atom.size))
        axes.append(tuple(runs))
    return tuple(axes)


def rearrange(tensor: torch.Tensor, source: Sequence[Dim], target: Sequence[Dim]) -> torch.Tensor:
    """Move a tensor whose axes are `source` into axes `target`, with operators of rank 4 at most."""
    if [list(axis) for axis in source] == [list(axis) for axis in target]:
        return tensor
    stored = {atom for axis in source for atom in axis}
    kept = [tuple(atom for atom in axis if atom in stored) for axis in target]
    moved = _move(tensor, source, kept)
    for place, axis in enumerate(target):
        if len(kept[place]) < len(axis):
            moved = _repeat(moved, place, axis, stored)
    return moved


def _move(tensor: torch.Tensor, source: Sequence[Dim], target: Sequence[Dim]) -> torch.Tensor:
    if len(target) == MAX_RANK:
        shuffled = _by_pixel_shuffle(tensor, source, target)
        if shuffled is not None:
            return shuffled
    have = [atom for axis in source for atom in axis]
    wanted = [atom for axis in target for atom in axis]
    moved = _permute_axes(tensor, source, wanted)
    if moved is None:
        moved = _permute_atoms(tensor, have, wanted)
    shape = [size_of(axis) for axis in target]
    return moved if list(moved.shape) == shape else moved.reshape(shape)


def _permute_axes(tensor: torch.Tensor, source: Sequence[Dim], wanted: list[Atom]) -> torch.Tensor | None:
    """One transpose of whole axes, where the wanted order cuts none of them."""
    place = {atom: index for index, axis in enumerate(source) for atom in axis}
    order = list(dict.fromkeys(place[atom] for atom in wanted))
    if [atom for index in order for atom in source[index]] != wanted:
        return None
    if order == sorted(order):
        return tensor
    return tensor.permute(order + [index for index in range(len(source)) if index not in order])


def _repeat(tensor: torch.Tensor, place: int, axis: Dim, stored: set[Atom]) -> torch.Tensor:
    """Write out the repetitions of one axis, of which `tensor` holds the stored atoms only."""
    shape = list(tensor.shape)
    done = [atom for atom in axis if atom in stored]
    for index, atom in enumerate(axis):
        if atom in stored:
            continue
        outer, inner = size_of(axis[:index]), size_of([a for a in axis[index + 1 :] if a in done])
        whole = outer == inner == 1
        along = place if whole else 1
        blocks = shape if whole else [math.prod(shape[:place]) * outer, 1, inner * math.prod(shape[place + 1 :])]
        if atom.size <= CONCATENATED_REPEATS:  # a view each: XNNPACK takes no concatenation of a single tensor
            tensor = torch.cat([tensor.reshape(blocks) for _ in range(atom.size)], along)
        else:
            tensor = tensor.reshape(blocks).expand([atom.size if i == along else n for i, n in enumerate(blocks)])
        shape[place] *= atom.size
        tensor = tensor if whole else tensor.reshape(shape)
    return tensor


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
    shape = [size_of(lead), size_of(channels) * factor * factor, size_of(rows[:-1]), size_of(columns[:-1])]
    return F.pixel_shuffle(_permute_atoms(tensor, have, order).reshape(shape), factor)


def _permute_atoms(tensor: torch.Tensor, have: list[Atom], wanted: list[Atom]) -> torch.Tensor:
    """Bring the atoms of a row-major tensor into another order by swapping neighbouring runs, each swap of rank 4."""
    assert {id(a) for a in have} == {id(a) for a in wanted}, "only repetitions may be missing from storage"
    have = list(have)
    for place in range(len(wanted)):
        if have[place] is wanted[place]:
            continue
        start = next(i for i, atom in enumerate(have) if atom is wanted[place])
        stop = start + 1
        while stop < len(have) and have[stop] is wanted[place + stop - start]:
            stop += 1
        before, skipped, run, after = have[:place], have[place:start], have[start:stop], have[stop:]
        blocks = [size_of(before), size_of(skipped), size_of(run), size_of(after)]
        tensor = tensor.reshape(blocks).permute(0, 2, 1, 3)
        have = [*before, *run, *skipped, *after]
    return tensor
