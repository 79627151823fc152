"""A command under way on a phone: lines out of it, lines into it, and how it ended."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable

from devices.bench import DeviceLost
from toolkit.errors import DeviceError

STDIN, STDOUT, STDERR, EXIT = range(4)
HEADER = struct.Struct("<BI")
LOG_BYTES = 4000
LINE_BYTES = 1_000_000
ARRIVED_S = 5.0


class Stream:
    """A shell's connection, with the shell protocol's packets or, on old phones, plain bytes.

    Without that protocol there is no exit code and the log comes within the output.
    """

    def __init__(self, connection: socket.socket, name: str, has_protocol: bool, is_there: Callable[[], bool]) -> None:
        self._socket, self._name, self._has_protocol, self._is_there = connection, name, has_protocol, is_there
        self._raw, self._out, self._log = b"", b"", b""
        self.mixed = not has_protocol
        self.code: int | None = None
        self._ended = False

    @property
    def log(self) -> str:
        """The end of what the command wrote to standard error."""
        return self._log.decode(errors="replace")

    def write(self, line: str) -> None:
        """Send a line to the command's standard input; nothing where it has ended, which reading tells."""
        data = line.encode() + b"\n"
        try:
            self._take_arrived()
            if not self._ended:
                self._socket.sendall(HEADER.pack(STDIN, len(data)) + data if self._has_protocol else data)
        except (ConnectionError, TimeoutError) as error:
            raise DeviceLost(f"{self._name}: the connection is gone") from error

    def _take_arrived(self) -> None:
        """Read what is there already: a command that was killed meanwhile has left its exit code."""
        while not self._ended and self._held <= LINE_BYTES and select.select([self._socket], [], [], 0)[0]:
            self._receive(time.monotonic() + ARRIVED_S, ARRIVED_S)

    @property
    def _held(self) -> int:
        """Bytes that have arrived and are not read."""
        return len(self._out) + len(self._raw)

    def read_line(self, timeout_s: float) -> str | None:
        """The next line without its end; None where the command has ended.

        Raises `TimeoutError` where none comes within `timeout_s`, `DeviceError` where it grows beyond `LINE_BYTES`.
        """
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._out and not self._ended:
            if self._held > LINE_BYTES:
                raise DeviceError(
                    f"{self._name}: the command printed over {LINE_BYTES / 1e6:g} MB without a line's end"
                )
            self._receive(deadline, timeout_s)
        if b"\n" not in self._out:
            rest, self._out = self._out, b""
            return rest.decode(errors="replace") if rest else None
        line, _, self._out = self._out.partition(b"\n")
        return line.decode(errors="replace").rstrip("\r")

    def read_all(self, timeout_s: float) -> str:
        """All output until the command's end; raises `TimeoutError` where that does not come within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not self._ended:
            self._receive(deadline, timeout_s)
        data, self._out = self._out, b""
        return data.decode(errors="replace")

    def _receive(self, deadline: float, timeout_s: float) -> None:
        left = deadline - time.monotonic()
        data = None
        if left > 0:
            self._socket.settimeout(left)
            with contextlib.suppress(TimeoutError):
                try:
                    data = self._socket.recv(65536)
                except ConnectionError as error:
                    raise DeviceLost(f"{self._name}: the connection is gone") from error
        if data is None:
            raise TimeoutError(f"no answer within {timeout_s:.0f} s")
        if not data:
            self._close()
        elif self._has_protocol:
            self._raw += data
            self._unpack()
        else:
            self._out += data

    def _close(self) -> None:
        """The connection ended. With the shell protocol an exit code comes before that, unless the phone is gone."""
        if self.code is None and (self._has_protocol or not self._is_there()):
            raise DeviceLost(f"{self._name}: the connection is gone")
        self._ended = True

    def _unpack(self) -> None:
        while len(self._raw) >= HEADER.size:
            kind, length = HEADER.unpack_from(self._raw)
            if len(self._raw) < HEADER.size + length:
                return
            data, self._raw = self._raw[HEADER.size : HEADER.size + length], self._raw[HEADER.size + length :]
            if kind == STDOUT:
                self._out += data
            elif kind == STDERR:
                self._log = (self._log + data)[-LOG_BYTES:]
            elif kind == EXIT:
                self.code, self._ended = data[0], True
