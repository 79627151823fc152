"""The flow student that ships with the project: its recipe, its size, and what it finds where the truth is known."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

import recipes
from recipes.data.flow_layouts import MOTORCYCLE, find_pairs, read_pair
from recipes.data.flow_sample import FlowSample
from recipes.schema import asset_path, load_recipe
from recipes.teachers.dis import baseline
from recipes.teachers.flow_student import FlowStudent
from toolkit.evaluation import FlowEvaluation, read_evaluation

RUN = asset_path("asset:compact-flow-tiny")


@functools.cache
def motorcycle() -> FlowSample:
    return read_pair(find_pairs(MOTORCYCLE, Path())[0])


@pytest.fixture(scope="module")
def student() -> FlowStudent:
    return FlowStudent(RUN)


def epe(flow: torch.Tensor, pair: FlowSample) -> float:
    return float(torch.linalg.vector_norm(flow - pair.flow, dim=0)[pair.valid].mean())


def test_the_embedded_student_was_made_by_its_catalogued_recipe() -> None:
    kept, catalogued = load_recipe(RUN / "recipe.yaml"), load_recipe("compact-flow-tiny")
    precise = catalogued.trainer.model_copy(update={"precision": kept.trainer.precision})  # auto, as it was resolved
    assert kept == catalogued.model_copy(update={"trainer": precise})


def test_the_embedded_student_is_small() -> None:
    assert (RUN / "student.safetensors").stat().st_size <= 5e6
    assert sum(path.stat().st_size for path in RUN.iterdir()) <= 6.5e6


def test_it_is_far_better_than_farneback_on_a_real_pair(student: FlowStudent) -> None:
    pair = motorcycle()
    found, theirs = (
        epe(method.flow(pair.image1[None], pair.image2[None])[0], pair) for method in (student, baseline("farneback"))
    )
    assert found <= 8
    assert found < 0.5 * theirs


def test_identical_frames_rest(student: FlowStudent) -> None:
    """To about a tenth of a pixel, where the picture is a photograph."""
    flow = student.flow(motorcycle().image1[None], motorcycle().image1[None])
    assert float(torch.linalg.vector_norm(flow, dim=1).mean()) < 0.15


def test_a_shift_of_whole_pixels_is_found(student: FlowStudent) -> None:
    image = motorcycle().image1[:, :384, :512]
    for x, y in ((7, 0), (-24, 5)):
        shifted = torch.roll(image, (y, x), dims=(1, 2))
        inside = student.flow(image[None], shifted[None])[0, :, 48:-48, 48:-48]
        assert inside.flatten(1).median(dim=1).values.tolist() == pytest.approx([x, y], abs=0.25)


@pytest.mark.slow
def test_it_scores_what_its_model_card_says(tmp_path: Path) -> None:
    said = read_evaluation(RUN)
    assert isinstance(said, FlowEvaluation)
    assert said.student.all is not None
    dis = said.baselines["dis-medium"].all
    assert dis is not None
    assert said.student.all.epe <= 1.5 * dis.epe
    found = recipes.evaluate_flow(RUN, output=tmp_path / "evaluation").methods["student"].report.all
    assert found is not None
    assert found.epe == pytest.approx(said.student.all.epe, abs=0.01)
    assert f"| {said.student.all.epe:.2f} |" in (RUN / "README.md").read_text()
