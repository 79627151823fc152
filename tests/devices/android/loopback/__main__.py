"""One phone: `python -m tests.devices.android.loopback --port N --root DIR --phone NAME [--fault F]`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from pathlib import Path

from tests.devices.android.loopback import sync
from tests.devices.android.loopback.faults import Faults, parse
from tests.devices.android.loopback.phone import Phone
from tests.devices.android.loopback.sandbox import Sandbox
from tests.devices.android.loopback.shell import Shell
from tests.devices.android.loopback.wire import Connection, Stream


class Daemon:
    """All connections to one phone. What was opened is noted in `LOG`, a JSON line each."""

    def __init__(self, phone: Phone, sandbox: Sandbox, faults: Faults, log: Path) -> None:
        self._phone, self._sandbox, self._faults, self._log = phone, sandbox, faults, log
        self._connections: set[Connection] = set()
        self.ended = asyncio.Event()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._faults.gone_for_good():
            writer.transport.abort()
            return
        props = self._phone.props
        facts = {f"ro.product.{key}": props[f"ro.product.{key}"] for key in ("name", "model", "device")}
        banner = "device::" + "".join(f"{key}={value};" for key, value in facts.items())
        banner += f"features={self._phone.features}"
        authorized = self._faults.value("unauthorized") is None
        connection = Connection(reader, writer, banner, self._serve, authorized)
        self._connections.add(connection)
        try:
            await connection.serve()
        finally:
            self._connections.discard(connection)

    def drop(self) -> None:
        """Break all connections; where that is for good, no new one is taken either."""
        for connection in list(self._connections):
            connection.drop()

    async def _serve(self, stream: Stream, name: str) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(name) + "\n")
        head, _, line = name.partition(":")
        kind, *options = head.split(",")
        await stream.accept()
        if kind in ("shell", "exec"):
            framed = "v2" in options
            await Shell(stream, framed, self._phone, self._sandbox, self._faults, self.drop).run(line)
        elif kind == "sync":
            await sync.serve(stream, self._sandbox, self._faults, self.drop)


async def main(arguments: argparse.Namespace) -> None:
    phone = Phone(arguments.phone, arguments.changes)
    faults = Faults([parse(text) for text in arguments.fault])
    daemon = Daemon(phone, Sandbox(arguments.root), faults, arguments.log)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, daemon.ended.set)
    watch = asyncio.create_task(_end_with_parent(daemon))
    server = await asyncio.start_server(daemon.accept, "127.0.0.1", arguments.port)
    async with server:
        await daemon.ended.wait()
        watch.cancel()
        daemon.drop()
        server.close()


async def _end_with_parent(daemon: Daemon) -> None:
    """A test that was killed leaves no phone behind."""
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(1)
    daemon.ended.set()


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.devices.android.loopback")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--root", type=Path, required=True, help="the folder that is /data/local/tmp")
    parser.add_argument("--phone", default="pixel8", help="one of phones/*.yaml")
    parser.add_argument(
        "--changes", type=Path, required=True, help="a JSON file of changes to it, read at every question"
    )
    parser.add_argument("--log", type=Path, required=True, help="where opened services are noted")
    parser.add_argument("--fault", action="append", default=[])
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(options()))
