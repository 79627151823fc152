"""Decode clips and pictures larger than an artifact was exported for, tile by tile, in memory that does not grow.

`plan` says where the tiles lie and what of each is used; `decode_tiled` runs them and yields finished frames.

**Why tiles are exact.** Along an axis with `factor` f and `dropped` d, output k belongs to the latent position
p = (k + d) // f, and depends on the latent positions p - before to p + after alone; how, is the same everywhere, but
that the edges of the clip are padded (`export.lowering.reach` measures and checks both). A tile over the positions
s to s + n therefore gives output k - f s of its own the number that the whole gives output k, but for rounding,

- where p - before >= s, or s = 0: what lies before the tile is not seen, or is the true edge, padded as in the whole;
- and p + after < s + n, or s + n is the true end: likewise.

Tiles start at 0 and advance by n - before - after; the last one is moved back to end where the latent ends. Each
contributes only such outputs, and these follow one another without a gap: the first tile from 0, every next one from
where the one before left off, the last one up to the end. The axes are independent: tiles of one axis, put together,
are the whole along it, so the argument serves for each of the three in turn.

**Where they are not.** A norm or an attention over the whole picture sees everything: no tile is exact. In space,
tiles then overlap, and are blended linearly where they do (`Plan.exact` is False). In time, this is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import NonNegativeInt, PositiveInt, model_validator

from toolkit.errors import CheckFailed, UserError
from toolkit.schema import StrictModel

Size = tuple[int, int, int]
"""Latent frames, rows and columns."""

How = Literal["exact", "blended"]


class Axis(StrictModel):
    """How the outputs along one axis follow from the latent's positions: n of them give `factor * n - dropped`.

    Output k belongs to position p = (k + dropped) // factor and depends on the positions from p - `before` to
    p + `after`, counted at the latent's resolution; None: on all, wherever they are.
    """

    factor: PositiveInt
    dropped: int = 0
    before: NonNegativeInt | None = None
    after: NonNegativeInt | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Axis:
        if (self.before is None) != (self.after is None):
            raise ValueError("before and after are both given, or neither")
        if self.before is not None and self.before * self.factor < self.dropped:
            raise ValueError("before must reach over the dropped outputs, for a tile does not have them")
        return self

    @property
    def smallest_tile(self) -> int | None:
        """The fewest positions a tile needs to be exact; None where no tile but the whole is."""
        return None if self.before is None or self.after is None else self.before + self.after + 1

    def outputs(self, positions: int) -> int:
        """How many outputs so many latent positions give."""
        return self.factor * positions - self.dropped


class Tiling(StrictModel):
    """What tiles of a decoder must heed along each axis."""

    time: Axis
    rows: Axis
    columns: Axis


@dataclass(frozen=True)
class Window:
    """One tile along one axis: where it starts in the latent, and what of the whole's outputs it gives."""

    start: int
    outputs: slice
    offset: int  # of the first of these among the tile's own outputs
    weights: np.ndarray | None = None  # of each of them; None: 1

    @property
    def own(self) -> slice:
        """The same outputs, counted within the tile."""
        return slice(self.offset, self.offset + self.outputs.stop - self.outputs.start)


@dataclass(frozen=True)
class AxisPlan:
    """The windows along one axis, in order, and the number of outputs that they make together."""

    how: How
    outputs: int
    windows: list[Window]


@dataclass(frozen=True)
class Plan:
    """Where the tiles lie; every combination of a window in time, in rows and in columns is one run."""

    time: AxisPlan
    rows: AxisPlan
    columns: AxisPlan

    @property
    def exact(self) -> bool:
        """Whether the result is that of the whole clip in one; otherwise it is blended."""
        return all(axis.how == "exact" for axis in (self.time, self.rows, self.columns))

    @property
    def runs(self) -> int:
        return len(self.time.windows) * len(self.rows.windows) * len(self.columns.windows)


def plan(latent: Size, tile: Size, tiling: Tiling, blend: int | None = None) -> Plan:
    """Lay tiles of the size `tile` over a latent: exact ones wherever the tile is larger than the model's reach.

    Where it is not, tiles overlap in space by `blend` latent positions, by default a quarter of the tile. Raises
    `UserError` where the latent is smaller than a tile, and where tiles of time would not be exact.
    """
    if any(have < need for have, need in zip(latent, tile, strict=True)):
        raise UserError(
            f"a latent of {_shape(latent)} (frames x rows x columns) is smaller than the artifact's {_shape(tile)}; "
            f"export one with --shape {_shape(tuple(map(min, latent, tile)))}"
        )
    _check_time(latent, tile, tiling.time)
    time, rows, columns = (
        _axis_plan(length, extent, axis, blend)
        for length, extent, axis in zip(latent, tile, (tiling.time, tiling.rows, tiling.columns), strict=True)
    )
    return Plan(time, rows, columns)


def decode_tiled(
    run: Callable[[np.ndarray], np.ndarray],
    latent: np.ndarray,
    tile: Size,
    tiling: Tiling,
    blend: int | None = None,
) -> Iterator[np.ndarray]:
    """Decode `latent`, `(T, C, H, W)`, by runs on tiles `(L, C, h, w)`; yields frames `(t, 3, H', W')` in their order.

    What is kept is one tile's output and the frames being put together, at most as many as one tile gives. Raises as
    `plan` does, at once, and `CheckFailed` where `run` gives frames of another shape than `tiling` says.
    """
    frames, _, height, width = latent.shape
    return _decode(run, latent, tile, tiling, plan((frames, height, width), tile, tiling, blend))


def _decode(
    run: Callable[[np.ndarray], np.ndarray], latent: np.ndarray, tile: Size, tiling: Tiling, layout: Plan
) -> Iterator[np.ndarray]:
    length, height, width = tile
    axes = (tiling.time, tiling.rows, tiling.columns)
    expected = tuple(axis.outputs(size) for axis, size in zip(axes, tile, strict=True))
    for time in layout.time.windows:
        frames: np.ndarray | None = None
        for row in layout.rows.windows:
            for column in layout.columns.windows:
                piece = latent[time.start :, :, row.start :, column.start :][:length, :, :height, :width]
                decoded = run(np.ascontiguousarray(piece))
                if decoded.ndim != 4 or (decoded.shape[0], *decoded.shape[2:]) != expected:
                    raise CheckFailed(
                        f"the artifact gave frames of shape {list(decoded.shape)} where its tiling says "
                        f"{_shape(expected)} (frames x rows x columns); export it again"
                    )
                if frames is None:
                    count = time.outputs.stop - time.outputs.start
                    shape = (count, decoded.shape[1], layout.rows.outputs, layout.columns.outputs)
                    frames = np.zeros(shape, decoded.dtype)
                frames[:, :, row.outputs, column.outputs] += _weighted(decoded[time.own], row, column)
        assert frames is not None
        yield frames


def _weighted(decoded: np.ndarray, row: Window, column: Window) -> np.ndarray:
    """What a tile contributes to its frames: its part, weighted where it is blended with its neighbours'."""
    part = decoded[:, :, row.own, column.own]
    if row.weights is not None:
        part = part * row.weights[:, None].astype(part.dtype)
    if column.weights is not None:
        part = part * column.weights.astype(part.dtype)
    return part


def _check_time(latent: Size, tile: Size, axis: Axis) -> None:
    """Frames are never blended: raise `UserError` where the clip is longer than a tile that cannot be exact."""
    needed = axis.smallest_tile
    if latent[0] == tile[0] or (needed is not None and tile[0] >= needed):
        return
    if needed is None or needed >= latent[0]:
        remedy = f"decode the clip in one: export again with --shape {_shape((latent[0], *tile[1:]))}"
    else:
        remedy = f"export again with --shape {_shape((needed, *tile[1:]))}; more frames make fewer tiles"
    sees = "the whole clip" if needed is None else f"{axis.before} latent frames before and {axis.after} after it"
    raise UserError(f"the artifact decodes {tile[0]} latent frames at a time, but a frame depends on {sees}; {remedy}")


def _axis_plan(length: int, tile: int, axis: Axis, blend: int | None) -> AxisPlan:
    total = axis.outputs(length)
    if length == tile:
        return AxisPlan("exact", total, [Window(0, slice(0, total), 0)])
    if axis.before is not None and axis.after is not None and tile > axis.before + axis.after:
        return AxisPlan("exact", total, _exact(length, tile, axis, axis.after, tile - axis.before - axis.after))
    overlap = max(1, tile // 4) if blend is None else blend
    if not 0 < overlap < tile or axis.factor * overlap <= axis.dropped:
        raise UserError(f"tiles of {tile} positions cannot overlap by {overlap}; choose 1 to {tile - 1}")
    return AxisPlan("blended", total, _blended(length, tile, axis, overlap))


def _starts(length: int, tile: int, step: int) -> list[int]:
    """From 0 on in steps; the last tile ends where the latent does."""
    return [*range(0, length - tile, step), length - tile]


def _exact(length: int, tile: int, axis: Axis, after: int, step: int) -> list[Window]:
    windows: list[Window] = []
    begin = 0
    for start in _starts(length, tile, step):
        stop = start + tile
        end = axis.outputs(stop if stop == length else stop - after)
        windows.append(Window(start, slice(begin, end), begin - axis.factor * start))
        begin = end
    return windows


def _blended(length: int, tile: int, axis: Axis, overlap: int) -> list[Window]:
    """Weights rise and fall linearly over an overlap; at every output, those of all tiles add up to 1."""
    starts = _starts(length, tile, tile - overlap)
    count, ramp = axis.outputs(tile), axis.outputs(overlap)
    rise = np.minimum((np.arange(count) + 0.5) / ramp, 1.0)
    weights = np.zeros((len(starts), axis.outputs(length)))
    for number, start in enumerate(starts):
        first = rise if start > 0 else np.ones(count)
        last = rise[::-1] if start + tile < length else np.ones(count)
        weights[number, axis.factor * start :][:count] = np.minimum(first, last)
    weights /= weights.sum(axis=0)
    places = [slice(axis.factor * start, axis.factor * start + count) for start in starts]
    return [
        Window(start, place, 0, weights[number, place])
        for number, (start, place) in enumerate(zip(starts, places, strict=True))
    ]


def _shape(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))
