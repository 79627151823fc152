"""Phones and an adb server for one test: `with fleet(folder) as phones: phones.add("pixel8")`. Nothing outlives it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).parents[4]
START_S = 30.0
END_S = 10.0
DETACHED: dict[str, Any] = {
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.DEVNULL,
    "stderr": subprocess.DEVNULL,
    "close_fds": True,
}


@dataclass
class Handset:
    """A phone that runs as a process. `serial` is what adb calls it."""

    folder: Path
    port: int
    kind: str
    process: subprocess.Popen[bytes]

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def files(self) -> list[str]:
        """What lies in its /data/local/tmp, folders too."""
        root = self.folder / "tmp"
        return sorted(str(path.relative_to(root)) for path in root.rglob("*"))

    @property
    def services(self) -> list[str]:
        """What was opened on it so far, such as `shell,v2,raw:getprop`."""
        log = self.folder / "services.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []

    def change(self, **facts: dict[str, str]) -> None:
        """What it says from now on: `phone.change(dumpsys={"battery": ...})`."""
        new = self.folder / "changes.new"
        new.write_text(json.dumps(facts))
        new.replace(self.folder / "changes.json")

    def end(self) -> None:
        """Switch it off."""
        end(self.process)


@dataclass
class Fleet:
    folder: Path
    environment: dict[str, str]
    phones: list[Handset] = field(default_factory=list)

    def add(self, phone: str = "pixel8", faults: Sequence[str] = ()) -> Handset:
        """Start a phone and connect adb to it."""
        port, folder = free_port(), self.folder / f"phone{len(self.phones)}"
        folder.mkdir()
        handset = Handset(folder, port, phone, _start(folder, port, phone, faults))
        self.phones.append(handset)
        self.adb("connect", handset.serial)
        return handset

    def restart(self, handset: Handset) -> None:
        """Switch a phone off and on: its files are there still, its faults are not."""
        handset.end()
        handset.process = _start(handset.folder, handset.port, handset.kind)
        self.adb("disconnect", handset.serial)
        self.adb("connect", handset.serial)

    def adb(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The platform's own adb, on this fleet's server."""
        return subprocess.run(
            ["adb", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_S,
        )


@contextmanager
def fleet(folder: Path) -> Iterator[Fleet]:
    """An adb server of its own port and home, and phones to add; all of them end with the block.

    Set `fleet.environment` for whatever is to use this server.
    """
    home = folder / "home"
    home.mkdir(parents=True)
    environment = os.environ | {"ANDROID_ADB_SERVER_PORT": str(free_port()), "HOME": str(home), "TMPDIR": str(home)}
    environment["ADB_MDNS"] = "0"  # it looks for no phones on the network
    environment.pop("ANDROID_SERIAL", None)
    port = int(environment["ANDROID_ADB_SERVER_PORT"])
    server = subprocess.Popen(["adb", "-P", str(port), "nodaemon", "server"], env=environment, **DETACHED)
    phones = Fleet(folder, environment)
    try:
        _wait_for_port(port, server)
        yield phones
    finally:
        for process in (*(phone.process for phone in phones.phones), server):
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end; one that does not is killed."""
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(END_S)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(folder: Path, port: int, kind: str, faults: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.devices.android.loopback", "--phone", kind, "--port", str(port)]
    command += ["--root", str(folder / "tmp"), "--changes", str(folder / "changes.json")]
    command += ["--log", str(folder / "services.jsonl"), *(f"--fault={fault}" for fault in faults)]
    process = subprocess.Popen(command, cwd=REPOSITORY, **DETACHED)
    _wait_for_port(port, process)
    return process


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with exit code {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args} does not listen")


def wait_for_end_of(words: str) -> None:
    """Wait until no process has these words in its command line; raises `AssertionError` after `START_S`."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        running = [p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])]
        if not any(words in " ".join(command) for command in running):
            return
        time.sleep(0.05)
    raise AssertionError(f"a process with '{words}' in its command line is still running")
