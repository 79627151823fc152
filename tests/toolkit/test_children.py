"""A child's last line is its result, and however else it ends is said in words."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from toolkit.children import ChildFailed, command_of, last_line


def child(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_last_line_is_the_result() -> None:
    assert last_line(child("print('first'); print('last')"), 60) == "last"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "ending"),
    [
        ("import os; os.abort()", "was ended by SIGABRT"),
        ("raise SystemExit('no such thing')", r"failed \(no such thing\)"),
        ("pass", r"failed \(no message\)"),
        ("import time; time.sleep(60)", "did not end within 3 s"),
    ],
)
def test_every_other_end_is_told(code: str, ending: str) -> None:
    with pytest.raises(ChildFailed, match=ending):
        last_line(child(code), 3 if "sleep" in code else 60)


def test_modules_of_the_current_folder_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("import os; os.mkdir('marker')")
    (tmp_path / "toolkit").mkdir()
    monkeypatch.chdir(tmp_path)
    assert last_line(command_of("json.tool", "--help"), 60)
    assert not (tmp_path / "marker").exists()
