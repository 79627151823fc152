"""The `shell:` and `exec:` services: a line is parsed and run; programs get standard input and can be ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import re
import signal
import struct
from collections.abc import Callable
from pathlib import Path

from tests.devices.android.loopback.commands import COMMANDS, State
from tests.devices.android.loopback.faults import Faults
from tests.devices.android.loopback.parsing import Command, parse
from tests.devices.android.loopback.phone import Phone
from tests.devices.android.loopback.sandbox import HOME, Sandbox
from tests.devices.android.loopback.wire import Closed, Stream

STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
EMULATOR = ("qemu-aarch64-static", "-cpu", "cortex-a76", "-L", "/usr/aarch64-linux-gnu")
ARM64 = 183
ASSIGNMENT = re.compile(r"^([A-Za-z_][A-Za-z0-9_]*)=(.*)$", re.DOTALL)
GRACE_S = 5.0


class Pipe:
    """Both directions of a command: framed packets with the shell protocol, plain bytes without it."""

    def __init__(self, stream: Stream, framed: bool) -> None:
        self._stream, self._framed = stream, framed
        self.hush = stream.hush

    async def write(self, kind: int, data: bytes) -> None:
        if not self._framed:
            await self._stream.write(data)
            return
        for start in range(0, len(data), 32768):
            piece = data[start : start + 32768]
            await self._stream.write(struct.pack("<BI", kind, len(piece)) + piece)

    async def end(self, code: int) -> None:
        if self._framed:
            await self._stream.write(struct.pack("<BIB", EXIT, 1, code & 255))

    async def read(self) -> bytes:
        """The next standard input; empty at its end. Raises `Closed`."""
        if not self._framed:
            return await self._stream.read()
        while True:
            kind, length = struct.unpack("<BI", await self._stream.read_exactly(5))
            data = await self._stream.read_exactly(length)
            if kind == CLOSE_STDIN:
                return b""
            if kind == STDIN and data:
                return data


class Shell:
    """One command line under way."""

    def __init__(
        self, stream: Stream, framed: bool, phone: Phone, sandbox: Sandbox, faults: Faults, drop: Callable[[], None]
    ) -> None:
        self.pipe = Pipe(stream, framed)
        self.state = State(phone, sandbox)
        self._faults, self._drop = faults, drop
        self._exported = {"TMPDIR": HOME}  # so adbd sets it

    async def run(self, line: str) -> None:
        hang = self._faults.value("hang")
        if hang is not None and hang in line:
            while True:  # until the other side closes the stream
                await self.pipe.read()
        try:
            commands = parse(line)
        except ValueError as error:
            await self.pipe.write(STDERR, f"sh: syntax error: {error}\n".encode())
            await self.pipe.end(2)
            return
        for command in commands:
            if command.when == ";" or (command.when == "&&") == (self.state.code == 0):
                self.state.code = await self._command(command)
        await self.pipe.end(self.state.code)

    async def _command(self, command: Command) -> int:
        words, variables = self._expanded(command)
        if words[:1] == ["export"]:
            self._exported.update(word.split("=", 1) for word in words[1:])
            return 0
        if not words:
            return 0
        if words[0] == "exec":
            words = words[1:]
        if words[0] == "exit":
            return int(words[1]) if len(words) > 1 else self.state.code
        if words[0] in COMMANDS:
            return await self._known(words, command)
        return await self._program(words, self._exported | variables, command)

    def _expanded(self, command: Command) -> tuple[list[str], dict[str, str]]:
        words: list[str] = []
        variables: dict[str, str] = {}
        for word in command.words:
            text = word.text.replace("$?", str(self.state.code))
            assignment = ASSIGNMENT.match(text)
            if assignment and not words:
                variables[assignment[1]] = assignment[2]
            elif word.pattern:
                words.extend(self.state.phone.files(text) or [text])
            else:
                words.append(text)
        return words, variables

    async def _known(self, words: list[str], command: Command) -> int:
        state = self.state
        state.out, state.err = [], []
        try:
            code = COMMANDS[words[0]](state, *words[1:])
        except OSError as error:
            state.err.append(f"{words[0]}: {' '.join(words[1:])}: {error.strerror}\n")
            code = 1
        await self._write(STDOUT, "".join(state.out).encode(), command)
        await self._write(STDERR, "".join(state.err).encode(), command)
        return code

    async def _write(self, kind: int, data: bytes, command: Command) -> None:
        """To the other side, or where the command sends it."""
        target = command.redirections.get(">" if kind == STDOUT else "2>")
        if target is None:
            await self.pipe.write(kind, data)
        elif target == "&1":
            await self._write(STDOUT, data, command)
        elif target != "/dev/null":
            with self.state.path(target).open("ab") as file:
                file.write(data)

    async def _program(self, words: list[str], variables: dict[str, str], command: Command) -> int:
        """A program of the sandbox; 126 and 127 as shells have them."""
        try:
            place = self.state.path(words[0])
            start = [*self._emulator(place), str(place)]
        except OSError:
            await self._write(STDERR, f"sh: {words[0]}: inaccessible or not found\n".encode(), command)
            return 127
        if not os.access(place, os.X_OK):
            await self._write(STDERR, f"sh: {words[0]}: can't execute: Permission denied\n".encode(), command)
            return 126
        if (code := self._faults.value("exit")) is not None:
            return int(code)
        inward = self.state.sandbox.inward
        process = await asyncio.create_subprocess_exec(
            *start,
            *map(inward, words[1:]),
            cwd=self.state.path(self.state.folder) if self.state.folder != "/" else self.state.sandbox.root,
            env={"PATH": os.environ["PATH"], "HOME": "/"} | {name: inward(value) for name, value in variables.items()},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=2**24,
        )
        return await self._follow(process, command)

    def _emulator(self, place: Path) -> tuple[str, ...]:
        """What runs this program on this machine: nothing for a program of its own kind, qemu for an arm64 one."""
        with place.open("rb") as file:
            head = file.read(20)
        is_arm64 = head[:4] == b"\x7fELF" and head[18] == ARM64
        return EMULATOR if is_arm64 and platform.machine() not in ("aarch64", "arm64") else ()

    async def _follow(self, process: asyncio.subprocess.Process, command: Command) -> int:
        feeding = asyncio.create_task(self._feed(process))
        try:
            assert process.stderr is not None
            await asyncio.gather(self._out(process, command), self._err(process.stderr, command))
            code = await asyncio.wait_for(process.wait(), GRACE_S)
            return code if code >= 0 else 128 - code
        finally:
            feeding.cancel()
            await _end(process)

    async def _feed(self, process: asyncio.subprocess.Process) -> None:
        """Standard input; when the other side is gone, the hang-up that adbd sends."""
        assert process.stdin is not None
        try:
            while data := await self.pipe.read():
                process.stdin.write(self.state.sandbox.inward(data.decode()).encode())
                await process.stdin.drain()
            process.stdin.close()
        except Closed:
            process.stdin.close()
            await _end(process)
        except ConnectionError:
            pass  # the program ended without reading to the end

    async def _out(self, process: asyncio.subprocess.Process, command: Command) -> None:
        assert process.stdout is not None
        number = 0
        truncated = self._faults.value("truncated")
        while line := await process.stdout.readline():
            number += 1
            if self._faults.value("garbage") is not None:
                line = b"\xff\xfe Segmentation fold\n"
            if truncated is not None and number == int(truncated):
                await self._write(STDOUT, line[: len(line) // 2], command)
                os.killpg(process.pid, signal.SIGKILL)
                return
            if b'"ran"' in line and self._faults.counted("freeze", 1):
                os.killpg(process.pid, signal.SIGSTOP)
                continue
            if b'"ran"' in line and self._faults.counted("drop-run", 1):
                self._drop()
                raise Closed
            if b'"ran"' in line and "--trace" in command.texts and self._faults.counted("drop-traced", 1):
                self._drop()
                raise Closed
            if b'"ran"' in line and self._faults.counted("silent", 1):
                self.pipe.hush()
            await self._write(STDOUT, self.state.sandbox.outward(line), command)
            if b'"ran"' in line and self._faults.counted("kill", 1):
                os.killpg(process.pid, signal.SIGKILL)

    async def _err(self, output: asyncio.StreamReader, command: Command) -> None:
        while line := await output.readline():
            await self._write(STDERR, self.state.sandbox.outward(line), command)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Hang up; what does not end by that is killed."""
    for number in (signal.SIGHUP, signal.SIGKILL):
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), GRACE_S)
