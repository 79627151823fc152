"""Flow beside flow: intervals over pairs by their pixels, which pair is worst, and tables without invented figures."""

from __future__ import annotations

import json
import math

import pytest

from toolkit.bundle import Provenance
from toolkit.flow_metrics import FlowReport, FlowScores
from toolkit.flow_side_by_side import (
    FlowMethod,
    FlowSideBySide,
    PairErrors,
    epe_interval,
    errors_table,
    markdown,
    order,
    tables,
    title,
)
from toolkit.side_by_side import Interval


def report(epe: float, **groups: FlowScores | None) -> FlowReport:
    found = dict.fromkeys(FlowReport.model_fields)
    return FlowReport.model_validate({**found, "all": scores(epe), **groups})


def scores(epe: float) -> FlowScores:
    return FlowScores(pixels=10, epe=epe, fl_percent=12.5, within_1_percent=1, within_3_percent=3, within_5_percent=5)


def pair(epe: float | None, pixels: int = 10, size: tuple[int, int] = (40, 64)) -> PairErrors:
    if epe is None:
        return PairErrors(name="a|b", size=size, pixels=0, epe={})
    return PairErrors(name="a|b", size=size, pixels=pixels, epe={"student": epe, "zero": 2 * epe})


def result(*pairs: PairErrors, student: FlowReport | None = None) -> FlowSideBySide:
    return FlowSideBySide(
        run="tiny",
        data="sintel:data",
        pairs=list(pairs),
        methods={
            "student": FlowMethod(params=1234, report=student or report(1.5), interval=Interval(low=1, high=2)),
            "zero": FlowMethod(params=None, report=report(3.0), interval=None),
        },
        left_out=["raft_small left out: no weights"],
        student_sha256="0" * 64,
        provenance=Provenance(
            created="now", command="", recipe_sha256=None, git_revision=None, versions={"torch": "2"}, machine="x"
        ),
    )


def test_a_pair_counts_in_the_interval_by_its_pixels() -> None:
    small = [pair(1.0, pixels=1)] * 9
    found = epe_interval([*small, pair(3.0, pixels=10**6)], "student")
    assert found is not None
    assert found.low == 1.0  # the large pair is in no draw
    assert found.high == pytest.approx(3.0, abs=1e-4)
    even = epe_interval([*small, pair(3.0, pixels=1)], "student")
    assert even is not None
    assert even.high < 2


def test_a_pair_without_truth_has_no_part_in_the_interval_and_no_rank() -> None:
    pairs = [pair(None), pair(1.0), pair(3.0)]
    assert epe_interval(pairs, "zero") == epe_interval(pairs[1:], "zero") == Interval(low=2.0, high=6.0)
    assert epe_interval(pairs[:2], "zero") is None
    assert order(pairs) == [2, 1]


def test_pairs_are_ranked_from_the_worst() -> None:
    assert order([pair(2.0), pair(math.inf), pair(1.0), pair(7.0)]) == [1, 3, 0, 2]


def test_groups_without_pixels_have_a_dash_and_only_known_intervals_are_shown() -> None:
    columns, rows = errors_table({"student": report(1.5, s0_10=scores(0.25))})
    assert columns == ["flow", "EPE px", "visible", "occluded", "< 10 px", "10-40 px", "40 px +", "Fl %"]
    assert rows == [["student", "1.50", "–", "–", "0.25", "–", "–", "12.50"]]
    (_, errors), (_, shares) = tables(result(pair(1.0)))
    assert [row[1] for row in errors] == ["1.50 [1.00, 2.00]", "3.00"]
    assert shares == [["student", "1,234", "1.00", "3.00", "5.00"], ["zero", "–", "1.00", "3.00", "5.00"]]


def test_the_title_says_how_many_pairs_of_which_size() -> None:
    assert title(result(pair(1.0))) == "held-out: 1 pair, 40x64, sintel:data"
    assert title(result(pair(1.0), pair(1.0, size=(41, 64)))) == "held-out: 2 pairs, sintel:data"


def test_the_file_is_plain_json_and_reads_back_even_with_infinite_errors() -> None:
    first = result(pair(math.inf), pair(None), student=report(math.inf))
    text = first.model_dump_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert FlowSideBySide.model_validate_json(text) == first


def test_markdown_holds_every_pair_what_was_left_out_and_both_pictures() -> None:
    page = markdown(result(pair(1.25), pair(None)))
    assert "| a\\|b | 40x64 | 1.25 | 2.50 |" in page
    assert "| a\\|b | 40x64 | – | – |" in page
    assert "raft_small left out: no weights" in page
    assert "![worst pair](worst.png)" in page
    assert "![median pair](median.png)" in page
