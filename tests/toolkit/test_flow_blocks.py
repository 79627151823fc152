"""Warping and correlation in their two forms against independent sums, and the upsampler untrained."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from toolkit.flow_blocks import ConvexUpsampler, SoftArgmax, correlation, normalised, warp

SIZES = st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(2, 9), st.integers(2, 40))  # B, C, H, W
FORMS = ("grid_sample", "gather")


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def away_from_kinks(flow: torch.Tensor) -> torch.Tensor:
    """Flow that ends at no whole pixel, where a bilinear look-up has no derivative."""
    fraction = flow - flow.floor()
    return flow.floor() + 0.1 + 0.8 * fraction


@given(SIZES, st.sampled_from([0.5, 3.0, 200.0]), st.integers(0, 99))
def test_both_warps_agree_in_values_and_gradients(size: tuple[int, ...], reach: float, seed: int) -> None:
    batch, _, height, width = size
    flow = away_from_kinks(random(seed, batch, 2, height, width) * reach)
    wanted = random(seed + 1, *size)
    results = []
    for form in FORMS:
        features, moved = random(seed + 2, *size).requires_grad_(), flow.clone().requires_grad_()
        warped = warp(features, moved, form)
        (warped * wanted).sum().backward()
        results.append((warped, features.grad, moved.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_a_warp_by_whole_pixels_is_a_shift_that_repeats_the_border(form: str) -> None:
    features = random(0, 2, 3, 6, 7)
    flow = torch.tensor([2.0, -1.0], dtype=torch.float64).reshape(1, 2, 1, 1).expand(2, 2, 6, 7)
    rows, columns = (torch.arange(6) - 1).clamp(min=0), (torch.arange(7) + 2).clamp(max=6)
    torch.testing.assert_close(warp(features, flow, form), features[:, :, rows][:, :, :, columns])  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
def test_a_warp_interpolates_between_pixels(form: str) -> None:
    ramp = torch.arange(5.0).reshape(1, 1, 1, 5).expand(1, 1, 4, 5) + 10 * torch.arange(4.0).reshape(1, 1, 4, 1)
    flow = torch.tensor([0.25, 0.5]).reshape(1, 2, 1, 1).expand(1, 2, 4, 5)
    moved = warp(ramp.contiguous(), flow, form)  # type: ignore[arg-type]
    torch.testing.assert_close(moved[:, :, :3, :4], ramp[:, :, :3, :4] + 0.25 + 5)


@given(SIZES, st.integers(1, 4), st.integers(0, 99))
def test_both_correlations_are_the_definition(size: tuple[int, ...], radius: int, seed: int) -> None:
    first, second = random(seed, *size), random(seed + 1, *size)
    _, _, height, width = size
    steps = range(-radius, radius + 1)
    expected = torch.zeros(size[0], (2 * radius + 1) ** 2, height, width, dtype=torch.float64)
    for number, (down, right) in enumerate(itertools.product(steps, steps)):
        for y, x in itertools.product(range(height), range(width)):
            if 0 <= y + down < height and 0 <= x + right < width:
                pair = first[:, :, y, x], second[:, :, y + down, x + right]
                expected[:, number, y, x] = (pair[0] * pair[1]).mean(1)
    for form in ("matmul", "slices"):
        torch.testing.assert_close(correlation(first, second, radius, form), expected)  # type: ignore[arg-type]


@given(SIZES, st.integers(0, 99))
def test_both_correlations_have_the_same_gradients(size: tuple[int, ...], seed: int) -> None:
    results = []
    for form in ("matmul", "slices"):
        pair = [random(seed + number, *size).requires_grad_() for number in range(2)]
        correlation(pair[0], pair[1], 2, form).sin().sum().backward()  # type: ignore[arg-type]
        results.append([tensor.grad for tensor in pair])
    torch.testing.assert_close(results[0], results[1])


def test_the_correlation_of_normalised_features_with_themselves_is_one() -> None:
    features = normalised(random(0, 1, 16, 5, 6) * 7 + 1)
    costs = correlation(features, features, 1)
    torch.testing.assert_close(costs[:, 4], torch.ones_like(costs[:, 4]), atol=1e-4, rtol=0)
    assert costs.abs().max() <= 1 + 1e-9


def test_a_certain_match_is_its_own_displacement() -> None:
    costs = torch.full((1, 25, 2, 3), -1.0)
    costs[:, 2 * 5 + 4] = 1.0  # no row down, two columns to the right
    displacement = SoftArgmax(radius=2, sharpness=20.0)(costs)
    torch.testing.assert_close(displacement[:, 0], torch.full((1, 2, 3), 2.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(displacement[:, 1], torch.zeros(1, 2, 3), atol=1e-3, rtol=0)


def test_an_untrained_upsampler_is_nearly_bilinear() -> None:
    torch.manual_seed(0)
    flow, features = torch.randn(2, 2, 6, 7), torch.randn(2, 8, 6, 7)
    finer = ConvexUpsampler(8, 4)(flow, features)
    assert finer.shape == (2, 2, 24, 28)
    smooth = F.interpolate(flow * 4, scale_factor=4, mode="bilinear", align_corners=False)
    assert (finer - smooth).abs().max() < 0.1 * smooth.abs().max()


def test_an_upsampler_gives_nothing_beyond_its_neighbours_whatever_its_weights() -> None:
    torch.manual_seed(0)
    upsampler = ConvexUpsampler(8, 4)
    torch.nn.init.normal_(upsampler.weights.weight, std=50)  # large enough to overflow a softmax without care
    flow = torch.randn(1, 2, 6, 7)
    finer = upsampler(flow, torch.randn(1, 8, 6, 7))
    most = F.interpolate(F.max_pool2d(F.pad(flow, [1] * 4, mode="replicate"), 3, 1) * 4, scale_factor=4)
    least = F.interpolate(-F.max_pool2d(F.pad(-flow, [1] * 4, mode="replicate"), 3, 1) * 4, scale_factor=4)
    assert bool((finer <= most + 1e-4).all())
    assert bool((finer >= least - 1e-4).all())


def test_places_in_a_frame_are_exact_under_autocast() -> None:
    """bf16 has no number between 256 and 258, and none between 64 and 64.5."""
    columns = torch.arange(300.0).expand(1, 1, 4, 300)
    flow = torch.zeros(1, 2, 4, 300)
    flow[:, 0] = -0.3
    with torch.autocast("cpu", torch.bfloat16):
        shifted = warp(columns, flow)
        found = SoftArgmax(radius=2)(torch.rand(1, 25, 4, 300))
        finer = ConvexUpsampler(8, factor=4)(flow + 64.3, torch.zeros(1, 8, 4, 300))
    torch.testing.assert_close(shifted[..., 1:], columns[..., 1:] - 0.3)
    assert found.dtype == torch.float32
    torch.testing.assert_close(finer[0, 1], torch.full((16, 1200), 4 * 64.3))
