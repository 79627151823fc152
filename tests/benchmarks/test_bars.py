"""Bars: what holds, and the exit code they give."""

from __future__ import annotations

import math

import pytest

from benchmarks.bars import at_least, at_most, print_bars, print_goals


def test_limits_are_included_and_what_is_no_number_holds_nothing() -> None:
    assert at_most("a", 1.5, 1.5).holds
    assert not at_most("a", 1.6, 1.5).holds
    assert at_least("a", 1.5, 1.5).holds
    assert not at_least("a", 1.4, 1.5).holds
    assert not at_most("a", math.nan, 1.5).holds
    assert not at_least("a", math.nan, 1.5).holds


def test_one_failing_bar_is_the_exit_code_and_a_goal_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = at_most("small enough", 1, 2), at_most("too large", 3, 2)
    assert print_bars([good]) == 0
    assert "FAILS" not in capsys.readouterr().out
    assert print_bars([good, bad]) == 1
    assert "FAILS" in capsys.readouterr().out
    print_goals([bad])
    assert "not yet" in capsys.readouterr().out
