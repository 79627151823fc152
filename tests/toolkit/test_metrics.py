"""Metrics: standard PSNR and SSIM over a fixed range, compared with numpy and with closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from toolkit.metrics import psnr, ssim, tpsnr


def noise(seed: int, *shape: int, spread: float = 1.0) -> torch.Tensor:
    values = np.random.default_rng(seed).uniform(-spread, spread, shape)
    return torch.from_numpy(values.astype(np.float32))


def numpy_psnr(prediction: np.ndarray, target: np.ndarray) -> float:
    """Of videos `(C, T, H, W)`: 10 log10(range² / MSE) of each frame, averaged."""
    errors = (prediction.astype(np.float64) - target.astype(np.float64)) ** 2
    return float(np.mean([10 * math.log10(2.0**2 / errors[:, t].mean()) for t in range(target.shape[1])]))


def numpy_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Of planes `(N, H, W)` in [0, 1]: Wang et al. 2004, an 11x11 Gaussian window of sigma 1.5, borders reflected."""
    c1, c2 = 0.01**2, 0.03**2
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / np.outer(line, line).sum()

    def mean(plane: np.ndarray) -> np.ndarray:
        padded = np.pad(plane, ((0, 0), (5, 5), (5, 5)), mode="reflect")
        return np.einsum("nhwij,ij->nhw", sliding_window_view(padded, (11, 11), axis=(1, 2)), window)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    values = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(values.mean())


@given(seed=st.integers(0, 2**32 - 1), frames=st.integers(1, 4), spread=st.floats(0.05, 1.0))
def test_psnr_is_the_textbook_formula_for_every_content(seed: int, frames: int, spread: float) -> None:
    target, prediction = noise(seed, 3, frames, 4, 5, spread=spread), noise(seed + 1, 3, frames, 4, 5)
    assert psnr(prediction, target) == pytest.approx(numpy_psnr(prediction.numpy(), target.numpy()), abs=1e-3)


@pytest.mark.parametrize("shift", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("contrast", [0.01, 0.5])
def test_brightness_shift_costs_the_closed_form_whatever_the_contrast(shift: float, contrast: float) -> None:
    target = noise(0, 3, 2, 8, 8, spread=contrast)
    assert psnr(target + shift, target) == pytest.approx(20 * math.log10(2 / shift), abs=1e-2)


def test_brightness_shift_lowers_the_psnr_of_a_noisy_reconstruction_by_the_closed_form() -> None:
    target = noise(0, 3, 2, 8, 8, spread=0.5)
    signs = torch.tensor([1.0, -1.0]).repeat(3 * 2 * 8 * 4).reshape(3, 2, 8, 8)
    error, shift = 0.1, 0.2
    lost = psnr(target + error * signs, target) - psnr(target + error * signs + shift, target)
    assert lost == pytest.approx(10 * math.log10((error**2 + shift**2) / error**2), abs=1e-3)


def test_lower_contrast_is_an_error() -> None:
    target = noise(0, 3, 2, 16, 16)
    assert psnr(target * 0.5, target) == pytest.approx(numpy_psnr(target.numpy() * 0.5, target.numpy()), abs=1e-3)
    assert ssim(target * 0.5, target) < 0.9


def test_psnr_averages_decibels_over_frames_not_errors() -> None:
    target = torch.zeros(3, 2, 4, 4)
    prediction = torch.stack([torch.full((3, 4, 4), 0.02), torch.full((3, 4, 4), 0.2)], dim=1)
    assert psnr(prediction, target) == pytest.approx((40 + 20) / 2, abs=1e-3)


def test_values_beyond_the_range_count_as_its_ends() -> None:
    target = torch.full((3, 1, 4, 4), 1.0)
    assert psnr(target * 7, target) == math.inf
    assert psnr(-7 * target, target) == pytest.approx(0.0, abs=1e-5)


def test_identical_videos_are_infinitely_good_and_wholly_similar() -> None:
    video = noise(0, 3, 2, 16, 16)
    assert psnr(video, video) == math.inf
    assert ssim(video, video) == pytest.approx(1.0, abs=1e-5)


def test_not_a_number_never_looks_good() -> None:
    target = noise(0, 3, 1, 16, 16)
    broken = target.clone()
    broken[0, 0, 3, 3] = math.nan
    assert not psnr(broken, target) > 0
    assert not ssim(broken, target) > 0


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_a_batch_scores_like_the_mean_of_its_videos(metric: object) -> None:
    assert callable(metric)
    target, prediction = noise(0, 2, 3, 2, 12, 12), noise(1, 2, 3, 2, 12, 12)
    alone = [metric(prediction[index], target[index]) for index in range(2)]
    assert metric(prediction, target) == pytest.approx(sum(alone) / 2, abs=1e-4)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_half_precision_is_scored_in_single_precision(metric: object) -> None:
    assert callable(metric)
    target, prediction = noise(0, 3, 1, 12, 12).half(), noise(1, 3, 1, 12, 12).half()
    assert metric(prediction, target) == pytest.approx(metric(prediction.float(), target.float()), abs=1e-6)


def test_ssim_is_the_published_formula() -> None:
    target = noise(3, 3, 2, 14, 17)
    prediction = (target * 0.7 + noise(4, 3, 2, 14, 17, spread=0.2) + 0.05).clamp(-1, 1)
    planes = [(video.numpy().reshape(6, 14, 17).astype(np.float64) + 1) / 2 for video in (prediction, target)]
    expected = numpy_ssim(*planes)
    assert ssim(prediction, target) == pytest.approx(expected, abs=1e-4)


def test_ssim_of_two_flat_greys_is_the_luminance_term() -> None:
    dark, bright = 0.2, 0.6
    expected = (2 * dark * bright + 0.0001) / (dark**2 + bright**2 + 0.0001)
    flat = torch.ones(3, 1, 12, 12)
    assert ssim(flat * (2 * bright - 1), flat * (2 * dark - 1)) == pytest.approx(expected, abs=1e-4)


def test_tpsnr_of_an_exact_or_evenly_shifted_video_is_infinite() -> None:
    target = (noise(0, 3, 3, 8, 8) * 64).round() / 128  # sums of these are exact
    assert tpsnr(target, target) == math.inf
    assert tpsnr(target + 0.25, target) == math.inf


def test_tpsnr_of_a_flicker_is_the_closed_form() -> None:
    still, flicker = torch.zeros(3, 4, 8, 8), 0.1
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None, None]
    change = flicker  # from +0.1 to -0.1 in [-1, 1], as a part of [0, 1]
    assert tpsnr(still + flicker * signs, still) == pytest.approx(20 * math.log10(2 / change), abs=1e-3)


def test_a_video_frozen_in_time_loses_tpsnr_by_the_motion_it_misses() -> None:
    target = noise(5, 3, 4, 8, 8)
    frozen = target[:, :1].expand_as(target)
    missed = (target.diff(dim=1) / 2).numpy().astype(np.float64) ** 2
    expected = np.mean([10 * math.log10(4 / missed[:, t].mean()) for t in range(3)])
    assert tpsnr(frozen, target) == pytest.approx(expected, abs=1e-3)
    moving = tpsnr(target + noise(6, 3, 4, 8, 8, spread=0.1), target)
    assert moving is not None
    assert expected < moving


def test_tpsnr_looks_at_each_video_of_a_batch_alone() -> None:
    target, prediction = noise(0, 2, 3, 3, 8, 8), noise(1, 2, 3, 3, 8, 8)
    alone = [tpsnr(prediction[index], target[index]) for index in range(2)]
    assert tpsnr(prediction, target) == pytest.approx(sum(x for x in alone if x is not None) / 2, abs=1e-4)


def test_a_single_frame_has_no_tpsnr() -> None:
    assert tpsnr(noise(0, 3, 1, 8, 8), noise(1, 3, 1, 8, 8)) is None


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_it_is_the_metric_of_frames_between_0_and_1(metric: Callable[..., float]) -> None:
    target, prediction = noise(0, 3, 3, 12, 12), noise(1, 3, 3, 12, 12)
    ours, theirs = ((video.transpose(0, 1) + 1) / 2 for video in (prediction, target))
    if metric is ssim:
        expected = structural_similarity_index_measure(ours, theirs, data_range=1.0)
    else:
        expected = peak_signal_noise_ratio(ours, theirs, data_range=1.0, dim=(1, 2, 3))
    assert metric(prediction, target) == pytest.approx(float(expected), abs=1e-4)
