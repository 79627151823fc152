"""The adb protocol's packets and the streams in them, as the device sees them."""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Awaitable, Callable

VERSION = 0x01000001  # from here on nobody looks at checksums
MAX_PAYLOAD = 256 * 1024
HEADER = struct.Struct("<6I")
AUTH_TOKEN = 1
TOKEN = bytes(20)


def _word(name: bytes) -> int:
    return int.from_bytes(name, "little")


CNXN, AUTH, OPEN, OKAY, CLSE, WRTE = map(_word, (b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"CLSE", b"WRTE"))

Service = Callable[["Stream", str], Awaitable[None]]


class Closed(Exception):
    """The other side closed the stream, or the connection is gone."""


class Stream:
    """One of the channels of a connection. A packet of data is acknowledged when it is read, not when it arrives."""

    def __init__(self, connection: Connection, local: int, remote: int) -> None:
        self._connection, self.local, self.remote = connection, local, remote
        self._arrived: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._may_write = asyncio.Event()
        self._may_write.set()
        self.closed = False
        self._buffer = b""
        self._writing = asyncio.Lock()

    async def accept(self) -> None:
        """Say that the service is there."""
        await self._connection.send(OKAY, self.local, self.remote)

    async def write(self, data: bytes) -> None:
        """Send all of `data`; each packet waits until the one before it was acknowledged."""
        size = self._connection.max_payload
        async with self._writing:
            for start in range(0, len(data), size):
                await self._may_write.wait()
                if self.closed:
                    raise Closed
                self._may_write.clear()
                await self._connection.send(WRTE, self.local, self.remote, data[start : start + size])

    async def read(self) -> bytes:
        """The next data, of any length."""
        if self._buffer:
            data, self._buffer = self._buffer, b""
            return data
        data_or_end = await self._arrived.get()
        if data_or_end is None:
            self._arrived.put_nowait(None)
            raise Closed
        await self._connection.send(OKAY, self.local, self.remote)
        return data_or_end

    async def read_exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            held, self._buffer = self._buffer, b""
            self._buffer = held + await self.read()
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def hush(self) -> None:
        """Send and take nothing more on the whole connection, as a phone that hangs."""
        self._connection.silent = True

    def arrived(self, data: bytes) -> None:
        self._arrived.put_nowait(data)

    def acknowledged(self) -> None:
        self._may_write.set()

    def end(self) -> None:
        """The other side will neither send nor take anything more."""
        self.closed = True
        self._may_write.set()
        self._arrived.put_nowait(None)


class Connection:
    """One adb server's connection, and the services that run in it."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        banner: str,
        service: Service,
        authorized: bool,
    ) -> None:
        self._reader, self._writer = reader, writer
        self._banner, self._service, self._authorized = banner.encode(), service, authorized
        self._numbers = itertools.count(1)
        self._streams: dict[int, Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.max_payload = 4096
        self.silent = False

    async def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        if self.silent:
            return
        header = HEADER.pack(command, first, second, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF)
        try:
            self._writer.write(header + data)
            await self._writer.drain()
        except ConnectionError as error:
            raise Closed from error

    async def serve(self) -> None:
        """Answer until the other side goes away or `drop` is called."""
        try:
            while True:
                command, first, second, length, _, magic = HEADER.unpack(await self._reader.readexactly(HEADER.size))
                if magic != command ^ 0xFFFFFFFF:
                    return
                data = await self._reader.readexactly(length)
                if not self.silent:
                    await self._take(command, first, second, data)
        except (asyncio.IncompleteReadError, ConnectionError, Closed):
            pass
        finally:
            self.drop()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def drop(self) -> None:
        """Cut the connection, as a pulled cable does."""
        for stream in self._streams.values():
            stream.end()
        self._writer.transport.abort()

    async def _take(self, command: int, first: int, second: int, data: bytes) -> None:
        if command == CNXN:
            self.max_payload = min(second, MAX_PAYLOAD)
            if self._authorized:
                await self.send(CNXN, VERSION, MAX_PAYLOAD, self._banner)
            else:
                await self.send(AUTH, AUTH_TOKEN, 0, TOKEN)
        elif command == AUTH and first == 2:  # signed with a key that this device does not know: ask for another
            await self.send(AUTH, AUTH_TOKEN, 0, TOKEN)
        elif command == OPEN and self._authorized:
            stream = Stream(self, next(self._numbers), first)
            self._streams[stream.local] = stream
            task = asyncio.create_task(self._run(stream, data.rstrip(b"\0").decode()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif command == OPEN:
            await self.send(CLSE, 0, first)
        elif (known := self._streams.get(second)) is not None:
            if command == WRTE:
                known.arrived(data)
            elif command == OKAY:
                known.acknowledged()
            elif command == CLSE:
                known.end()

    async def _run(self, stream: Stream, name: str) -> None:
        try:
            await self._service(stream, name)
        except Closed:
            pass
        finally:
            self._streams.pop(stream.local, None)
            if not self._writer.transport.is_closing():
                await self.send(CLSE, stream.local, stream.remote)
