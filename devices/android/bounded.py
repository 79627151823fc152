"""Programs that may take long or hang: bounded in time, ended whole, with their log kept."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from toolkit.errors import DeviceError

QUOTED = 200
END_S = 10.0


def run_logged(command: Sequence[str | Path], what: str, timeout_s: float, log: Path) -> str:
    """Run `command` to its end, append what it prints to `log`, and give it back.

    Raises `DeviceError` that begins with `what` and quotes the line that tells why, where it fails or takes longer
    than `timeout_s`. All that it started is ended with it, also where this program is interrupted.
    """
    words = [str(word) for word in command]
    # into a file and not a pipe: nobody waits for what it leaves running to let go of it
    with tempfile.TemporaryFile() as said:
        code = _run(words, said, timeout_s)
        said.seek(0)
        output = said.read().decode(errors="replace").replace("\r\n", "\n")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(words)}\n{output}\n")
    if code is None:
        raise DeviceError(f"{what}: {words[0]} did not end within {timeout_s:.0f} s and was ended; its log is {log}")
    if code != 0:
        raise DeviceError(f"{what}: {words[0]} failed ({telling_line(output)}); its log is {log}")
    return output


def _run(words: list[str], said: IO[bytes], timeout_s: float) -> int | None:
    """The exit code; None where it took longer than `timeout_s`."""
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # compilers and daemons that it starts are ended with it
    )
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # PermissionError: macOS, of zombies
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)


def telling_line(output: str) -> str:
    """The first line that speaks of an error, with the line after it where it only announces one; or the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for place, line in enumerate(lines):
        if "error" in line.lower():
            following = lines[place + 1] if line.endswith(":") and place + 1 < len(lines) else ""
            return f"{line} {following}".strip()[:QUOTED]
    return lines[-1][:QUOTED] if lines else "it printed nothing"
