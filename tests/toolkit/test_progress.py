"""Progress: lines now and then in a log, a bar on a terminal."""

from __future__ import annotations

import io
from time import monotonic, sleep
from types import SimpleNamespace

import pytest
from rich.console import Console

from toolkit import progress


class FakeClock:
    """Stands in for the `time` module."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What goes to a log that is no terminal, and the clock that decides when."""
    clock, stream = FakeClock(), io.StringIO()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress, "SECONDS_BEFORE_LOG", 600.0)
    monkeypatch.setattr(progress, "console", Console(file=stream, force_terminal=False, width=200))
    return SimpleNamespace(clock=clock, lines=lambda: stream.getvalue().splitlines())


def test_a_name_with_brackets_is_no_markup(log: SimpleNamespace) -> None:
    with progress.track("verify", 1) as tracker:
        tracker.update(1, "cpu:[/b]")
    assert log.lines() == ["verify 1/1 cpu:[/b]"]


def test_a_log_says_what_goes_on_once_a_job_takes_long(log: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BEFORE_LOG", 0.01)
    with progress.track("export", 5) as tracker:
        tracker.update(0, "lowering")
        deadline = monotonic() + 60
        while not log.lines() and monotonic() < deadline:
            sleep(0.01)
        assert log.lines() == ["export 0/5 lowering"]


def test_nothing_is_logged_once_a_job_is_over(log: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BEFORE_LOG", 0.05)
    with progress.track("export", 5) as tracker:
        tracker.update(0, "lowering")
    sleep(0.2)
    assert log.lines() == []


def test_later_lines_stay_out_until_fifteen_seconds_have_passed(log: SimpleNamespace) -> None:
    with progress.track("distil", 100) as tracker:
        tracker.update(0)
        log.clock.now += 14.9
        tracker.update(5)
        assert log.lines() == []
        log.clock.now += 0.1
        tracker.update(6)
        tracker.update(7)
        assert len(log.lines()) == 1


def test_log_line_says_what_is_done_and_how_long_the_rest_takes(log: SimpleNamespace) -> None:
    with progress.track("distil", 100) as tracker:
        tracker.update(0)
        log.clock.now += 20
        tracker.update(10, "loss 0.5")
    assert log.lines() == ["distil 10/100 loss 0.5, 180 s left"]


def test_remaining_time_of_a_resumed_job_counts_only_what_this_process_did(log: SimpleNamespace) -> None:
    with progress.track("distil", 100) as tracker:
        tracker.update(50)
        log.clock.now += 20
        tracker.update(60)
    assert log.lines() == ["distil 60/100 80 s left"]


def test_the_last_update_is_always_logged_and_promises_no_more_time(log: SimpleNamespace) -> None:
    with progress.track("profile", 3) as tracker:
        tracker.update(1)
        tracker.update(3, "done")
    assert log.lines() == ["profile 3/3 done"]


def test_terminal_shows_a_bar_with_title_count_and_text(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=stream, force_terminal=True, width=200))
    with progress.track("export", 4) as tracker:
        tracker.update(4, "onnx-fp32")
    shown = stream.getvalue()
    assert "export" in shown
    assert "4/4" in shown
    assert "onnx-fp32" in shown
