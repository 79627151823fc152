"""How verbs print: tables for people, JSON for scripts."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH_WITHOUT_TERMINAL = 160  # a log or a pipe has no width of its own; the default of 80 would fold every table

console = Console(emoji=False, width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)
console_err = Console(stderr=True, emoji=False)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str | Text]], words: int = 1) -> None:
    """A table; the first columns, `words` of them, are left-aligned, figures are right-aligned.

    Strings are printed as they are, whoever wrote them: no brackets in them are markup. A `Text` has a style.
    """
    table = Table(title=Text(title, "table.title") if title else None, title_justify="left", header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if number < words else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    console.print(table)


def print_json(value: Any) -> None:
    """JSON on standard output."""
    print(json.dumps(value, indent=2))


def command_line() -> str:
    """The command as typed, for provenance."""
    return shlex.join(["handheld", *sys.argv[1:]])
