"""Blocks of video students, each against a numpy computation of its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from toolkit.blocks import (
    ChannelLayerNorm,
    ChannelRMSNorm,
    Conv3d,
    DecoupledPixelShuffle3d,
    SeparableConv3d,
    pad_time,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy().astype(np.float64)


def windows(x: np.ndarray, kernel: int) -> np.ndarray:
    """`(B, C, T, H, W, k, k, k)`: the neighbourhood of every position, time repeated and space zero at the borders."""
    side = kernel // 2
    x = np.pad(x, ((0, 0), (0, 0), (side, side), (0, 0), (0, 0)), mode="edge")
    x = np.pad(x, ((0, 0), (0, 0), (0, 0), (side, side), (side, side)))
    return sliding_window_view(x, (kernel, kernel, kernel), axis=(2, 3, 4))


def shuffle_one_at_a_time(x: np.ndarray, time: int, space: int) -> np.ndarray:
    """Channel ((c*s + dy)*s + dx)*st + dt of position (t, h, w) goes to channel c of (t*st+dt, h*s+dy, w*s+dx)."""
    batch, channels, frames, height, width = x.shape
    out = np.full((batch, channels // (time * space**2), frames * time, height * space, width * space), np.nan)
    for b, channel, t, h, w in np.ndindex(x.shape):
        rest, dt = divmod(channel, time)
        rest, dx = divmod(rest, space)
        c, dy = divmod(rest, space)
        out[b, c, t * time + dt, h * space + dy, w * space + dx] = x[b, channel, t, h, w]
    return out


@given(
    batch=st.integers(1, 2),
    channels=st.integers(1, 3),
    time=st.integers(1, 3),
    space=st.integers(1, 3),
    size=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
)
def test_pixel_shuffle_moves_every_element_to_its_place(
    batch: int, channels: int, time: int, space: int, size: tuple[int, int, int]
) -> None:
    shape = (batch, channels * time * space**2, *size)
    x = torch.arange(float(np.prod(shape))).reshape(shape)
    y = DecoupledPixelShuffle3d(time, space)(x)
    np.testing.assert_array_equal(y.numpy(), shuffle_one_at_a_time(x.numpy(), time, space))


def test_rms_norm_divides_every_position_by_the_root_mean_square_of_its_channels() -> None:
    x = random(2, 5, 3, 2, 4) * 7
    expected = array(x) / np.sqrt((array(x) ** 2).mean(axis=1, keepdims=True) + 1e-8)
    np.testing.assert_allclose(array(ChannelRMSNorm()(x)), expected, rtol=1e-5)


def test_rms_norm_of_zeros_is_zero() -> None:
    assert torch.equal(ChannelRMSNorm()(torch.zeros(1, 4, 1, 2, 2)), torch.zeros(1, 4, 1, 2, 2))


def test_layer_norm_standardises_over_channels_and_then_scales_and_shifts() -> None:
    norm = ChannelLayerNorm(5, eps=1e-6)
    with torch.no_grad():
        norm.weight.copy_(random(5, seed=1))
        norm.bias.copy_(random(5, seed=2))
    x = random(2, 5, 3, 2, 4) * 3 + 1
    values = array(x)
    mean, variance = values.mean(axis=1, keepdims=True), values.var(axis=1, keepdims=True)
    scale, shift = (array(p).reshape(1, 5, 1, 1, 1) for p in (norm.weight, norm.bias))
    expected = (values - mean) / np.sqrt(variance + 1e-6) * scale + shift
    np.testing.assert_allclose(array(norm(x)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_time_padding_repeats_the_first_and_the_last_frame(kernel: int) -> None:
    x = random(1, 2, 3, 2, 2)
    side = kernel // 2
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (side, side), (0, 0), (0, 0)), mode="edge")
    np.testing.assert_array_equal(pad_time(x, kernel).numpy(), expected)


@pytest.mark.parametrize("kernel", [1, 3])
def test_dense_convolution_sums_over_channels_and_neighbours(kernel: int) -> None:
    torch.manual_seed(0)
    block = Conv3d(3, 4, kernel)
    x = random(2, 3, 2, 4, 3)
    expected = np.einsum("bcthwijk,ocijk->bothw", windows(array(x), kernel), array(block.conv.weight))
    assert block.conv.bias is not None
    expected += array(block.conv.bias).reshape(1, 4, 1, 1, 1)
    np.testing.assert_allclose(array(block(x)), expected, atol=1e-5)


@pytest.mark.parametrize("kernel", [3, 5])
def test_separable_convolution_filters_each_channel_and_then_mixes_them_with_nothing_between(kernel: int) -> None:
    torch.manual_seed(0)
    block = SeparableConv3d(3, 4, kernel)
    x = random(1, 3, 3, 4, 3)
    depthwise, pointwise = block.depthwise_conv, block.pointwise_conv
    assert depthwise.bias is not None
    assert pointwise.bias is not None
    filtered = np.einsum("bcthwijk,cijk->bcthw", windows(array(x), kernel), array(depthwise.weight)[:, 0])
    filtered += array(depthwise.bias).reshape(1, 3, 1, 1, 1)
    expected = np.einsum("bcthw,oc->bothw", filtered, array(pointwise.weight)[:, :, 0, 0, 0])
    expected += array(pointwise.bias).reshape(1, 4, 1, 1, 1)
    np.testing.assert_allclose(array(block(x)), expected, atol=1e-5)


def test_a_clip_of_one_frame_keeps_its_length_under_every_kernel() -> None:
    x = random(1, 2, 1, 3, 3)
    assert Conv3d(2, 3)(x).shape == (1, 3, 1, 3, 3)
    assert SeparableConv3d(2, 3, 7)(x).shape == (1, 3, 1, 3, 3)
