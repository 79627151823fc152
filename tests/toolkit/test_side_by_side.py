"""Student beside teacher: intervals, shares, which clip is worst, and files that say what was measured."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from toolkit.bundle import Provenance
from toolkit.evaluation import Scores, mean_scores, retention
from toolkit.side_by_side import (
    ClipScores,
    SideBySide,
    bootstrap_interval,
    kept,
    markdown,
    order,
    summarise,
    table,
)


def scores(psnr: float, **changes: float | None) -> Scores:
    return Scores.model_validate({"psnr_db": psnr, "ssim": 0.5, "tpsnr_db": 30.0, **changes})


def clip(psnr: float, **changes: float | None) -> ClipScores:
    ours, theirs = scores(psnr, **changes), scores(30.0, **changes)
    return ClipScores(file="a|b.mp4", start=0, size=(8, 16), teacher=theirs, student=ours)


def result(*clips: ClipScores) -> SideBySide:
    teacher = summarise([c.teacher for c in clips], 1000)
    student = summarise([c.student for c in clips], 100)
    return SideBySide(
        run="tiny",
        data="clips",
        frames=5,
        size=(8, 16),
        clips=list(clips),
        teacher=teacher,
        student=student,
        retention_percent=kept(student.mean, teacher.mean),
        lpips_left_out=None,
        student_sha256="0" * 64,
        provenance=Provenance(
            created="now", command="", recipe_sha256=None, git_revision=None, versions={"torch": "2"}, machine="x"
        ),
    )


@pytest.mark.slow
@hypothesis_settings(max_examples=10)
@given(st.lists(st.floats(0, 60), min_size=2, max_size=8))
def test_the_interval_contains_the_mean_lies_in_the_data_and_repeats(values: list[float]) -> None:
    interval = bootstrap_interval(values)
    assert interval is not None
    assert min(values) - 1e-9 <= interval.low <= np.mean(values) <= interval.high <= max(values) + 1e-9
    assert bootstrap_interval(values) == interval


def test_the_interval_is_that_of_the_normal_law_where_that_holds() -> None:
    values = np.random.default_rng(1).normal(30, 2, 200)
    interval = bootstrap_interval(list(values))
    assert interval is not None
    half = 1.96 * values.std() / math.sqrt(200)
    assert interval.low == pytest.approx(values.mean() - half, abs=0.03)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.03)


def test_weights_count_a_value_as_often_as_they_say() -> None:
    values = [*np.random.default_rng(1).normal(30, 2, 100)]
    plain, even = bootstrap_interval(values), bootstrap_interval(values, [3.0] * 100)
    assert plain is not None
    assert even is not None
    assert (even.low, even.high) == pytest.approx((plain.low, plain.high))
    weights = np.random.default_rng(2).uniform(1, 9, 100)
    interval = bootstrap_interval(values, list(weights))
    assert interval is not None
    mean = np.average(values, weights=weights)
    shares = weights / weights.sum()
    half = 1.96 * math.sqrt((shares**2 * (np.array(values) - mean) ** 2).sum())  # of a ratio estimate
    assert interval.low == pytest.approx(mean - half, abs=0.06)
    assert interval.high == pytest.approx(mean + half, abs=0.06)


@pytest.mark.parametrize("values", [[], [30.0], [30.0, math.inf], [30.0, math.nan]])
def test_no_interval_without_two_finite_clips(values: list[float]) -> None:
    assert bootstrap_interval(values) is None


def test_a_mean_lacks_what_a_clip_lacks() -> None:
    mean = mean_scores([scores(20, tpsnr_db=None), scores(30)])
    assert mean == Scores(psnr_db=25, ssim=0.5)


@pytest.mark.parametrize(
    ("student", "teacher", "share"),
    [(15, 30, 50.0), (30, math.inf, None), (math.nan, 30, None), (30, 0, None)],
)
def test_a_share_is_in_per_cent_and_none_where_there_is_no_such_share(
    student: float, teacher: float, share: float | None
) -> None:
    assert retention(student, teacher) == share


def test_clips_are_ranked_from_the_worst_and_not_a_number_is_worst() -> None:
    assert order([clip(20), clip(10), clip(math.nan), clip(30)]) == [2, 1, 0, 3]


def test_the_file_is_plain_json_and_reads_back_even_with_infinite_scores() -> None:
    first = result(clip(20), clip(math.inf))
    text = first.model_dump_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert SideBySide.model_validate_json(text) == first
    assert SideBySide.model_validate(json.loads(text)) == first


def test_the_table_has_a_column_only_for_what_was_computed() -> None:
    columns, rows = table(result(clip(20), clip(24)))
    assert columns == ["decoder", "parameters", "PSNR dB", "SSIM", "tPSNR dB"]
    assert rows[1][2].startswith("22.00 [20.00, 24.00]")
    assert rows[2] == ["student / teacher", "10.0%", "73.3%", "100.0%", "–"]
    columns, rows = table(result(clip(20, tpsnr_db=None, lpips=0.25)))
    assert columns[3:] == ["SSIM", "LPIPS"]
    assert rows[0][4] == "0.2500"


def test_markdown_holds_every_clip_and_both_pictures() -> None:
    page = markdown(result(clip(20), clip(24)))
    assert page.count("a\\|b.mp4") == 2
    assert "![worst clip](worst.png)" in page
    assert "![median clip](median.png)" in page
    bars = [line.replace("\\|", "").count("|") for line in page.splitlines() if line.startswith("|")]
    assert bars == [6] * 5 + [9] * 4
