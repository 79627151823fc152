"""Flow in tiles, by a matcher whose reach is known: what it may and may not find, and where its windows lie."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from devices.flow_tiles import is_large, resized, scaled, tile_count, tiled_flow
from devices.memory import peak_of

TILE = (32, 48)
REACH = 8.0


class Matcher:
    """Reads flow off images that hold positions: exact up to `REACH` pixels of its images, wrong beyond.

    The first image says where each pixel is, the second where it was; the third channel is free.
    """

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        assert tuple(first.shape) == tuple(second.shape) == (3, *TILE)
        self.runs += 1
        # how far apart pixels are, over the inner ones: resizing bends the outermost
        steps = torch.stack([(first[0, 16, 40] - first[0, 16, 8]) / 32, (first[1, 28, 24] - first[1, 4, 24]) / 24])
        flow = (first - second)[:2] / steps[:, None, None]
        return torch.where((flow.abs() <= REACH).all(dim=0), flow, -REACH)


def positions(height: int, width: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    return torch.stack([columns, rows, torch.zeros_like(rows)])


def moved(flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images whose `Matcher` is `flow` `(2, H, W)`, wherever that is the same along itself."""
    first = positions(*flow.shape[1:])
    return first, first - torch.cat([flow, torch.zeros_like(flow[:1])])


def steady(x: float, y: float, height: int, width: int) -> torch.Tensor:
    return torch.tensor([x, y])[:, None, None].expand(2, height, width).clone()


@given(st.integers(32, 150), st.integers(48, 220), st.floats(-7, 7), st.floats(-7, 7))
def test_a_steady_motion_is_found_however_long_it_is_in_pixels(height: int, width: int, x: float, y: float) -> None:
    flow = steady(x * width / TILE[1], y * height / TILE[0], height, width)  # at full resolution often beyond REACH
    matcher, ticks = Matcher(), [0]

    def tick() -> None:
        ticks[0] += 1

    found = tiled_flow(matcher, *moved(flow), TILE, REACH, tick)
    errors = (found - flow).abs()
    assert errors.mean() < 0.05
    assert errors.max() < 1  # resizing bends positions at the border
    assert matcher.runs == ticks[0] == tile_count((height, width), TILE)


def test_tiles_see_what_is_lost_when_the_frame_is_made_small() -> None:
    flow = steady(0, 0, 128, 192)
    flow[0, torch.arange(128) % 8 < 4] = 4  # stripes of four rows: a quarter of the resolution has their mean alone
    images = moved(flow)
    squeezed = scaled(Matcher()(*(resized(image, TILE) for image in images)), (128, 192))
    tiled = tiled_flow(Matcher(), *images, TILE, REACH)
    assert (squeezed - flow).abs().mean() > 0.5
    assert (tiled - flow).abs().mean() < 0.01


def test_a_motion_that_a_tile_cannot_follow_keeps_the_flow_of_the_whole() -> None:
    flow = steady(0, 0, 128, 192)
    flow[0, 56:72, 80:112] = 20  # 5 pixels of the whole, made small; beyond the reach at full resolution
    found = tiled_flow(Matcher(), *moved(flow), TILE, REACH)
    assert (found[0, 60:68, 86:106] - 20).abs().max() < 2
    assert found[:, :40].abs().max() < 1e-3


@pytest.mark.parametrize("direction", [(1, 0), (-1, 0), (0, 1), (0, -1), (1, -1)])
def test_windows_stay_within_the_frame_where_the_motion_leaves_it(direction: tuple[int, int]) -> None:
    flow = steady(20.0 * direction[0], 20.0 * direction[1], 128, 192)  # at the border more than the reach is left
    found = tiled_flow(Matcher(), *moved(flow), TILE, REACH)
    torch.testing.assert_close(found, flow, atol=0.05, rtol=0.01)


def test_images_in_8_bits_give_what_they_give_as_floats() -> None:
    random = torch.Generator().manual_seed(0)
    images = [torch.randint(256, (3, 70, 130), dtype=torch.uint8, generator=random) for _ in range(2)]

    def difference(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return (scale(first) - scale(second))[:2]

    def scale(image: torch.Tensor) -> torch.Tensor:
        return image.float() / 255 if image.dtype == torch.uint8 else image

    expected = tiled_flow(difference, *(image / 255 for image in images), TILE, REACH)
    torch.testing.assert_close(tiled_flow(difference, *images, TILE, REACH), expected)


def test_an_image_is_large_beyond_twice_a_side() -> None:
    assert not is_large((64, 96), TILE)
    assert is_large((65, 96), TILE)
    assert is_large((64, 97), TILE)
    assert is_large((32, 97), TILE)


def test_one_more_scale_has_four_times_the_tiles_or_so() -> None:
    assert tile_count(TILE, TILE) == 2  # the frame as a whole, and again as the only tile
    assert tile_count((64, 96), TILE) == 1 + 9
    assert tile_count((128, 192), TILE) == 1 + 9 + 25


@pytest.mark.slow
def test_a_frame_of_8k_takes_bounded_memory() -> None:
    first = torch.randint(256, (3, 4320, 7680), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found: list[torch.Tensor] = []

    def still(first: torch.Tensor, _second: torch.Tensor) -> torch.Tensor:
        return torch.zeros(2, *first.shape[1:])

    memory = peak_of(lambda: found.append(tiled_flow(still, first, first, (384, 512), 64)))
    assert found[0].shape == (2, 4320, 7680)
    flow_bytes = found[0].nbytes
    assert memory.peak_bytes - memory.baseline_bytes < 6 * flow_bytes  # two flows, weights, and a scale being made
