"""Verbs that several processes carry out together, and of which only the first speaks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from toolkit.errors import HandheldError


@contextmanager
def one_voice() -> Iterator[None]:
    """Around the joint work: behind it, or on an error of all, the processes after the first end without a word."""
    from recipes import processes

    try:
        yield
    except (HandheldError, OSError) as error:
        if processes.is_first():
            raise
        raise typer.Exit(processes.silent_exit_code(error)) from error
    if not processes.is_first():
        raise typer.Exit
