"""The student that ships with the project: its recipe, its scores, its size."""

from __future__ import annotations

from pathlib import Path

import pytest

import recipes
from recipes.schema import asset_path, load_recipe
from toolkit.evaluation import read_evaluation, retention
from toolkit.latents import read_statistics

RUN = asset_path("asset:turbo-vaed-tiny")


def test_the_embedded_student_was_made_by_its_catalogued_recipe() -> None:
    kept, catalogued = load_recipe(RUN / "recipe.yaml"), load_recipe("turbo-vaed-tiny")
    precise = catalogued.trainer.model_copy(update={"precision": kept.trainer.precision})  # auto, as it was resolved
    assert kept == catalogued.model_copy(update={"trainer": precise})
    statistics = read_statistics(RUN)
    assert statistics is not None
    assert statistics.channels == 16


def test_the_embedded_student_is_small() -> None:
    assert (RUN / "student.safetensors").stat().st_size <= 3e6
    assert sum(path.stat().st_size for path in RUN.iterdir()) <= 3e6


@pytest.mark.slow
def test_the_embedded_student_scores_what_its_model_card_says(tmp_path: Path) -> None:
    said = read_evaluation(RUN)
    found = recipes.evaluate_run(RUN, output=tmp_path / "evaluation")
    assert found.student.mean.psnr_db == pytest.approx(said.student.psnr_db, abs=0.01)
    assert found.teacher.mean.psnr_db == pytest.approx(27.69, abs=0.01)
    share = retention(found.student.mean.psnr_db, found.teacher.mean.psnr_db)
    assert share is not None
    assert share >= 97
    assert f"{found.student.mean.psnr_db:.2f} | {share:.1f} %" in (RUN / "README.md").read_text()
