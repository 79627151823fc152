"""The bars of a benchmark: what is asked of a figure, and whether it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from toolkit.cli.output import print_table


class Bar(NamedTuple):
    """`found` is the figure, `asked` the bar in words such as `<= 1.15`."""

    what: str
    found: float
    asked: str
    holds: bool


def at_most(what: str, found: float, limit: float) -> Bar:
    """The bar `found <= limit`; a figure that is no number does not hold it."""
    return Bar(what, found, f"<= {limit:g}", found <= limit)


def at_least(what: str, found: float, limit: float) -> Bar:
    """The bar `found >= limit`; a figure that is no number does not hold it."""
    return Bar(what, found, f">= {limit:g}", found >= limit)


def print_bars(bars: Sequence[Bar]) -> int:
    """The table of the bars; the exit code: 0 where all hold, else 1."""
    _print("bars", bars, "holds", "FAILS")
    return 0 if all(bar.holds for bar in bars) else 1


def print_goals(goals: Sequence[Bar]) -> None:
    """What is aimed at and fails nothing."""
    _print("goals, which fail nothing", goals, "reached", "not yet")


def _print(title: str, bars: Sequence[Bar], yes: str, no: str) -> None:
    rows = [[bar.what, f"{bar.found:.2f}", bar.asked, yes if bar.holds else no] for bar in bars]
    print_table(title, ["", "found", "asked", ""], rows)
