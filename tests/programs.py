"""Tests that need a program which a user may lack: skipped without it, failed where everything should be installed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

#: Set where every program is installed: a missing one is then a failure, not a skip.
NO_SKIPS = "HANDHELD_NO_SKIPS"


def find(program: str, folders: Iterable[Path] = ()) -> str | None:
    """The program's path: on PATH, or in one of `folders`."""
    return shutil.which(program) or shutil.which(program, path=os.pathsep.join(map(str, folders)))


def needs(*programs: str, folders: Iterable[Path] = (), everywhere: bool = True) -> pytest.MarkDecorator:
    """A mark for tests that need all of these programs. `everywhere`: every system has packages of them."""
    places = list(folders)
    missing = [program for program in programs if find(program, places) is None]
    skipped = bool(missing) and not (everywhere and os.environ.get(NO_SKIPS))
    return pytest.mark.skipif(skipped, reason=f"not installed: {', '.join(missing)}")
