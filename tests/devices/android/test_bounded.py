"""Programs that end in time, with all that they started."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from devices.android.bounded import run_logged, telling_line
from tests.programs import needs
from toolkit.errors import DeviceError

builds = [pytest.mark.slow, needs("cmake", "c++", "npm")]


class TestBoundedPrograms:
    def test_output_is_given_and_logged(self, tmp_path: Path) -> None:
        assert run_logged(["sh", "-c", "echo out; echo err >&2"], "a test", 60, tmp_path / "a" / "log") == "out\nerr\n"
        assert (tmp_path / "a" / "log").read_text().endswith("out\nerr\n\n")

    def test_a_failure_quotes_the_line_that_tells_why(self, tmp_path: Path) -> None:
        script = "echo starting; echo 'x.cpp:3: error: no such type'; echo 2 errors; exit 3"

        with pytest.raises(DeviceError, match=r"a test: sh failed \(x\.cpp:3: error: no such type\); its log is .*log"):
            run_logged(["sh", "-c", script], "a test", 60, tmp_path / "log")

    def test_one_that_takes_too_long_is_ended_with_all_that_it_started(self, tmp_path: Path) -> None:
        script = "sleep 300 & echo $! > child; wait"

        with pytest.raises(DeviceError, match="a test: sh did not end within 1 s and was ended"):
            run_logged(["sh", "-c", f"cd {tmp_path}; {script}"], "a test", 1, tmp_path / "log")

        assert ends(int((tmp_path / "child").read_text()))

    def test_a_daemon_that_is_left_behind_is_ended_and_not_waited_for(self, tmp_path: Path) -> None:
        script = f"sleep 120 & echo $! > {tmp_path}/child; echo done"

        assert run_logged(["sh", "-c", script], "a test", 60, tmp_path / "log") == "done\n"

        assert ends(int((tmp_path / "child").read_text()))

    @pytest.mark.parametrize(
        ("output", "line"),
        [
            ("", "it printed nothing"),
            ("one\ntwo\n", "two"),
            (
                "CMake Error at CMakeLists.txt:3 (message):\n  no header\n\nmore",
                "CMake Error at CMakeLists.txt:3 (message): no header",
            ),
        ],
    )
    def test_the_telling_line_is_the_error_or_the_last(self, output: str, line: str) -> None:
        assert telling_line(output) == line


def ends(process: int) -> bool:
    """Whether it ends within a while."""
    deadline = time.monotonic() + 30
    while running(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not running(process)


def running(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
