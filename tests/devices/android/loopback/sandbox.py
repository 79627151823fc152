"""`/data/local/tmp` of the device as a folder of this machine; no other path of the device leads anywhere."""

from __future__ import annotations

import errno
import os
import posixpath
from pathlib import Path

HOME = "/data/local/tmp"


class Sandbox:
    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.root.mkdir(parents=True, exist_ok=True)

    def host(self, path: str, folder: str = "/") -> Path:
        """Where a path of the device is on this machine.

        Raises `PermissionError` for a path outside `/data/local/tmp`, through `..` and links too.
        """
        whole = posixpath.normpath(posixpath.join(folder, path))
        found = self.root / posixpath.relpath(whole, HOME)
        inside = whole == HOME or whole.startswith(HOME + "/")
        if not inside or not found.resolve().is_relative_to(self.root):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), whole)
        return found

    def inward(self, text: str) -> str:
        """A program's argument: paths of the device become paths of this machine."""
        return text.replace(HOME, str(self.root))

    def outward(self, data: bytes) -> bytes:
        """A program's output: paths of this machine become paths of the device."""
        return data.replace(str(self.root).encode(), HOME.encode())
