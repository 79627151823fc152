"""What Handheld puts onto an Android device: files by their hash, and how all of it goes away again."""

from __future__ import annotations

import hashlib
import posixpath
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from devices.android import facts
from devices.android.adb import Phone
from toolkit.errors import DeviceError
from toolkit.files import sha256, size_bytes

ROOT = "/data/local/tmp/handheld"
SPARE_BYTES = 32_000_000
HASH_S = 300.0
LOUD_BYTES = 8_000_000

Say = Callable[[str], None]


class Depot:
    """A session's files on one device: `ROOT/HASH/NAME`, and a folder of its own for what comes and goes.

    A file that is there with the right content is not copied again. `clean` takes away all that this session used.
    A session that goes on has the same `session`, so that it finds what it had to leave behind.
    """

    def __init__(self, phone: Phone, session: str, say: Say = lambda _: None) -> None:
        self._phone, self._say = phone, say
        self._used: set[str] = set()
        self._whole: set[str] = set()
        self._scratch = f"{ROOT}/session-{session}"

    def scratch_folder(self) -> str:
        """A folder that does not outlive the session."""
        self._phone.run(f"mkdir -p {self._scratch}")
        return self._scratch

    def scratch(self, name: str) -> str:
        """A path for a file that does not outlive the session."""
        return f"{self.scratch_folder()}/{name}"

    def place(self, files: Sequence[Path], mode: int = 0o600) -> str:
        """Bring files into one folder, which is named by all their hashes; the folder's path.

        Raises `DeviceError` where the device has no space for them or takes them wrong.
        """
        hashes = {path: sha256(path) for path in files}
        key = hashes[files[0]] if len(files) == 1 else _joint(hashes)
        folder = f"{ROOT}/{key}"
        if folder in self._whole:
            return folder
        self._used.add(folder)
        found = self._present(folder)
        missing = [path for path in files if found.get(path.name) != hashes[path]]
        if missing:
            self._check_space(missing)
            self._phone.run(f"mkdir -p {folder}")
        for path in missing:
            self._push(path, f"{folder}/{path.name}", hashes[path], mode)
        self._whole.add(folder)
        return folder

    def remove(self, paths: Sequence[str]) -> None:
        """Delete files."""
        self._phone.run("rm -f " + " ".join(map(shlex.quote, paths)))

    def clean_scratch(self) -> None:
        """Take away what does not outlive the session."""
        self._phone.run(f"rm -rf {self._scratch}")
        self._phone.shell(f"rmdir {ROOT}")  # where nothing else is left

    def clean(self) -> None:
        """Take away all that this session used."""
        for folder in sorted(self._used):
            self._phone.run(f"rm -rf {folder}")
        self.clean_scratch()

    def _present(self, folder: str) -> dict[str, str]:
        """Hashes of the files in a folder; none on devices that cannot tell them."""
        names = [line.strip() for line in self._phone.shell(f"ls -1 {folder} 2>/dev/null").out.splitlines()]
        if not names:
            return {}
        paths = " ".join(shlex.quote(f"{folder}/{name}") for name in names)
        told = self._phone.shell(f"sha256sum {paths} 2>/dev/null", HASH_S).out
        lines = [line.split(maxsplit=1) for line in told.splitlines()]
        return {posixpath.basename(parts[1].strip()): parts[0] for parts in lines if len(parts) == 2}

    def _check_space(self, files: Sequence[Path]) -> None:
        needed = sum(size_bytes(path) for path in files)
        free = facts.read_free_bytes(self._phone.shell(f"df -k {posixpath.dirname(ROOT)}").out)
        if free is not None and free < needed + SPARE_BYTES:
            raise DeviceError(
                f"{self._phone.name}: {files[0].name} needs {needed / 1e6:.0f} MB in {posixpath.dirname(ROOT)}, and "
                f"{free / 1e6:.0f} MB are free; free space on the phone"
            )

    def _push(self, path: Path, target: str, digest: str, mode: int) -> None:
        """Under another name first, so that a file that is there is whole."""
        size, told = size_bytes(path), 0

        def progress(sent: int) -> None:
            nonlocal told
            if sent - told >= LOUD_BYTES:
                told = sent
                self._say(f"pushing {path.name}: {sent / 1e6:.0f} of {size / 1e6:.0f} MB")

        self._say(f"pushing {path.name}: {size / 1e6:.1f} MB")
        part = f"{target}.part"
        self._phone.push(path, part, mode, progress)
        told_hash = self._phone.shell(f"sha256sum {shlex.quote(part)}", HASH_S)
        if told_hash.code == 0 and not told_hash.out.startswith(digest):
            self._phone.shell(f"rm -f {shlex.quote(part)}")
            raise DeviceError(f"{self._phone.name}: {path.name} came over changed; use another cable")
        self._phone.run(f"mv -f {shlex.quote(part)} {shlex.quote(target)}")


def _joint(hashes: dict[Path, str]) -> str:
    lines = "".join(f"{path.name} {digest}\n" for path, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
