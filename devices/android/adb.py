"""Phones through the platform's adb server: which are there, commands with exit codes, pushes and pulls.

Every wait has an end. A connection that breaks and a phone that is silent are `DeviceLost`; everything else that fails
is a `DeviceError`.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import adbutils

from devices.android.adb_streams import Stream
from devices.bench import DeviceLost
from devices.sessions import Stopped
from toolkit.errors import DeviceError, UserError

START_S = 30.0
ANSWER_S = 30.0
TRANSFER_S = 60.0
#: Within it a phone that is alive runs `echo`.
ALIVE_S = 10.0
STEP_S = 0.5
PIECE = 64 * 1024
INSTALL = "install Android's platform-tools (Debian: apt install adb; macOS: brew install android-platform-tools)"
UNLOCK = "unlock the phone and accept 'Allow USB debugging' for this computer"

_LINE = re.compile(r"^(?P<serial>\S+)\s+(?P<state>.+?)(?P<tags>(?:\s+[\w.-]+:\S+)*)\s*$")
_LOST = ("not found", "offline", "closed", "no devices", "still connecting", "still authorizing", "unknown data: b''")


@dataclass(frozen=True)
class Attached:
    """A phone as adb lists it. `model` is its letters and digits; it is None until the phone lets adb in."""

    serial: str
    state: str
    model: str | None = None


@dataclass(frozen=True)
class Result:
    """What a command on the phone gave; without the shell protocol, `err` is part of `out`."""

    code: int
    out: str
    err: str


def attached() -> list[Attached]:
    """All phones that adb knows, whatever their state. Raises `DeviceError` where adb is missing or does not start."""
    try:
        with _connection(ANSWER_S) as connection:
            connection.send_command("host:devices-l")
            connection.check_okay()
            return read_devices(connection.read_string_block())
    except (adbutils.AdbError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DeviceError(f"adb: its server does not answer ({reason}); try `adb kill-server`") from error


def read_devices(text: str) -> list[Attached]:
    """The phones in the text of `adb devices -l`."""
    found = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is not None and not line.startswith(("List of devices", "*")):
            tags = dict(tag.split(":", 1) for tag in match["tags"].split() if ":" in tag)
            found.append(Attached(match["serial"], match["state"].split(" (")[0].split(";")[0], tags.get("model")))
    return found


def choose(phones: Sequence[Attached], which: str | None) -> Attached:
    """The phone of that serial, of the one serial that begins so, or of that model; the only one for None.

    Raises `UserError` where the name fits none or several, and `DeviceError` where there is none or it cannot be used.
    """
    if not phones:
        raise DeviceError(
            "android: no phone is attached; connect one by USB and turn on USB debugging in its developer options, "
            "or `adb connect HOST:PORT`"
        )
    if which is None:
        usable = [phone for phone in phones if phone.state == "device"] or list(phones)
        if len(usable) > 1:
            raise UserError(f"android: several phones are attached ({_named(usable)}); name one, as android:SERIAL")
        return _usable(usable[0])
    fitting = [phone for phone in phones if phone.serial == which]
    fitting = fitting or [phone for phone in phones if phone.serial.startswith(which)]
    fitting = fitting or [phone for phone in phones if _plain(phone.model) == _plain(which)]
    if not fitting:
        raise UserError(f"android:{which}: no such phone; attached: {_named(phones)}")
    if len(fitting) > 1:
        raise UserError(f"android:{which}: fits several phones: {_named(fitting)}; name a whole serial")
    return _usable(fitting[0])


def resolved(name: str) -> str:
    """`android:SERIAL` for a device named `android` or `android:WHICH`; raises as `choose` does."""
    return f"android:{choose(attached(), name.partition(':')[2] or None).serial}"


def remedy(state: str) -> str | None:
    """What to do about a phone in this state; None where it can be used."""
    known = {
        "device": None,
        "unauthorized": UNLOCK,
        "authorizing": UNLOCK,
        "offline": "plug it in again, or restart the phone",
        "no permissions": "let your user open it: install the package android-sdk-platform-tools-common, plug in again",
    }
    return known.get(state, "start its Android system")


def _usable(phone: Attached) -> Attached:
    if (wanted := remedy(phone.state)) is not None:
        raise DeviceError(f"android:{phone.serial}: the phone is {phone.state}; {wanted}")
    return phone


def _named(phones: Sequence[Attached]) -> str:
    return ", ".join(f"{p.serial} ({p.model or p.state})" for p in phones)


def _plain(model: str | None) -> str:
    """As adb writes a model: a letter or digit stays, anything else is an underscore."""
    return re.sub(r"[^a-z0-9]", "_", (model or "").lower())


class Phone:
    """One phone by its serial. All methods raise `DeviceLost` where it is gone or silent."""

    def __init__(self, serial: str) -> None:
        self.serial = serial
        self._features: frozenset[str] | None = None

    @property
    def name(self) -> str:
        return f"android:{self.serial}"

    @property
    def features(self) -> frozenset[str]:
        """What its adbd can do."""
        if self._features is None:
            with self._failing(), _connection(ANSWER_S) as connection:
                connection.send_command(f"host-serial:{self.serial}:features")
                connection.check_okay()
                self._features = frozenset(connection.read_string_block().split(","))
        return self._features

    def shell(self, command: str, timeout_s: float = ANSWER_S) -> Result:
        """Run a command to its end; its exit code is part of the result.

        Raises `DeviceError` where it does not end within `timeout_s`, on a phone that answers otherwise.
        """
        has_protocol = "shell_v2" in self.features
        line = command if has_protocol else f"{command}\necho handheld:$?"
        with self.stream(line, "shell") as stream:
            try:
                out = stream.read_all(timeout_s)
            except TimeoutError as error:
                self.check()
                raise DeviceError(f"{self.name}: `{command}` gave no answer within {timeout_s:.0f} s") from error
            if has_protocol:
                return Result(stream.code if stream.code is not None else -1, out, stream.log)
        text, _, code = out.replace("\r\n", "\n").rpartition("handheld:")
        if not code.strip().isdigit():
            raise self._lost("its answer breaks off")
        return Result(int(code), text, "")

    def run(self, command: str, timeout_s: float = ANSWER_S) -> str:
        """The output of a command; raises `DeviceError` where it fails."""
        result = self.shell(command, timeout_s)
        if result.code:
            reason = " ".join((result.err or result.out).split())[:200]
            raise DeviceError(f"{self.name}: `{command}` failed with exit code {result.code} ({reason})")
        return result.out

    def answers(self) -> bool:
        """Whether the phone is there and alive: adb lists one that hangs as before."""
        try:
            with self.stream("echo", "shell", ALIVE_S) as stream:
                stream.read_all(ALIVE_S)
        except DeviceError:
            return False
        return stream.code in (0, None)  # without the shell protocol there is no code

    def check(self) -> None:
        """Raise `DeviceLost` unless the phone is alive."""
        if not self.answers():
            raise self._silent(ALIVE_S)

    @contextmanager
    def stream(self, command: str, plain: str = "exec", timeout_s: float | None = None) -> Iterator[Stream]:
        """A command under way, with standard input; at the end of the block the connection to it is closed.

        `plain` is the service for phones without the shell protocol; `timeout_s` (by default `ANSWER_S`) bounds the
        start.
        """
        limit_s = ANSWER_S if timeout_s is None else timeout_s
        has_protocol = "shell_v2" in self.features
        service = f"shell,v2,raw:{command}" if has_protocol else f"{plain}:{command}"
        with self._failing(limit_s), self._service(service, limit_s) as connection:
            yield Stream(connection.conn, self.name, has_protocol, lambda: self.state() == "device")

    def push(self, source: Path, target: str, mode: int, progress: Callable[[int], None] = lambda _: None) -> None:
        """Copy a file there; `progress` is called with the bytes that are through.

        Raises `DeviceError` where the phone cannot take it.
        """
        with self._failing(TRANSFER_S), self._service("sync:", TRANSFER_S) as connection, source.open("rb") as file:
            path = f"{target},{0o100000 | mode}".encode()
            connection.conn.sendall(b"SEND" + struct.pack("<I", len(path)) + path)
            sent = 0
            while piece := file.read(PIECE):
                if select.select([connection.conn], [], [], 0)[0]:
                    break  # a refusal: what is sent after it may cost us its reason
                connection.conn.sendall(b"DATA" + struct.pack("<I", len(piece)) + piece)
                sent += len(piece)
                progress(sent)
            else:
                connection.conn.sendall(b"DONE" + struct.pack("<I", int(time.time())))
            self._check(connection, f"{source.name} cannot be pushed")
            connection.conn.sendall(b"QUIT" + bytes(4))

    def pull(self, source: str, target: BinaryIO) -> None:
        """Copy a file from there; raises `DeviceError` where it cannot be read."""
        with self._failing(TRANSFER_S), self._service("sync:", TRANSFER_S) as connection:
            path = source.encode()
            connection.conn.sendall(b"RECV" + struct.pack("<I", len(path)) + path)
            while self._check(connection, f"{source} cannot be pulled") == b"DATA":
                target.write(connection.read_exact(self._length))
            connection.conn.sendall(b"QUIT" + bytes(4))

    def _check(self, connection: adbutils.AdbConnection, what: str) -> bytes:
        """Read the head of an answer; `_length` is the number in it."""
        kind, self._length = struct.unpack("<4sI", connection.read_exact(8))
        if kind != b"FAIL":
            return bytes(kind)
        reason = connection.read_exact(self._length).decode(errors="replace")
        hint = "; free space on the phone" if "No space left" in reason else ""
        raise DeviceError(f"{self.name}: {what} ({reason}){hint}")

    def state(self) -> str | None:
        """As adb lists it; None where it does not."""
        return next((phone.state for phone in attached() if phone.serial == self.serial), None)

    def wait(self, limit_s: float, stopped: Callable[[], bool] = lambda: False) -> None:
        """Wait until it answers again, and help adb to find it.

        Raises `DeviceLost` where it stays away, and `Stopped` once `stopped` says so.
        """
        deadline = time.monotonic() + limit_s
        while True:
            with contextlib.suppress(DeviceError):
                if self.state() == "device" and self.answers():
                    return
            if stopped():
                raise Stopped
            if time.monotonic() >= deadline:
                raise self._lost(f"the phone did not come back within {limit_s:.0f} s")
            self._reconnect()
            time.sleep(STEP_S)

    def _reconnect(self) -> None:
        network = ":" in self.serial
        request = f"host:connect:{self.serial}" if network else "host:reconnect-offline"
        with contextlib.suppress(adbutils.AdbError, OSError, EOFError), _connection(ANSWER_S) as connection:
            connection.send_command(request)
            connection.check_okay()
            connection.read_string_block()

    def _lost(self, reason: str) -> DeviceLost:
        return DeviceLost(f"{self.name}: {reason}")

    def _silent(self, limit_s: float) -> DeviceLost:
        return self._lost(f"no answer within {limit_s:.0f} s; plug the phone in again")

    @contextmanager
    def _service(self, name: str, timeout_s: float) -> Iterator[adbutils.AdbConnection]:
        """A connection to a service of the phone; `timeout_s` bounds every single wait on it."""
        with _connection(timeout_s) as connection:
            for request in (f"host:transport:{self.serial}", name):
                data = request.encode()
                connection.conn.sendall(f"{len(data):04x}".encode() + data)
                connection.check_okay()
            yield connection

    @contextmanager
    def _failing(self, timeout_s: float = ANSWER_S) -> Iterator[None]:
        """What adb says of this phone becomes an error of ours; `timeout_s` is what a single wait was bounded by."""
        try:
            yield
        except (adbutils.AdbTimeout, TimeoutError) as error:
            raise self._silent(timeout_s) from error
        except adbutils.AdbError as error:
            reason = " ".join(str(error).split())
            if "unauthorized" in reason:
                raise DeviceError(f"{self.name}: the phone is unauthorized; {UNLOCK}") from error
            if any(sign in reason.lower() for sign in _LOST):
                raise self._lost(f"the connection is gone ({reason})") from error
            raise DeviceError(f"{self.name}: adb failed ({reason})") from error
        except (ConnectionError, EOFError) as error:
            raise self._lost("the connection is gone") from error


@contextmanager
def _connection(timeout_s: float) -> Iterator[adbutils.AdbConnection]:
    """A connection to the adb server, which is started where it does not run."""
    client = adbutils.AdbClient()
    _ensure_server(client)
    connection = client.make_connection(timeout=timeout_s)
    try:
        yield connection
    finally:
        connection.conn.close()


def _ensure_server(client: adbutils.AdbClient) -> None:
    """Start the adb server detached from our own streams: it outlives us and would hold them open."""
    import socket

    with contextlib.suppress(OSError), socket.create_connection((client.host, client.port), timeout=ANSWER_S):
        return
    program = adb_program()
    with tempfile.TemporaryFile() as said:
        try:
            code = subprocess.run(
                [program, "-P", str(client.port), "start-server"],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                timeout=START_S,
            ).returncode
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DeviceError(f"adb: its server cannot be started ({error}); try `adb start-server`") from error
        if code:
            said.seek(0)
            lines = said.read().decode(errors="replace").split("\n")
            reason = " ".join(line.strip() for line in lines if line.strip())[-200:]
            raise DeviceError(
                f"adb: its server cannot be started on port {client.port} ({reason}); try `adb start-server`"
            )


def adb_program() -> str:
    """Where adb is; raises `DeviceError` where it is not."""
    found = shutil.which("adb")
    for variable in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        folder = os.environ.get(variable)
        found = found or (shutil.which("adb", path=str(Path(folder) / "platform-tools")) if folder else None)
    if found is None:
        raise DeviceError(f"adb: not found; {INSTALL}")
    return found
