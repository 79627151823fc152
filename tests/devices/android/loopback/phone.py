"""What a phone says of itself: one of `phones/*.yaml`, with changes that a test may write while it runs."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import Any

import yaml

PHONES = Path(__file__).parent / "phones"


class Phone:
    """Canned Android text. `changes` is a JSON file like the phone's YAML; it is read anew at every question."""

    def __init__(self, name: str, changes: Path) -> None:
        self._facts: dict[str, Any] = yaml.safe_load((PHONES / f"{name}.yaml").read_text(encoding="utf-8"))
        self._changes = changes
        #: What commands have set, and how often, such as `fixed-performance-mode: ["true", "false"]`.
        self.settings: dict[str, list[str]] = {}

    def _part(self, name: str) -> dict[str, str]:
        changed: dict[str, dict[str, str]] = {}
        if self._changes.is_file():
            changed = json.loads(self._changes.read_text(encoding="utf-8"))
        return {**self._facts.get(name, {}), **changed.get(name, {})}

    @property
    def props(self) -> dict[str, str]:
        return {key: str(value) for key, value in self._part("props").items()}

    @property
    def features(self) -> str:
        return str(self._facts.get("features", "shell_v2,cmd,stat_v2"))

    def file(self, path: str) -> str | None:
        """The text of a system's file; None where there is no such file."""
        text = self._part("files").get(path)
        return None if text is None else str(text).rstrip("\n") + "\n"

    def files(self, pattern: str) -> list[str]:
        """System files whose paths fit a pattern of the shell's."""
        parts = pattern.split("/")
        return sorted(
            path
            for path in self._part("files")
            if len(path.split("/")) == len(parts)
            and all(fnmatch.fnmatchcase(a, b) for a, b in zip(path.split("/"), parts, strict=True))
        )

    def dump(self, service: str) -> str | None:
        """What `dumpsys SERVICE` prints."""
        return self._part("dumpsys").get(service)

    def answer(self, command: str) -> tuple[int, str] | None:
        """The exit code and the text of a command of the framework's, such as `cmd power ...`; None: not known."""
        found = self._part("commands").get(command)
        if found is None:
            return None
        code, _, text = str(found).partition(" ")
        return int(code), text

    @property
    def free_bytes(self) -> int:
        return int(self._part("storage").get("free_bytes", 50_000_000_000))
