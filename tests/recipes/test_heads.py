"""Projection heads: the grids of the published students' features, and those that no head reaches."""

from __future__ import annotations

import pytest
import torch

from recipes.heads import Head

PUBLISHED = {
    "ltx": ((1, 256, 5, 16, 16), (1, 512, 5, 16, 16), 394_240),
    "hunyuan": ((1, 512, 5, 32, 32), (1, 512, 5, 64, 64), 5_246_976),
    "cogvideox": ((1, 512, 5, 32, 32), (1, 512, 9, 64, 64), 18_882_560),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_heads_have_the_published_size(name: str) -> None:
    ours, theirs, params = PUBLISHED[name]
    with torch.device("meta"):
        head = Head(ours, theirs)
        assert head(torch.zeros(ours)).shape == theirs
    assert sum(weight.numel() for weight in head.parameters()) == params


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [((1, 4, 3, 2, 2), (1, 6, 6, 4, 4)), ((1, 4, 1, 2, 3), (1, 2, 1, 6, 9)), ((1, 4, 3, 2, 2), (1, 5, 9, 2, 2))],
)
def test_other_whole_factors_work_too(ours: tuple[int, ...], theirs: tuple[int, ...]) -> None:
    assert Head(ours, theirs)(torch.randn(ours)).shape == theirs


@pytest.mark.parametrize(
    ("frames", "becomes", "factor", "dropped"), [(3, 9, 4, 3), (2, 4, 2, 0), (2, 3, 2, 1), (1, 4, 4, 0)]
)
def test_frames_that_two_factors_fit_are_taken_as_doubled(frames: int, becomes: int, factor: int, dropped: int) -> None:
    head = Head((1, 4, frames, 2, 2), (1, 4, becomes, 2, 2))
    assert (head.shuffle.time, head.dropped) == (factor, dropped)


@pytest.mark.parametrize(
    "theirs", [(1, 4, 5, 4, 6), (1, 4, 5, 6, 6), (1, 4, 5, 2, 2), (1, 4, 8, 4, 4), (1, 4, 3, 4, 4)]
)
def test_grids_without_one_whole_factor_are_refused(theirs: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="become"):
        Head((1, 4, 5, 4, 4), theirs)
