"""This machine: its processor, and the memory that is free here."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import psutil

GROUP = Path("/sys/fs/cgroup")


def processor() -> str:
    """This machine's processor by its own name."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def available_bytes() -> int:
    """Memory that is free for more: the machine's, or what the control group has left of its own.

    What the group holds of files that were read and not used since does not count: it gives way.
    """
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((GROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        if limit == "max":
            return free
        held = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
        return min(free, int(limit) - int(used) + int(held.get("inactive_file", 0)))
    except (OSError, ValueError):
        return free
