"""Errors that end a command with one clear line: the thing, the reason, the remedy.

Every error a user can cause derives from `HandheldError`; the command line prints its message and
exits with its `exit_code`. Anything else is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HandheldError(Exception):
    """Base of all expected failures; `exit_code` is what the command line returns."""

    exit_code = 2


class UserError(HandheldError):
    """The user's input is wrong: a file, an option, a recipe key."""

    exit_code = 2


class CheckFailed(HandheldError):
    """A check that the user asked for did not hold: parity, a hash, a gate."""

    exit_code = 1


class DeviceError(HandheldError):
    """A device or a runtime failed."""

    exit_code = 3


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """An error that names the nearest known name and lists all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return UserError(f"unknown {kind} '{name}'.{hint} Known: {', '.join(names) or 'none'}.")
