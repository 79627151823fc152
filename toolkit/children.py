"""Python processes of our own, for work that may end the process it is done in."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START = (
    "import runpy, sys; sys.path.insert(0, {root!r}); runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
)


class ChildFailed(Exception):
    """How a child ended that gave no result, in a few words."""


def command_of(module: str, *words: str) -> list[str]:
    """The command that runs `module` of this very Handheld.

    Unlike `python -m`, it never imports from the current folder, which may be one that came from a stranger.
    """
    return [sys.executable, "-P", "-c", START.format(root=str(ROOT), module=module), *words]


def last_line(command: Sequence[str], timeout_s: float | None) -> str:
    """What a child prints last; raises `ChildFailed` where it crashes, fails, says nothing, or takes too long."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise ChildFailed(f"did not end within {timeout_s:g} s") from error
    said, complained = (text.decode("utf-8", "replace").strip().splitlines() for text in (done.stdout, done.stderr))
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise ChildFailed(f"was ended by {name}{'; it was probably out of memory' if name == 'SIGKILL' else ''}")
    if done.returncode != 0 or not said:
        raise ChildFailed(f"failed ({(complained or ['no message'])[-1][:300]})")
    return said[-1]
