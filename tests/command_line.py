"""The `handheld` command in this process, and the one line that it ends with where it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.cli.main import main


def handheld(*arguments: str | Path) -> int:
    """Run the command in this process; returns its exit code."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def refusal(capsys: pytest.CaptureFixture[str], code: int, *arguments: str | Path) -> str:
    """The one line that a failing command ends with; anything like a traceback fails the test."""
    assert handheld(*arguments) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    lines = [line for line in captured.err.splitlines() if line.startswith("handheld: ")]
    assert len(lines) == 1
    return lines[0]
