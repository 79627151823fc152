"""How far an output of a video decoder sees along each axis of its latent: what exact tiles must overlap by.

Nothing is assumed of the model. Its graph is run on latents that hold NaN at one position of one axis, for NaN
spreads through whatever an output depends on, be its weight zero. Operators that would swallow it are made not to
(elementwise ones), or are found by a second probe that changes the position's values instead. Then it is checked that
a clip cut short gives the same numbers beyond the reach found: a model may also treat positions unlike each other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from export.lowering.refusal import LoweringError
from toolkit.tiling import Axis, Tiling

TIME, ROWS, COLUMNS = 2, 3, 4
LENGTHS = (9, 17, 33, 65, 129)  #: of the axis looked at, more and more until the influence of its middle fits in
SIDE = 2  #: of the other axes, where the model takes so small a latent
MAGNITUDE = 1e3  #: of the second probe's values, as a multiple of the usual ones
TOLERANCE = 1e-5  #: for what is called the same, as a share of the output's scale

_UNFIT = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, NotImplementedError)


def reach(module: nn.Module, latent: torch.Tensor) -> Tiling:
    """What tiles of a decoder `(1, C, T, h, w)` to `(1, 3, T', H, W)` must heed, along each axis.

    `before` and `after` are None where the influence of one position covers all that was looked at (a norm or an
    attention over the whole axis), or where the model treats positions unlike each other. Of `latent`, the channels
    and the spread of its values matter, and its size only to models that take no smaller one. Raises `LoweringError`
    where the output is no video whose size follows the latent's.
    """
    with torch.no_grad():
        time, rows, columns = (_axis(_probe(module.eval(), latent, dim)) for dim in (TIME, ROWS, COLUMNS))
    return Tiling(time=time, rows=rows, columns=columns)


@dataclass(frozen=True)
class _Probe:
    """A decoder on noise that is long along one axis, `dim`, and as small as may be along the others."""

    decoder: nn.Module
    dim: int
    length: int  # that the model is to be used with
    noise: Callable[[int], torch.Tensor]

    def run(self, latent: torch.Tensor) -> torch.Tensor:
        """The video, with the axis looked at first."""
        try:
            video = self.decoder(latent.clone())
        except _UNFIT as error:
            reason = " ".join(str(error).split())[:200]
            raise LoweringError(
                f"{self._name} takes no latent of {list(latent.shape)} ({reason}): it cannot be tiled; use it whole"
            ) from error
        if not isinstance(video, torch.Tensor) or video.ndim != latent.ndim:
            raise LoweringError(f"{self._name} gives no single video for a latent: it cannot be tiled; use it whole")
        return video.movedim(self.dim, 0)

    def scale(self) -> tuple[int, int]:
        """(factor, dropped): n latent positions give factor * n - dropped outputs."""
        lengths = LENGTHS[0], LENGTHS[0] - 1, LENGTHS[0] - 2
        sizes = [self.run(self.noise(length)).shape[0] for length in lengths]
        factor = sizes[0] - sizes[1]
        if factor < 1 or sizes[1] - sizes[2] != factor:
            raise LoweringError(
                f"{self._name} gives {sizes[2]}, {sizes[1]} and {sizes[0]} outputs for {lengths[2]} to {lengths[0]} "
                "latent positions, not as many more for each: it cannot be tiled; use it whole"
            )
        return factor, factor * lengths[0] - sizes[0]

    def influenced(self, length: int) -> list[int] | None:
        """The outputs that depend on the middle position; None where the first or the last is among them."""
        latent = self.noise(length)
        with _Spreading():
            depends = _differs(self.run(self._with_middle(latent, latent.new_tensor(torch.nan))))
        if _fits(depends):
            other = self.noise(length + 1).select(self.dim, 0) * MAGNITUDE
            depends |= _differs(self.run(latent), self.run(self._with_middle(latent, other)))
        return list(map(int, depends.nonzero())) if _fits(depends) else None

    def repeats_itself(self, axis: Axis) -> bool:
        """Whether a clip cut at its start or its end gives the same numbers beyond the reach of the cut.

        Cut, it has the model's own length where that is enough: some models do otherwise with longer ones.
        """
        assert axis.before is not None
        assert axis.after is not None
        length = max(LENGTHS[0], axis.before + axis.after + 4, self.length + 1)
        latent = self.noise(length)
        whole = self.run(latent)
        late = self.run(latent.narrow(self.dim, 1, length - 1))
        early = self.run(latent.narrow(self.dim, 0, length - 1))
        begin, end = axis.outputs(axis.before), axis.outputs(length - 1 - axis.after)
        pairs = (whole[axis.factor + begin :], late[begin:]), (whole[:end], early[:end])
        bound = TOLERANCE * whole.abs().max()
        return all(a.shape == b.shape and bool((a - b).abs().max() <= bound) for a, b in pairs)

    def in_fp64(self) -> _Probe:
        """The same probe of the same decoder in double precision, or in its own where it takes no other."""
        decoder = copy.deepcopy(self.decoder).double()
        probe = replace(self, decoder=decoder, noise=lambda length: self.noise(length).double())
        try:
            probe.run(probe.noise(LENGTHS[0]))
        except LoweringError:
            return self
        return probe

    def _with_middle(self, latent: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        changed = latent.clone()
        changed.select(self.dim, latent.shape[self.dim] // 2).copy_(values)
        return changed

    @property
    def _name(self) -> str:
        return type(self.decoder).__name__


class _Spreading(TorchDispatchMode):
    """Where an elementwise operator takes NaN, it gives NaN: also `where`, `nan_to_num` and their like."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.pointwise not in func.tags:
            return func(*args, **kwargs)
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and t.is_floating_point()]
        unknown = [tensor.isnan() for tensor in given]  # before the call, which may work in place
        result = func(*args, **kwargs)
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            for mask in unknown:
                result.masked_fill_(mask, torch.nan)
        return result


def _probe(module: nn.Module, latent: torch.Tensor, dim: int) -> _Probe:
    """The smallest probe that the model takes: small along the other axes, or else of the latent's own size."""
    spread = float(latent.square().mean().sqrt()) or 1.0

    def probe(sides: list[int]) -> _Probe:
        def noise(length: int) -> torch.Tensor:
            shape = [*latent.shape[:TIME], *sides]
            shape[dim] = length
            generator = torch.Generator().manual_seed(length)
            return torch.randn(shape, generator=generator, dtype=latent.dtype) * spread

        return _Probe(module, dim, latent.shape[dim], noise)

    small = probe([min(SIDE, size) for size in latent.shape[TIME:]])
    try:
        small.run(small.noise(LENGTHS[0]))
    except LoweringError:
        return probe(list(latent.shape[TIME:]))
    return small


def _axis(probe: _Probe) -> Axis:
    factor, dropped = probe.scale()
    whole = Axis(factor=factor, dropped=dropped)
    for length in LENGTHS:
        found = probe.influenced(length)
        if found is None:
            continue
        distances = [0, *((output + dropped) // factor - length // 2 for output in found)]
        # Outputs dropped inside the model are missing from a tile's first positions: those count as not seen.
        lost = max(0, -(-dropped // factor))
        axis = Axis(factor=factor, dropped=dropped, before=max(distances) + lost, after=-min(distances))
        # Rounding can look like a difference where a model amplifies it; in fp64 it does not.
        return axis if probe.repeats_itself(axis) or probe.in_fp64().repeats_itself(axis) else whole
    return whole


def _differs(video: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
    """For each position along the first axis: is anything there NaN, or unlike the other's?"""
    changed = video.isnan() if other is None else video != other
    return changed.flatten(1).any(1)


def _fits(depends: torch.Tensor) -> bool:
    return not bool(depends[0] | depends[-1])
