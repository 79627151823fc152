"""A session in the store: every event at once, kept when the process is killed, gone on with, and finished once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

import devices
from devices import protocol, store
from devices.records import ProfileRecord
from devices.tables import EventRow


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'profiles.db'}"


def stop_after(monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    """A profiler that is stopped in the round after so many."""
    whole = protocol.interleaved

    def cut(*arguments: Any) -> Any:
        for number, times in enumerate(whole(*arguments)):
            if number == rounds:
                raise KeyboardInterrupt
            yield times

    monkeypatch.setattr(protocol, "interleaved", cut)


def profiled(bundle: Path, url: str, **options: Any) -> list[ProfileRecord]:
    return devices.profile([bundle], iterations=4, repeats=2, threads=1, operators=False, store=url, **options).records


@pytest.mark.slow
@pytest.mark.usefixtures("no_memory_pass")
def test_an_interrupted_session_goes_on_where_it_was(
    make_bundle: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle()
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            profiled(bundle, url)
    assert store.load(url) == []
    records = profiled(bundle, url, resume=True)
    assert store.load(url) == records
    for record in records:
        assert [len(repeat.iterations_ms) for repeat in record.latency.repeats] == [3, 1, 4]
        assert record.interruptions == 1
    again = profiled(bundle, url, resume=True)
    assert again[0].session != records[0].session, "a finished session is not gone on with"


@pytest.mark.slow
@pytest.mark.usefixtures("no_memory_pass")
def test_without_resume_a_new_session_begins(make_bundle: Any, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle()
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            profiled(bundle, url)
    for record in profiled(bundle, url):
        assert [len(repeat.iterations_ms) for repeat in record.latency.repeats] == [4, 4]
        assert record.interruptions == 0


@pytest.mark.slow
def test_a_killed_profiler_loses_at_most_the_round_in_flight(make_bundle: Any, url: str, tmp_path: Path) -> None:
    bundle, marks = make_bundle(), tmp_path / "marks"
    program = f"""
import devices, sys
from devices import protocol
whole = protocol.interleaved
def marked(*arguments):
    for times in whole(*arguments):
        yield times  # what follows runs when the next round is asked for: this one is kept
        with open({str(marks)!r}, "a") as file:
            file.write("x")
protocol.interleaved = marked
from pathlib import Path
devices.profile([Path({str(bundle)!r})], iterations=10**6, repeats=1, threads=1, operators=False, store={url!r})
"""
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while (not marks.is_file() or marks.stat().st_size < 5) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = marks.stat().st_size
    assert finished >= 5
    with store.opened(url) as engine, engine.connect() as connection:
        kept = [row.event["kind"] for row in connection.execute(select(EventRow.event)).all()]
    assert kept.count("round") >= finished
