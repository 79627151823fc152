"""Packed tensors: any chain of reshapes and permutations, held at rank 4, equals torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from export.lowering import packed
from export.lowering.packed import Packed, Unrepresentable, rearrange

FRAMES = (3, 8, 4, 6)


@st.composite
def shapes(draw: st.DrawFn, elements: int) -> list[int]:
    """A factorisation of `elements` into 1 to 8 dimensions, some of them 1."""
    sizes, left = [], elements
    for _ in range(draw(st.integers(0, 7))):
        divisors = [d for d in range(1, left + 1) if left % d == 0]
        size = draw(st.sampled_from(divisors))
        sizes.append(size)
        left //= size
    return [*sizes, left]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_chain_of_reshapes_and_permutations_equals_torch(data: st.DataObject) -> None:
    frames = torch.arange(math.prod(FRAMES)).reshape(FRAMES)
    ours = Packed.from_frames(frames)
    truth = frames.transpose(0, 1)[None]
    for _ in range(data.draw(st.integers(1, 5))):
        if data.draw(st.booleans()):
            order = data.draw(st.permutations(range(truth.ndim)))
            ours, truth = ours.permute(order), truth.permute(order)
        else:
            shape = data.draw(shapes(truth.numel()))
            ours, truth = ours.reshape(shape), truth.reshape(shape)
        assert ours.shape == tuple(truth.shape)
        assert ours.storage.ndim <= 4
    assert torch.equal(ours.reshape([truth.numel()]).plain(), truth.reshape(-1))


@pytest.mark.parametrize("spelling", ["joint", "decoupled", "patches of columns first"])
def test_a_three_dimensional_pixel_shuffle_in_any_spelling_ends_in_one_pixel_shuffle(
    spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = torch.randn(3, 16, 2, 5)
    x, video = Packed.from_frames(frames), frames.transpose(0, 1)[None]

    def spell(v: torch.Tensor | Packed) -> torch.Tensor | Packed:
        if spelling == "joint":  # channels (c, st, sh, sw)
            return v.reshape([1, 2, 2, 2, 2, 3, 2, 5]).permute([0, 1, 5, 2, 6, 3, 7, 4]).reshape([1, 2, 6, 4, 10])
        if spelling == "decoupled":  # channels (c, sh, sw, st)
            v = v.reshape([1, 8, 2, 3, 2, 5]).permute([0, 1, 3, 2, 4, 5]).reshape([1, 8, 6, 2, 5])
            v = v.reshape([1, 2, 2, 2, 6, 2, 5]).permute([0, 1, 4, 5, 2, 6, 3]).reshape([1, 2, 6, 4, 10])
            return v
        return v.reshape([1, 4, 2, 2, 3, 2, 5]).permute([0, 1, 4, 5, 3, 6, 2]).reshape([1, 4, 3, 4, 10])

    calls = []
    monkeypatch.setattr(packed.F, "pixel_shuffle", lambda t, r: calls.append(r) or torch.pixel_shuffle(t, r))
    result = spell(x)
    assert isinstance(result, Packed)
    assert torch.equal(result.frames(), spell(video)[0].transpose(0, 1))
    assert calls == [2]


def test_reshaping_and_permuting_move_no_data() -> None:
    frames = torch.randn(FRAMES)
    result = Packed.from_frames(frames).reshape([2, 4, 3, 4, 6]).permute([1, 0, 2, 4, 3])
    assert result.storage is frames


def test_frames_of_a_batch_are_refused() -> None:
    with pytest.raises(Unrepresentable):
        Packed.from_frames(torch.randn(FRAMES)).reshape([2, 4, 3, 4, 6]).frames()


def test_five_dimensions_of_more_than_one_element_are_refused_as_a_plain_tensor() -> None:
    with pytest.raises(Unrepresentable):
        Packed.from_frames(torch.randn(FRAMES)).reshape([2, 4, 3, 4, 6]).plain()


def test_a_pixel_shuffle_of_plain_frames_is_recognised() -> None:
    frames = torch.randn(2, 12, 3, 4)
    x = Packed.of(frames).reshape([2, 3, 2, 2, 3, 4]).permute([0, 1, 4, 2, 5, 3]).reshape([2, 3, 6, 8])
    assert torch.equal(x.plain(), F.pixel_shuffle(frames, 2))


def test_rearranging_to_the_same_layout_gives_the_same_tensor() -> None:
    x = Packed.of(torch.randn(2, 3))
    assert rearrange(x.storage, x.axes, x.axes) is x.storage
