"""Latent statistics: refused where they cannot be undone, read from a run, and said in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from toolkit.errors import UserError
from toolkit.latents import LATENT_FILE, LatentStatistics, read_statistics, undoing

GIVEN: dict[str, Any] = {"mean": [0.5, -1.0], "std": [1.0, 2.0], "origin": "AutoencoderKLWan"}


@pytest.mark.parametrize(
    "change",
    [
        {"mean": [0.5]},
        {"mean": [], "std": []},
        {"std": [1.0, 0.0]},
        {"std": [1.0, -2.0]},
        {"std": [1.0, float("inf")]},
        {"mean": [0.5, float("nan")]},
        {"scale": 2.0},
    ],
)
def test_statistics_that_cannot_be_undone_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LatentStatistics.model_validate({**GIVEN, **change})


def test_what_a_run_holds_is_read_back(tmp_path: Path) -> None:
    statistics = LatentStatistics.model_validate(GIVEN)
    (tmp_path / LATENT_FILE).write_text(statistics.model_dump_json())
    assert read_statistics(tmp_path) == statistics


def test_a_run_from_before_has_none(tmp_path: Path) -> None:
    assert read_statistics(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not valid JSON"), ('{"mean": [1], "std": [0], "origin": ""}', r"std\.0: .*greater than 0")],
)
def test_a_damaged_file_is_refused_by_its_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / LATENT_FILE).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_statistics(tmp_path)
    assert str(tmp_path / LATENT_FILE) in str(caught.value)


@pytest.mark.parametrize(
    ("mean", "std", "end"),
    [
        ((0.0, 0.0), (1.0, 1.0), "; X has mean 0 and std 1, so there is nothing to undo"),
        ((0.0, 0.0), (2.5, 2.5), ", normalised * std + mean (X: mean 0, std 2.5 in every channel)"),
        ((0.0, 0.1), (1.0, 1.0), ", normalised * std + mean (X: 2 channels of each)"),
    ],
)
def test_one_line_says_what_there_is_to_undo(mean: tuple[float, ...], std: tuple[float, ...], end: str) -> None:
    statistics = LatentStatistics(mean=mean, std=std, origin="X")
    assert undoing(statistics) == f"the decoder takes raw latents{end}"


def test_one_line_says_that_a_decoder_undoes_it_itself() -> None:
    statistics = LatentStatistics.model_validate(GIVEN)
    assert "takes normalised latents" in undoing(statistics, normalized=True)


def test_one_line_says_that_statistics_are_unknown() -> None:
    assert "mean and std are not known" in undoing(None)
