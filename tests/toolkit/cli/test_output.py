"""What is printed of strings that others wrote: as it is, whatever brackets it has."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.text import Text

from tests.command_line import handheld
from toolkit.cli.output import console, print_table

ODD = ["[/b]", "[red]x[/red]", "[/red][link=x]", "C:\\[b]", "ends in \\", ":smile:"]


@pytest.mark.parametrize("odd", ODD)
def test_a_table_prints_titles_columns_and_cells_as_they_are(odd: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(f"title {odd}", [f"column {odd}"], [[odd], [f"{odd} again"]])
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].rstrip() == f"title {odd}"
    assert shown.count(odd) == 4
    assert f"column {odd} " in shown


def test_a_cell_may_have_a_style() -> None:
    with console.capture() as captured:
        print_table("", ["state"], [[Text("works", "green")]])
    assert "works" in captured.get()


def test_a_path_with_brackets_is_printed_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "[" / "b].yaml"
    assert handheld("recipes", "copy", "demo-turbo-vaed", recipe) == 0
    assert "[/b].yaml" in capsys.readouterr().out.replace("\n", "")
