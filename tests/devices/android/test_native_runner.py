"""What the host makes of a native runner's lines, well or badly formed."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

import pytest

from devices.android import native_runner
from devices.android.native_runner import NativeRunner, arguments
from devices.bench import DeviceLost
from toolkit.errors import DeviceError

READY = {"event": "ready", "protocol": 1, "runtime": "ExecuTorch 1.5.1", "threads": 4, "load_ms": 12.5, "pid": 7}


@dataclass
class Said:
    """Lines that a runner is made to have said; a dict is one of its events."""

    lines: list[str | dict[str, object]]
    code: int | None = None
    log: str = ""
    mixed: bool = False
    heard: list[str] = field(default_factory=list)

    def write(self, line: str) -> None:
        self.heard.append(line)

    def read_line(self, timeout_s: float) -> str | None:
        if not self.lines:
            return None
        line = self.lines.pop(0)
        if line == "(silence)":
            raise TimeoutError
        return line if isinstance(line, str) else json.dumps(line)


def runner(*lines: str | dict[str, object], **facts: object) -> tuple[NativeRunner, Said]:
    said = Said(list(lines), **facts)  # type: ignore[arg-type]
    return NativeRunner(said, "model.pte: executorch could not run it"), said


def test_a_talk_from_ready_to_quit() -> None:
    files = [{"path": "out0.bin", "dtype": "float32", "shape": [1, 3]}]
    driven, said = runner(READY, {"event": "ran", "ms": 2}, {"event": "outputs", "files": files})
    ready = driven.ready()
    assert (ready.runtime, ready.load_ms) == ("ExecuTorch 1.5.1", 12.5)
    assert driven.run(1) == 2.0
    assert driven.outputs("out")[0].shape == [1, 3]
    driven.quit()
    assert said.heard == ["run 1", "outputs out", "quit"]


def test_an_event_may_say_more_than_this_release_knows() -> None:
    driven, _ = runner({**READY, "processor": "X"})
    assert driven.ready().threads == 4


def test_a_runner_of_another_protocol() -> None:
    driven, _ = runner({**READY, "protocol": 2})
    with pytest.raises(DeviceError, match="speaks protocol 2, and this release 1; build the runners anew"):
        driven.ready()


def test_an_error_of_the_runtime_says_at_which_stage() -> None:
    driven, _ = runner({"event": "error", "stage": "load", "message": "model.pte: InvalidProgram\n(0x23)"})
    with pytest.raises(DeviceError, match=r"could not run it: load failed: model.pte: InvalidProgram \(0x23\)$"):
        driven.ready()


@pytest.mark.parametrize(
    "line",
    [
        "Segmentation fault",
        "{",
        "[]",
        "3",
        {"event": "ran", "ms": 1.0},
        {"event": "ready", "protocol": 1},
        {**READY, "load_ms": "fast"},
        {**READY, "load_ms": -1.0},
        {**READY, "load_ms": float("nan")},
    ],
)
def test_what_is_no_such_event_is_quoted(line: str | dict[str, object]) -> None:
    driven, _ = runner(line, log="first\nthe last line\n")
    with pytest.raises(DeviceError, match=r"the runner gave no event but '.+' \(the last line\)"):
        driven.ready()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (137, r"ended by SIGKILL, probably out of memory \(log\)"),
        (139, r"ended by SIGSEGV \(log\)"),
        (127, r"ended with exit code 127 \(log\)"),
        (None, r"ended early \(log\)"),
    ],
)
def test_a_runner_that_ends(code: int | None, reason: str) -> None:
    driven, _ = runner(code=code, log="log\n\n")
    with pytest.raises(DeviceError, match=reason):
        driven.ready()


def test_a_silent_runner_is_not_asked_to_quit() -> None:
    driven, said = runner(READY, "(silence)")
    driven.ready()
    with pytest.raises(DeviceError, match="the runner gave no answer within 600 s and was ended"):
        driven.run(1)
    driven.quit()
    assert said.heard == ["run 1"]


class Chatting(Said):
    """Prints lines of a log without end, a hundred in a second."""

    def read_line(self, timeout_s: float) -> str | None:
        if self.lines:
            return super().read_line(timeout_s)
        time.sleep(0.01)
        self.heard.append("(a line was read)")
        assert len(self.heard) < 1000, "there is no end to the reading"
        return "WARNING: linker: unused DT entry"


def test_lines_of_a_log_do_not_prolong_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_runner, "LOAD_S", 0.5)
    driven = NativeRunner(Chatting([], mixed=True), "model.pte")
    with pytest.raises(DeviceError, match="the runner gave no answer within 0 s"):
        driven.ready()


def test_a_runner_that_does_not_quit_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_runner, "QUIT_S", 0.5)
    driven = NativeRunner(Chatting([READY]), "model.pte")
    driven.ready()
    with pytest.raises(DeviceError, match="the runner gave no answer within 0 s"):
        driven.quit()


def test_a_silent_runner_that_is_asked_to_quit() -> None:
    driven, _ = runner(READY, "(silence)")
    driven.ready()
    with pytest.raises(DeviceError, match="the runner gave no answer within 10 s"):
        driven.quit()


@pytest.mark.parametrize("line", ["(silence)", "Segmentation fault", {"event": "error", "stage": "load"}])
def test_a_runner_is_not_to_blame_where_its_device_is_lost(line: str | dict[str, object]) -> None:
    def lost() -> None:
        raise DeviceLost("android:X: no answer")

    driven = NativeRunner(Said([line]), "model.pte", lost)
    with pytest.raises(DeviceLost, match="android:X: no answer"):
        driven.ready()


def test_a_log_in_the_output_is_skipped_on_phones_that_mix_the_two() -> None:
    driven, _ = runner("WARNING: linker: unused DT entry", READY, mixed=True)
    assert driven.ready().runtime == "ExecuTorch 1.5.1"


def test_a_command_line() -> None:
    words = arguments("m.pte", [("float32", (1, 3, 4), "in0.bin"), ("int64", (), "in1.bin")], 4, "--trace")
    assert words == [
        "m.pte",
        "--input",
        "float32:1x3x4:in0.bin",
        "--input",
        "int64::in1.bin",
        "--threads",
        "4",
        "--trace",
    ]
