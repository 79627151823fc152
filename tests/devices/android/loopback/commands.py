"""The commands of the device's shell that are not programs: each gives an exit code and writes to two files."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.devices.android.loopback.phone import Phone
from tests.devices.android.loopback.sandbox import Sandbox


@dataclass
class State:
    """What a command may see and change; `out` and `err` collect its output."""

    phone: Phone
    sandbox: Sandbox
    folder: str = "/"
    code: int = 0
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)

    def path(self, name: str) -> Path:
        return self.sandbox.host(name, self.folder)


def echo(state: State, *words: str) -> int:
    state.out.append(" ".join(words) + "\n")
    return 0


def cd(state: State, folder: str = "/") -> int:
    if not state.path(folder).is_dir():
        state.err.append(f"cd: {folder}: No such file or directory\n")
        return 2
    state.folder = os.path.normpath(os.path.join(state.folder, folder))
    return 0


def getprop(state: State, name: str = "") -> int:
    if name:
        state.out.append(state.phone.props.get(name, "") + "\n")
    else:
        state.out.extend(f"[{key}]: [{value}]\n" for key, value in state.phone.props.items())
    return 0


def dumpsys(state: State, service: str, *_: str) -> int:
    text = state.phone.dump(service)
    state.out.append(f"Can't find service: {service}\n" if text is None else text)
    return 0  # so says Android too


def framework(name: str) -> Callable[..., int]:
    """`cmd`, `settings` and the like: what the phone's file has for exactly these words."""

    def run(state: State, *words: str) -> int:
        if words[:2] == ("power", "set-fixed-performance-mode-enabled"):
            state.phone.settings.setdefault("fixed-performance-mode", []).append(words[2])
        found = state.phone.answer(" ".join((name, *words)))
        if found is None:
            state.err.append(f"{name}: Can't find service: {' '.join(words[:1])}\n")
            return 20
        state.out.append(found[1])
        return found[0]

    return run


def cat(state: State, *names: str) -> int:
    code = 0
    for name in names:
        text = _text(state, "cat", name)
        code = code or int(text is None)
        state.out.append(text or "")
    return code


def grep(state: State, *words: str) -> int:
    """`grep -sH . FILES`: every line that is not empty, with its file's name before it."""
    if words[:2] != ("-sH", "."):
        state.err.append("grep: this phone knows `grep -sH . FILE...` only\n")
        return 2
    for name in words[2:]:
        lines = (state.phone.file(name) or "").splitlines()
        state.out.extend(f"{name}:{line}\n" for line in lines if line)
    return 0


def ls(state: State, *words: str) -> int:
    names = [word for word in words if not word.startswith("-")] or [state.folder]
    code = 0
    for name in names:
        try:
            place = state.path(name)
            entries = sorted(entry.name for entry in place.iterdir()) if place.is_dir() else [name]
            place.lstat()
            state.out.extend(entry + "\n" for entry in entries)
        except OSError as error:
            state.err.append(f"ls: {name}: {error.strerror}\n")
            code = 1
    return code


def mkdir(state: State, *words: str) -> int:
    for name in (word for word in words if word != "-p"):
        state.path(name).mkdir(parents="-p" in words, exist_ok="-p" in words)
    return 0


def rm(state: State, *words: str) -> int:
    options = "".join(word for word in words if word.startswith("-"))
    for name in (word for word in words if not word.startswith("-")):
        place = state.path(name)
        if place.is_dir() and "r" in options:
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok="f" in options)
    return 0


def rmdir(state: State, *names: str) -> int:
    for name in names:
        state.path(name).rmdir()
    return 0


def mv(state: State, *words: str) -> int:
    source, target = (word for word in words if word != "-f")
    state.path(source).rename(state.path(target))
    return 0


def chmod(state: State, mode: str, *names: str) -> int:
    for name in names:
        state.path(name).chmod(int(mode, 8))
    return 0


def sha256sum(state: State, *names: str) -> int:
    code = 0
    for name in names:
        try:
            digest = hashlib.sha256(state.path(name).read_bytes()).hexdigest()
            state.out.append(f"{digest}  {name}\n")
        except OSError as error:
            state.err.append(f"sha256sum: {name}: {error.strerror}\n")
            code = 1
    return code


def df(state: State, *_: str) -> int:
    free = state.phone.free_bytes // 1024
    state.out.append("Filesystem     1K-blocks     Used Available Use% Mounted on\n")
    state.out.append(f"/dev/block/dm-5 110000000 {110000000 - free} {free}  50% /data\n")
    return 0


def true(_: State, *__: str) -> int:
    return 0


def _text(state: State, command: str, name: str) -> str | None:
    """A file of the system or of the sandbox; None, and a line on `err`, where there is none to read."""
    canned = state.phone.file(name)
    if canned is not None:
        return canned
    try:
        return state.path(name).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        missing = isinstance(error, PermissionError) and not name.startswith("/data/local/tmp")
        reason = "No such file or directory" if missing else error.strerror
        state.err.append(f"{command}: {name}: {reason}\n")
        return None


COMMANDS: dict[str, Callable[..., int]] = {
    "cat": cat,
    "cd": cd,
    "chmod": chmod,
    "cmd": framework("cmd"),
    "df": df,
    "dumpsys": dumpsys,
    "echo": echo,
    "getprop": getprop,
    "grep": grep,
    "logcat": framework("logcat"),
    "ls": ls,
    "mkdir": mkdir,
    "mv": mv,
    "rm": rm,
    "rmdir": rmdir,
    "settings": framework("settings"),
    "sha256sum": sha256sum,
    "true": true,
    ":": true,
}
