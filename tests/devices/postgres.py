"""A PostgreSQL server of a test's own: a new cluster in a temporary folder, on a free port of the loopback only."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.programs import find

#: Debian keeps the server's programs off the PATH.
FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
USER, PASSWORD = "tester", "s3cret-word"
START_S = 60.0


@dataclass(frozen=True)
class Server:
    """A running server; everybody needs the password."""

    port: int

    def url(self, database: str = "postgres", password: str = PASSWORD, port: int | None = None) -> str:
        return f"postgresql+psycopg://{USER}:{password}@127.0.0.1:{port or self.port}/{database}"


@contextmanager
def server() -> Iterator[Server]:
    """Start one, and stop it and remove it all at the end. Root may not run it, so then `nobody` does."""
    folder = Path(tempfile.mkdtemp(prefix="handheld-pg-"))
    try:
        password = folder / "password"
        password.write_text(PASSWORD)
        data = folder / "data"
        data.mkdir()
        if os.geteuid() == 0:
            for path in (folder, password, data):
                shutil.chown(path, "nobody", "nogroup")
        _run("initdb", f"--pgdata={data}", f"--username={USER}", "--auth=scram-sha-256", f"--pwfile={password}")
        port = free_port()
        process = subprocess.Popen(
            _as_nobody("postgres", "-D", data, "-p", port, "-c", "listen_addresses=127.0.0.1", "-k", folder, "-F"),
            stdin=subprocess.DEVNULL,
            stdout=(folder / "log").open("wb"),
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
        )
        try:
            _wait(process, port, folder / "log")
            yield Server(port)
        finally:
            process.send_signal(2)  # SIGINT: it lets go of all connections and ends
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
    finally:
        shutil.rmtree(folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(program: str, *arguments: object) -> None:
    command = _as_nobody(program, *arguments)
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=120, cwd="/")


def _as_nobody(program: str, *arguments: object) -> list[str]:
    path = find(program, FOLDERS)
    assert path is not None, f"{program} is not installed"
    who = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
    return [*who, path, *map(str, arguments)]


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    ready = [find("pg_isready", FOLDERS) or "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
    while process.poll() is None and time.monotonic() < deadline:
        if subprocess.run(ready, capture_output=True, stdin=subprocess.DEVNULL, timeout=30).returncode == 0:
            return
        time.sleep(0.1)
    raise AssertionError(f"the server did not start: {log.read_text()}")
