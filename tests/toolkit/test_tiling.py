"""Tiles against the whole: the same frames, in their order, in memory that does not grow with the clip."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from export.lowering.lower import to_frames, to_video
from export.lowering.reach import reach
from toolkit import students
from toolkit.errors import CheckFailed, UserError
from toolkit.schema import validate
from toolkit.tiling import Axis, Size, Tiling, decode_tiled, plan

Run = Callable[[np.ndarray], np.ndarray]
SMALL = {"latent_channels": 4, "widths": [16, 16, 16]}
ANYWHERE = Axis(factor=1, before=0, after=0)
NOWHERE = Axis(factor=1)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def runner(module: nn.Module) -> Run:
    """An artifact of any size."""

    def run(latent: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            frames: np.ndarray = to_frames(module(to_video(torch.from_numpy(latent)))).numpy()
        return frames

    return run


def fixed(run: Run, tile: Size) -> Run:
    """An artifact of one size."""

    def strict(latent: np.ndarray) -> np.ndarray:
        assert (latent.shape[0], *latent.shape[2:]) == tile
        assert latent.flags.c_contiguous
        return run(latent)

    return strict


def together(chunks: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate(list(chunks))


def share(actual: np.ndarray, wanted: np.ndarray) -> float:
    """The greatest difference as a share of the scale."""
    assert actual.shape == wanted.shape
    return float(np.abs(actual - wanted).max() / np.abs(wanted).max())


class Upsampling(nn.Module):
    """A convolution, an upsampling and another convolution; `dropped` first frames go missing in between."""

    def __init__(self, before: int, after: int, factor: int, dropped: int) -> None:
        super().__init__()
        self.before, self.after, self.factor, self.dropped = before, after, factor, dropped
        torch.manual_seed(0)
        self.first = nn.Conv3d(1, 2, before + after + 1)
        self.second = nn.Conv3d(2, 1, before + after + 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pad = (self.before, self.after) * 3
        x = self.first(F.pad(x, pad, mode="replicate"))
        x = x.repeat_interleave(self.factor, 2)[:, :, self.dropped :].repeat_interleave(self.factor, 3)
        return self.second(F.pad(x, pad))


@st.composite
def situations(draw: st.DrawFn) -> tuple[Upsampling, Size, Size]:
    before, after, factor = draw(st.integers(0, 2)), draw(st.integers(0, 2)), draw(st.integers(1, 3))
    decoder = Upsampling(before, after, factor, draw(st.integers(0, factor - 1)))
    tile = tuple(draw(st.integers(1, 12)) for _ in range(3))
    latent = tuple(size + draw(st.integers(0, 25)) for size in tile)
    return decoder, (tile[0], tile[1], tile[2]), (latent[0], latent[1], latent[2])


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(situations())
def test_tiles_of_any_size_give_what_the_whole_gives(situation: tuple[Upsampling, Size, Size]) -> None:
    decoder, tile, size = situation
    tiling = reach(decoder, torch.randn(1, 1, *tile))
    axes = (tiling.time, tiling.rows, tiling.columns)
    enough = [have >= (axis.smallest_tile or 0) for have, axis in zip(tile, axes, strict=True)]
    assume(all(enough[i] or size[i] == tile[i] for i in range(3)))
    latent = noise(size[0], 1, *size[1:])
    run = runner(decoder)
    assert plan(size, tile, tiling).exact
    assert share(together(decode_tiled(fixed(run, tile), latent, tile, tiling)), run(latent)) <= 1e-5


@pytest.mark.parametrize(("before", "after"), [(2, 1), (3, 0), (1, 2)])
def test_no_smaller_overlap_would_do(before: int, after: int) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv3d(1, 1, before + after + 1)

    class Padded(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return convolution(F.pad(x, (before, after) * 3))

    run, tile, latent = runner(Padded()), (8, 8, 8), noise(20, 1, 8, 8)
    tiling = reach(Padded(), torch.randn(1, 1, *tile))
    assert share(together(decode_tiled(run, latent, tile, tiling)), run(latent)) <= 1e-5
    for less in ({"before": before - 1}, {"after": after - 1}):
        if min(less.values()) >= 0:
            short = tiling.model_copy(update={"time": tiling.time.model_copy(update=less)})
            assert share(together(decode_tiled(run, latent, tile, short)), run(latent)) > 1e-3


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"keep_first_frames": True},
        {"temporal_padding": "causal"},
        {"temporal_padding": "causal", "keep_first_frames": True},
    ],
    ids=["centred", "kept", "causal", "causal-kept"],
)
@pytest.mark.parametrize(
    ("tile", "size"),
    [
        ((24, 3, 4), (51, 3, 4)),
        ((2, 23, 4), (2, 41, 4)),
        ((2, 4, 26), (2, 4, 43)),
        pytest.param((23, 22, 23), (33, 25, 32), marks=pytest.mark.slow),
    ],
    ids=["time", "rows", "columns", "all"],
)
def test_demo_student_in_tiles_is_the_student(overrides: dict[str, object], tile: Size, size: Size) -> None:
    torch.manual_seed(0)
    student = students.build("turbo_vaed", "demo", SMALL | overrides).eval()
    tiling = reach(student, torch.randn(1, 4, 3, 4, 4))
    latent, run = noise(size[0], 4, *size[1:]), runner(student)
    assert plan(size, tile, tiling).exact
    assert share(together(decode_tiled(fixed(run, tile), latent, tile, tiling)), run(latent)) <= 1e-5


def test_tiles_follow_one_another_and_the_last_ends_with_the_latent() -> None:
    time = Axis(factor=2, dropped=1, before=2, after=1)
    layout = plan((14, 5, 5), (6, 5, 5), Tiling(time=time, rows=ANYWHERE, columns=ANYWHERE))
    windows = layout.time.windows
    assert [window.start for window in windows] == [0, 3, 6, 8]
    assert [window.outputs for window in windows] == [slice(0, 9), slice(9, 15), slice(15, 21), slice(21, 27)]
    assert [window.own for window in windows] == [slice(0, 9), slice(3, 9), slice(3, 9), slice(5, 11)]
    assert (layout.exact, layout.runs, layout.rows.windows[0].outputs) == (True, 4, slice(0, 5))


def test_a_latent_of_the_tile_size_is_one_run_whatever_the_reach() -> None:
    tiling = Tiling(time=NOWHERE, rows=NOWHERE, columns=NOWHERE)
    latent = noise(3, 1, 4, 5)
    chunks = list(decode_tiled(lambda x: 2 * x, latent, (3, 4, 5), tiling))
    assert plan((3, 4, 5), (3, 4, 5), tiling).exact
    np.testing.assert_array_equal(chunks, [2 * latent])


def test_frames_come_as_soon_as_they_are_done_and_no_chunk_outgrows_a_tile() -> None:
    tiling = Tiling(time=Axis(factor=2, before=1, after=1), rows=ANYWHERE, columns=ANYWHERE)
    runs: list[int] = []

    def run(latent: np.ndarray) -> np.ndarray:
        runs.append(len(runs))
        return latent.repeat(2, 0)

    latent = noise(40, 1, 4, 4)
    frames = decode_tiled(run, latent, (4, 4, 2), tiling)
    assert runs == []
    first = next(frames)
    assert len(runs) == 2  # the two tiles that make its width
    chunks = [first, *frames]
    assert max(len(chunk) for chunk in chunks) <= 8
    np.testing.assert_array_equal(np.concatenate(chunks), latent.repeat(2, 0))


class PictureNorm(nn.Module):
    """A convolution, a norm over each whole picture, twice as many rows and columns."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv3d(1, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.convolution(x)
        x = x / x.square().mean((1, 3, 4), keepdim=True).sqrt()
        return x.repeat_interleave(2, 3).repeat_interleave(2, 4)


def test_a_norm_over_the_picture_is_blended_in_space_and_never_called_exact() -> None:
    run, tile = runner(PictureNorm()), (6, 8, 8)
    tiling = reach(PictureNorm(), torch.randn(1, 1, *tile))
    latent = noise(15, 1, 21, 13)
    layout = plan((15, 21, 13), tile, tiling)
    assert (layout.exact, layout.time.how, layout.rows.how, layout.columns.how) == (False, "exact", *["blended"] * 2)
    frames, whole = together(decode_tiled(fixed(run, tile), latent, tile, tiling)), run(latent)
    assert 1e-5 < share(frames, whole) < 0.5
    np.testing.assert_array_equal(
        together(decode_tiled(run, latent[:, :, :8, :8], tile, tiling)).shape, (15, 3, 16, 16)
    )


@given(tile=st.integers(2, 12), more=st.integers(1, 30), blend=st.integers(1, 11), factor=st.sampled_from([1, 2, 8]))
def test_blended_tiles_that_agree_change_nothing(tile: int, more: int, blend: int, factor: int) -> None:
    assume(blend < tile)
    rows = Axis(factor=factor)
    tiling = Tiling(time=ANYWHERE, rows=rows, columns=rows)
    latent = noise(2, 1, tile + more, tile + 2 * more)
    enlarge: Run = lambda x: x.repeat(factor, 2).repeat(factor, 3)  # noqa: E731
    frames = together(decode_tiled(enlarge, latent, (1, tile, tile), tiling, blend))
    np.testing.assert_allclose(frames, enlarge(latent), rtol=1e-5, atol=1e-6)


def test_blending_goes_over_from_one_tile_to_the_next_in_a_straight_line() -> None:
    tiling = Tiling(time=ANYWHERE, rows=ANYWHERE, columns=NOWHERE)
    tiles = iter([0.0, 1.0])
    frames = together(decode_tiled(lambda x: x + next(tiles), np.zeros((1, 1, 1, 12)), (1, 1, 8), tiling, 4))
    np.testing.assert_allclose(frames[0, 0, 0], [0, 0, 0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1, 1, 1])


def test_tiles_that_the_reach_fills_are_blended_over_a_quarter() -> None:
    rows = Axis(factor=1, before=4, after=4)
    tiling = Tiling(time=ANYWHERE, rows=rows, columns=rows)
    layout = plan((1, 20, 20), (1, 8, 9), tiling)
    assert (layout.rows.how, layout.columns.how) == ("blended", "exact")
    assert [window.start for window in layout.rows.windows] == [0, 6, 12]


@pytest.mark.parametrize(
    ("latent", "tile", "time", "said"),
    [
        ((4, 8, 8), (6, 8, 8), ANYWHERE, "latent of 4x8x8 .* smaller than the artifact's 6x8x8; .* --shape 4x8x8"),
        ((9, 8, 7), (6, 8, 8), ANYWHERE, "latent of 9x8x7 .* --shape 6x8x7"),
        ((30, 8, 8), (5, 8, 8), Axis(factor=2, before=3, after=2), "3 latent frames before and 2 after.*--shape 6x8x8"),
        ((7, 8, 8), (5, 8, 8), Axis(factor=2, before=9, after=2), "in one: export again with --shape 7x8x8"),
        ((30, 8, 8), (5, 8, 8), NOWHERE, "depends on the whole clip; .* --shape 30x8x8"),
    ],
)
def test_what_cannot_be_tiled_is_refused_at_once_with_the_shape_to_export(
    latent: Size, tile: Size, time: Axis, said: str
) -> None:
    tiling = Tiling(time=time, rows=ANYWHERE, columns=ANYWHERE)
    with pytest.raises(UserError, match=said):
        decode_tiled(lambda x: x, noise(latent[0], 1, *latent[1:]), tile, tiling)


@pytest.mark.parametrize("blend", [0, 8, -1])
def test_an_overlap_that_no_tile_has_is_refused(blend: int) -> None:
    with pytest.raises(UserError, match="choose 1 to 7"):
        plan((1, 20, 20), (1, 8, 8), Tiling(time=ANYWHERE, rows=NOWHERE, columns=NOWHERE), blend)


def test_an_artifact_that_gives_other_frames_than_its_tiling_says_fails_the_check() -> None:
    tiling = Tiling(time=Axis(factor=2, before=0, after=0), rows=ANYWHERE, columns=ANYWHERE)
    with pytest.raises(CheckFailed, match=r"\[3, 1, 4, 4\] where its tiling says 6x4x4"):
        next(decode_tiled(lambda x: x, noise(9, 1, 4, 4), (3, 4, 4), tiling))


def test_tiling_is_plain_data_for_a_manifest() -> None:
    tiling = Tiling(time=Axis(factor=2, dropped=1, before=10, after=9), rows=NOWHERE, columns=NOWHERE)
    assert validate(Tiling, tiling.model_dump(mode="json"), "manifest") == tiling


@pytest.mark.parametrize("wrong", [{"before": 1}, {"before": 0, "after": 0, "dropped": 1}, {"factor": 0}])
def test_an_axis_that_contradicts_itself_is_no_axis(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Axis.model_validate({"factor": 2, **wrong})
