"""Frames halfway: exact for what moves evenly, and what one frame hides is taken from the other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit.interpolation import confirmed, halfway, inside, splat

HEIGHT, WIDTH, MARGIN = 24, 32, 8


def texture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def even_flow(x: float, y: float) -> torch.Tensor:
    return torch.tensor([x, y], dtype=torch.float32).view(2, 1, 1).expand(2, HEIGHT, WIDTH).contiguous()


@given(x=st.integers(-4, 4), y=st.integers(-4, 4))
def test_halfway_of_an_even_motion_is_the_truth_in_the_interior(x: int, y: int) -> None:
    """The scene moves by (2x, 2y): the frames are windows of one texture that move the other way."""
    scene = texture(HEIGHT + 4 * MARGIN, WIDTH + 4 * MARGIN)

    def window(steps: int) -> torch.Tensor:
        top, left = 2 * MARGIN - steps * y, 2 * MARGIN - steps * x
        return scene[:, top : top + HEIGHT, left : left + WIDTH]

    found = halfway(window(0), window(2), even_flow(2 * x, 2 * y), even_flow(-2 * x, -2 * y))
    interior = (slice(None), slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
    torch.testing.assert_close(found[interior], window(1)[interior], atol=1e-4, rtol=0)


def square_at(left: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A textured square before a texture that rests, and where it is."""
    image, place = texture(HEIGHT, WIDTH), torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    image[:, 8:16, left : left + 8] = texture(8, 8, seed=1)
    place[:, 8:16, left : left + 8] = True
    return image, place


@pytest.mark.parametrize(("start", "end"), [(6, 12), (18, 12), (10, 18)])
def test_what_one_frame_hides_is_taken_from_the_other(start: int, end: int) -> None:
    (first, place), (second, next_place) = square_at(start), square_at(end)
    moved = even_flow(end - start, 0)
    found = halfway(first, second, moved * place, -moved * next_place)
    truth = square_at((start + end) // 2)[0]
    error = (found - truth).abs()
    assert error.max() < 0.02
    assert ((first + second) / 2 - truth).abs().max() > 0.3  # what blending alone would give


def test_two_equal_frames_give_the_same_again() -> None:
    image, rest = texture(HEIGHT, WIDTH), even_flow(0, 0)
    torch.testing.assert_close(halfway(image, image, rest, rest), image, atol=1e-4, rtol=0)


def test_flows_beyond_the_frame_still_give_an_image() -> None:
    image, away = texture(HEIGHT, WIDTH), even_flow(1000, -1e6)
    found = halfway(image, image, away, away)
    assert found.isfinite().all()
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-5


def test_only_what_returns_is_confirmed() -> None:
    there, back = even_flow(3, 0), even_flow(-3, 0)
    found = confirmed(there, back)
    torch.testing.assert_close(found[:, :, :-3], torch.ones(1, HEIGHT, WIDTH - 3))
    assert not found[:, :, -3:].any()  # leaves the frame
    assert confirmed(there, there).max() < 1e-6


def test_the_frame_ends_at_its_outermost_pixels() -> None:
    found = inside(even_flow(1, -0.5))[0].bool()
    assert found[1:, :-1].all()
    assert not found[0].any()
    assert not found[:, -1].any()


@given(x=st.floats(-4, 4, width=32), y=st.floats(-4, 4, width=32))
def test_splatting_loses_nothing_inside_and_moves_the_centre(x: float, y: float) -> None:
    values = torch.zeros(1, HEIGHT, WIDTH)
    values[0, 10, 12] = 2.0
    found = splat(values, even_flow(x, y))[0]
    assert float(found.sum()) == pytest.approx(2.0, abs=1e-4)
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    assert float((found * columns).sum() / 2) == pytest.approx(12 + x, abs=1e-3)
    assert float((found * rows).sum() / 2) == pytest.approx(10 + y, abs=1e-3)


def test_splatting_adds_up_what_meets_and_drops_what_leaves() -> None:
    flow = torch.zeros(2, 1, 3)
    flow[0, 0] = torch.tensor([1.0, 0.0, 5.0])
    assert splat(torch.tensor([[[1.0, 2.0, 4.0]]]), flow).tolist() == [[[0.0, 3.0, 0.0]]]
