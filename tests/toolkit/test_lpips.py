"""LPIPS: computed where the backbone is at hand, left out with one line where it is not, and never downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics.functional.image.lpips as backbone

from toolkit import lpips
from toolkit.lpips import SMALLEST_SIDE, Lpips, lpips_missing


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the weights would lie, in an empty cache; a download fails the test."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_args, **_kwargs: pytest.fail("it downloads"))
    return lpips._weights()[1]


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random backbone in the place of the trained one."""
    make: Callable[..., Any] = backbone._get_tv_model_features
    monkeypatch.setattr(backbone, "_get_tv_model_features", lambda net, _pretrained: make(net, False))


def test_weights_that_are_not_here_are_named_with_how_to_get_them(weights: Path) -> None:
    reason = lpips_missing(64, 64)
    assert reason is not None
    assert "\n" not in reason
    assert str(weights) in reason
    assert "https://" in reason
    assert not weights.parent.exists()


def test_a_half_downloaded_file_is_seen_beforehand(weights: Path) -> None:
    weights.parent.mkdir()
    weights.write_bytes(b"half")
    assert "damaged" in str(lpips_missing(64, 64))


def test_a_whole_file_is_taken(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights.parent.mkdir()
    weights.write_bytes(b"whole")
    digest = weights.stem.rpartition("-")[2]
    monkeypatch.setattr(lpips, "sha256", lambda path: digest + "0" * 56 if path == weights else "")
    assert lpips_missing(64, 64) is None


def test_frames_too_small_for_the_network_are_left_out() -> None:
    assert f"30x64 are below {SMALLEST_SIDE}" in str(lpips_missing(30, 64))


def test_the_distance_is_zero_only_to_itself_and_not_a_number_stays_one(untrained: None) -> None:
    metric = Lpips()
    generator = torch.Generator().manual_seed(0)
    video = torch.rand(3, 2, SMALLEST_SIDE, SMALLEST_SIDE, generator=generator) * 2 - 1
    assert metric(video, video) == 0
    other = -video
    mean = metric(other, video)
    assert mean > 0
    alone = [metric(other[:, t : t + 1], video[:, t : t + 1]) for t in range(2)]
    assert mean == pytest.approx(sum(alone) / 2, rel=1e-4)
    assert metric(video * float("nan"), video) != metric(video, video)
