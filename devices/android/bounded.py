"""Programs that may take long or hang: bounded in time, ended whole, with their log kept."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from toolkit.errors import DeviceError

QUOTED = 200


def run_logged(command: Sequence[str | Path], what: str, timeout_s: float, log: Path) -> str:
    """Run `command` to its end, append what it prints to `log`, and give it back.

    Raises `DeviceError` that begins with `what` and quotes the line that tells why, where it fails or takes longer
    than `timeout_s`; all that it started is ended then, and also where this program is interrupted.
    """
    words = [str(word) for word in command]
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # compilers it starts are ended with it
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
        late = False
    except subprocess.TimeoutExpired:
        late = True
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    if late:
        output, _ = process.communicate()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(words)}\n{output}\n")
    if late:
        raise DeviceError(f"{what}: {words[0]} did not end within {timeout_s:.0f} s and was ended; its log is {log}")
    if process.returncode != 0:
        raise DeviceError(f"{what}: {words[0]} failed ({telling_line(output)}); its log is {log}")
    return output


def telling_line(output: str) -> str:
    """The first line that speaks of an error, with the line after it where it only announces one; or the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for place, line in enumerate(lines):
        if "error" in line.lower():
            following = lines[place + 1] if line.endswith(":") and place + 1 < len(lines) else ""
            return f"{line} {following}".strip()[:QUOTED]
    return lines[-1][:QUOTED] if lines else "it printed nothing"
