"""Zip archives whose members are stored as they are: nothing in one is larger than the file that holds it."""

from __future__ import annotations

import zipfile

from toolkit.files import relative_name

MAX_MEMBERS = 100_000  # a network of 10 000 layers has fewer tensors


class Unsafe(Exception):
    """Why a file is not read. Whoever opened it makes a `HandheldError` of it, which names the file."""


def checked_members(archive: zipfile.ZipFile, size: int) -> list[zipfile.ZipInfo]:
    """The files of `archive`, which is `size` bytes long.

    Raises `Unsafe` where one is compressed or encrypted, where two share a name or bytes, or a name is no plain
    relative path: PyTorch and NumPy write none of that, and a compressed file of a kilobyte may hold a gigabyte.
    """
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise Unsafe(f"it has more than {MAX_MEMBERS:,} files")
    if len({member.filename for member in members}) != len(members):
        raise Unsafe("two files in it have one name")
    if sum(member.file_size for member in members) > size:
        raise Unsafe("its files are larger than itself")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise Unsafe(f"{member.filename[:80]!r} in it is compressed or encrypted")
        try:
            relative_name(member.filename)
        except ValueError as error:
            raise Unsafe(f"a file in it is called {member.filename[:80]!r}") from error
    return members
