"""iPhones seen without a Mac, by the program pymobiledevice3 (extra `apple`).

It is under the GPL-3 and is run as a program of its own, never imported. It lists what is connected; it does not launch
the runner app here: that needs a tunnel which it opens with administrator rights, and which could not be tried out.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.util import find_spec
from typing import Any

from devices.listed import Listed

TIMEOUT_S = 30.0
REMEDY = "seen, but measured from a Mac with Xcode 16 only; its browser can be measured from here"


def command() -> list[str] | None:
    """How pymobiledevice3 is called here; None where it is not installed."""
    if (found := shutil.which("pymobiledevice3")) is not None:
        return [found]
    if find_spec("pymobiledevice3") is not None:
        import sys

        return [sys.executable, "-m", "pymobiledevice3"]
    return None


def list_phones() -> list[Listed]:
    """Connected iPhones and iPads; empty where the program is missing, fails or says nothing that can be read."""
    return [
        Listed(
            f"iphone:{entry.get('UniqueDeviceID') or entry.get('Identifier')}",
            "iphone",
            f"{entry.get('DeviceName') or 'iPhone'} ({entry.get('ProductType') or 'unknown'})",
            f"iOS {entry.get('ProductVersion') or ''}".strip(),
            "not ready",
            REMEDY,
        )
        for entry in _listed()
        if entry.get("DeviceClass") in ("iPhone", "iPad")
    ]


def seen() -> str:
    """What this machine can tell of iPhones, in words."""
    if command() is None:
        return "no Mac, and pymobiledevice3 is not installed (extra `apple`)"
    return f"no Mac; pymobiledevice3 sees {len(list_phones())}"


def _listed() -> list[dict[str, Any]]:
    program = command()
    if program is None:
        return []
    try:
        done = subprocess.run(
            [*program, "usbmux", "list"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
        )
        found = json.loads(done.stdout) if done.returncode == 0 else []
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return []
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
