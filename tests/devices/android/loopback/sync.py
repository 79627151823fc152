"""The `sync:` service: stat, list, push and pull."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

from tests.devices.android.loopback.faults import Faults
from tests.devices.android.loopback.sandbox import Sandbox
from tests.devices.android.loopback.wire import Stream

NO_SPACE = "couldn't write file: No space left on device"
PIECE = 64 * 1024


async def serve(stream: Stream, sandbox: Sandbox, faults: Faults, drop: Callable[[], None]) -> None:
    """Answer requests until QUIT or the end of the stream."""
    while True:
        name, length = struct.unpack("<4sI", await stream.read_exactly(8))
        path = (await stream.read_exactly(length)).decode()
        if name == b"QUIT":
            return
        if name == b"STAT":
            await _stat_v1(stream, sandbox, path)
        elif name in (b"LST2", b"STA2"):
            await _stat_v2(stream, sandbox, path, name)
        elif name == b"LIST":
            await _list(stream, sandbox, path)
        elif name == b"SEND":
            await _take_file(stream, sandbox, faults, drop, path)
        elif name == b"RECV":
            await _give_file(stream, sandbox, path)
        else:
            await _fail(stream, f"unknown command {name!r}")


async def _fail(stream: Stream, reason: str) -> None:
    text = reason.encode()
    await stream.write(struct.pack("<4sI", b"FAIL", len(text)) + text)


async def _stat_v1(stream: Stream, sandbox: Sandbox, path: str) -> None:
    try:
        found = os.lstat(sandbox.host(path))
        facts = found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime)
    except OSError:
        facts = 0, 0, 0
    await stream.write(struct.pack("<4s3I", b"STAT", *facts))


async def _stat_v2(stream: Stream, sandbox: Sandbox, path: str, name: bytes) -> None:
    error, facts = 0, (0,) * 10
    try:
        f = (os.lstat if name == b"LST2" else os.stat)(sandbox.host(path))
        times = int(f.st_atime), int(f.st_mtime), int(f.st_ctime)
        facts = f.st_dev, f.st_ino, f.st_mode, f.st_nlink, f.st_uid, f.st_gid, f.st_size, *times
    except OSError as failure:
        error = failure.errno or 1
    await stream.write(struct.pack("<4sI2Q4IQ3q", name, error, *facts))


async def _list(stream: Stream, sandbox: Sandbox, path: str) -> None:
    try:
        entries = sorted(sandbox.host(path).iterdir())
    except OSError:
        entries = []
    for entry in entries:
        found, name = entry.lstat(), entry.name.encode()
        facts = found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime), len(name)
        await stream.write(struct.pack("<4s4I", b"DENT", *facts) + name)
    await stream.write(struct.pack("<4s4I", b"DONE", 0, 0, 0, 0))


async def _take_file(stream: Stream, sandbox: Sandbox, faults: Faults, drop: Callable[[], None], target: str) -> None:
    """A push; as on a phone, a refusal comes at once, and what arrived before the connection broke stays there."""
    path, _, mode = target.rpartition(",")
    reason: str | None = None
    place: Path | None = None
    try:
        place = sandbox.host(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"")
    except OSError as error:
        reason, place = f"couldn't create file: {error.strerror}", None
        await _fail(stream, reason)
    while True:
        kind, number = struct.unpack("<4sI", await stream.read_exactly(8))
        if kind == b"DONE":
            break
        data = await stream.read_exactly(number)
        if reason is None and faults.value("full") is not None:
            reason = NO_SPACE
            if place is not None:
                place.unlink(missing_ok=True)
            await _fail(stream, reason)
        if reason is None and place is not None:
            with place.open("ab") as file:
                file.write(data)
        if faults.counted("drop-push", len(data)):
            drop()
    if reason is None and place is not None:
        place.chmod(int(mode) & 0o777)
        os.utime(place, (number, number))
        await stream.write(struct.pack("<4sI", b"OKAY", 0))


async def _give_file(stream: Stream, sandbox: Sandbox, path: str) -> None:
    try:
        data = sandbox.host(path).read_bytes()
    except OSError as error:
        await _fail(stream, f"failed to open {path}: {error.strerror}")
        return
    for start in range(0, len(data), PIECE):
        piece = data[start : start + PIECE]
        await stream.write(struct.pack("<4sI", b"DATA", len(piece)) + piece)
    await stream.write(struct.pack("<4sI", b"DONE", 0))
