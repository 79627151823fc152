"""Writing files so that they exist whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.errors import CheckFailed

#: What no file name may hold: separators and drives of any system, and characters that hide or break a line.
UNSAFE = re.compile(r'[\\:*?"<>|\x00-\x1f\x7f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]')
MAX_NAME = 1024  # characters; file systems stop at 255 bytes a part and about 4096 a path


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write `data` to `path` through a temporary file in the same folder and a rename."""
    content = data.encode() if isinstance(data, str) else data
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield an empty temporary sibling of `path` to fill; on success it replaces `path`, on any error it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        error.filename = str(path)  # not the temporary name
        raise
    temporary = Path(name)
    try:
        os.close(descriptor)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, name):
            error.filename = str(path)  # a failed write does not say where, or names the temporary file
        raise


def check_writable(path: Path) -> None:
    """Raise `OSError` that names `path` where `write_atomic` could not write it; what is there stays as it is."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        error.filename = str(path)
        raise


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; on success it replaces `path`, on any error it is removed.

    A symbolic link is followed. Raises `NotADirectoryError` where `path` is a file.
    """
    path = path.resolve()
    if path.is_file():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        error.filename = str(path)  # not the temporary name
        raise
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        _replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _replace(temporary: Path, path: Path) -> None:
    """Put `temporary` in the place of `path`; if that fails, `path` is as it was."""
    if not path.exists():
        temporary.rename(path)
        return
    old = temporary.with_name(temporary.name + ".old")
    path.rename(old)
    try:
        temporary.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, or of a directory: over the sorted relative names and hashes of its files."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for file_path in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file_path.relative_to(path).as_posix()}\0{sha256(file_path)}\n".encode())
    return digest.hexdigest()


def size_bytes(path: Path) -> int:
    """Bytes in a file, or in all files of a directory."""
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def relative_name(name: str) -> str:
    """`name` itself, if it is a plain relative path: parts with `/` between them, the same on every system.

    Raises `ValueError` on absolute paths, `..`, `.`, empty parts, backslashes, drive letters, control characters, and
    parts that end in a dot or a space (Windows drops those).
    """
    parts = name.split("/")
    unsafe = UNSAFE.search(name) or any(part in ("", ".", "..") or part[-1] in ". " for part in parts)
    if unsafe or len(name) > MAX_NAME or any(len(part.encode()) > 255 for part in parts):
        raise ValueError(f"{name[:80]!r} is no plain relative path")
    return name


def collision(names: Iterable[str]) -> tuple[str, str] | None:
    """Two of `names` that some file system takes for one, by case or by Unicode's spelling; None where there are none.

    A name that is also the folder of another one collides with it.
    """
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name in names:
        parts = unicodedata.normalize("NFC", name).casefold().split("/")
        key = "/".join(parts)
        if key in seen:
            return seen[key], name
        seen[key] = name
        for depth in range(1, len(parts)):
            spelt = "/".join(unicodedata.normalize("NFC", name).split("/")[:depth])
            other = folders.setdefault("/".join(parts[:depth]), spelt)
            if other != spelt:
                return other, name
    return next(((seen[folder], folder) for folder in folders if folder in seen), None)


def inside(folder: Path, name: str) -> Path:
    """The file or folder `name` of `folder`, which may lie nowhere else.

    Raises `CheckFailed` where `name` is no plain relative path, or leads out of `folder` through a symbolic link.
    """
    try:
        path = folder / relative_name(name)
        whole = path.resolve()
    except (ValueError, OSError, RuntimeError) as error:  # a loop of links is one of the last two
        raise CheckFailed(f"{folder}: holds a name that is no plain relative path ({name[:80]!r})") from error
    if not whole.is_relative_to(folder.resolve()):
        raise CheckFailed(f"{path}: leads out of {folder}; remove the link")
    return path
