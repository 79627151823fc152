"""What an ELF file says of itself: the processor it is for, its name, and the libraries it needs."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import UserError

#: Processors by their number in an ELF header.
MACHINES = {62: "x86_64", 183: "aarch64"}

_PROGRAM_HEADER = struct.Struct("<2I6Q")
_ENTRY = struct.Struct("<2Q")
_LOAD, _DYNAMIC = 1, 2
_NULL, _NEEDED, _STRTAB, _SONAME = 0, 1, 5, 14


@dataclass(frozen=True)
class Elf:
    """`name` is what others ask for to get this library; a program has none."""

    machine: str
    name: str | None
    needed: list[str]


def read_elf(path: Path) -> Elf:
    """Read a 64-bit little-endian program or shared library; raises `UserError` where `path` holds something else."""
    content = path.read_bytes()
    try:
        return _read(content)
    except (struct.error, ValueError, StopIteration) as error:
        raise UserError(f"{path}: no 64-bit ELF program or library; name one for the platform") from error


def _read(content: bytes) -> Elf:
    if content[:6] != b"\x7fELF\x02\x01":
        raise ValueError
    (machine,) = struct.unpack_from("<H", content, 18)
    (place,) = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<2H", content, 54)
    headers = [_PROGRAM_HEADER.unpack_from(content, place + size * number) for number in range(count)]
    loads = [(address, offset, length) for kind, _, offset, address, _, length, _, _ in headers if kind == _LOAD]
    dynamic = next((header for header in headers if header[0] == _DYNAMIC), None)
    entries: list[tuple[int, int]] = []
    if dynamic is not None:
        entries = _entries(content[dynamic[2] : dynamic[2] + dynamic[5]])
    strings = next((value for tag, value in entries if tag == _STRTAB), 0)
    start = next((offset + strings - at for at, offset, length in loads if at <= strings < at + length), 0)

    def text(value: int) -> str:
        return content[start + value : content.index(b"\0", start + value)].decode()

    return Elf(
        machine=MACHINES.get(machine, f"processor {machine}"),
        name=next((text(value) for tag, value in entries if tag == _SONAME), None),
        needed=[text(value) for tag, value in entries if tag == _NEEDED],
    )


def _entries(table: bytes) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for tag, value in _ENTRY.iter_unpack(table):
        if tag == _NULL:
            break
        found.append((tag, value))
    return found
