"""The live view: a panel a session on a terminal, a line now and then in a log, nothing worked out while measuring."""

from __future__ import annotations

import io
import sys
import threading
from typing import Any

import pytest
from rich.console import Console

from devices import live, protocol
from devices.records import Device
from devices.sessions import Began, Failed, Loaded, Plan, Planned, Round, Session
from toolkit.parity import Parity, Tolerance


def plan(model: str = "Example Phone", session: str = "1" * 32, targets: tuple[str, ...] = ("onnx-fp32",)) -> Plan:
    return Plan(
        session=session,
        created="2026-01-02T03:04:05+00:00",
        protocol_version=2,
        device=Device(
            kind="android",
            name="serial",
            model=model,
            system="Android 15",
            cores=8,
            memory_bytes=None,
            clock_mhz=None,
            temperature_c=30.0,
            others_share=None,
        ),
        threads=4,
        schedule=protocol.Schedule(repeats=2, iterations=10),
        obtained="measured",
        versions={},
        candidates=[
            Planned(place=0, bundle="tiny", role="student", target=t, artifact_sha256="0" * 64, artifact_bytes=1)
            for t in targets
        ],
    )


def began(repeat: int = 0, temperature: float | None = 31.5) -> Began:
    return Began(repeat=repeat, started="t", waited_s=0, cooled=True, temperature_c=temperature, clock_mhz=None)


def drawn(view: live.Live, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(view)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= width for line in text.splitlines())
    return str(text)


def test_a_panel_shows_device_phase_rounds_medians_and_temperature() -> None:
    view = live.Live()
    session = Session(plan(), watch=view)
    session.add(began())
    for ms in (10.0, 30.0, 20.0):
        session.add(Round(times_ms=[ms]))
    text = drawn(view)
    assert "Example Phone" in text
    assert "repeat 1 of 2" in text
    assert "3/20" in text
    assert "31.5 °C" in text
    (row,) = [line for line in text.splitlines() if "student onnx-fp32" in line]
    assert row.split()[1:-1] == ["student", "onnx-fp32", "20.00", "20.00", "▁█▅"]


def test_what_a_session_says_is_shown_until_something_else_happens() -> None:
    view = live.Live()
    session = Session(plan(), watch=view)
    session.say("pushing model.onnx")
    assert "pushing model.onnx" in drawn(view)
    session.add(began(repeat=1))
    text = drawn(view)
    assert "pushing" not in text
    assert "repeat 2 of 2" in text
    session.say("cooling")
    session.add(began(repeat=0))
    assert "repeat 1 of 2" in drawn(view), "what was said before an event does not hide it"


def test_a_failed_candidate_says_why_and_the_others_go_on() -> None:
    view = live.Live()
    session = Session(plan(targets=("onnx-fp32", "executorch-xnnpack-fp32")), watch=view)
    session.add(began())
    session.add(Failed(candidate=1, reason="wrong output\non this device"))
    session.add(Round(times_ms=[12.5, None]))
    text = drawn(view, 120)
    assert "wrong output on this device" in text
    assert "12.50" in text


def test_a_resumed_session_shows_what_it_had() -> None:
    view = live.Live()
    Session(plan(), [began(), Round(times_ms=[5.0]), Round(times_ms=[5.0])], watch=view)
    assert "2/20" in drawn(view)


def test_an_unknown_temperature_is_left_out() -> None:
    view = live.Live()
    Session(plan(), watch=view).add(began(temperature=None))
    assert "°C" not in drawn(view)


@pytest.mark.parametrize("width", [40, 60, 200])
def test_panels_fit_the_terminal(width: int) -> None:
    view = live.Live()
    Session(plan(model="A phone with a very long name indeed " * 3, targets=("a-long-target" * 5,)), watch=view)
    drawn(view, width)


def test_several_devices_at_once_each_have_a_panel_with_all_their_rounds() -> None:
    view = live.Live()
    sessions = [Session(plan(f"Phone {n}", str(n) * 32), watch=view) for n in range(3)]
    watching = threading.Event()

    def measure(session: Session) -> None:
        watching.wait(10)
        session.add(began())
        for _ in range(20):
            session.add(Round(times_ms=[1.0]))

    threads = [threading.Thread(target=measure, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    watching.set()
    for _ in range(20):
        drawn(view)
    for thread in threads:
        thread.join(10)
    text = drawn(view)
    assert [f"Phone {n}" in text for n in range(3)] == [True] * 3
    assert text.count("20/20") == 3


def test_an_event_costs_nothing_but_a_look() -> None:
    """No function of ours or of rich runs while the measuring thread tells of a round."""
    view = live.Live()
    session = Session(plan(), watch=view)
    round_ = Round(times_ms=[1.0])
    calls: list[str] = []

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            calls.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        view.seen(session, round_)
    finally:
        sys.setprofile(None)
    assert calls == ["seen"]
    calls.clear()
    sys.setprofile(note)
    try:
        view.said(session, "cooling")
    finally:
        sys.setprofile(None)
    assert calls == ["said"]


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("devices.live.time.monotonic", lambda: clock[0])
    file = io.StringIO()
    with live.live(Console(file=file, width=200)) as view:
        session = Session(plan(), watch=view)
        session.add(began())
        for number in range(20):
            clock[0] += 2.0
            session.add(Round(times_ms=[10.0 + number]))
    first, second = file.getvalue().splitlines()
    assert first == "Example Phone: 8/20 rounds, repeat 1 of 2, 31.5 °C, student onnx-fp32 13.5 ms"
    assert second.startswith("Example Phone: 16/20 rounds")


def test_a_quiet_console_gets_nothing() -> None:
    file = io.StringIO()
    with live.live(Console(file=file, force_terminal=True, quiet=True)) as view:
        Session(plan(), watch=view).add(began())
    assert file.getvalue() == ""


def test_on_a_terminal_the_view_is_drawn_and_gone_at_the_end() -> None:
    file = io.StringIO()
    with live.live(Console(file=file, force_terminal=True, width=80)) as view:
        session = Session(plan(), watch=view)
        session.add(
            Loaded(
                candidate=0,
                runtime="ONNX Runtime 1.0",
                load_ms=1,
                first_ms=1,
                warmup_ms=[1, 1, 1],
                parity=Parity(
                    how="executed",
                    runtime="r",
                    max_abs=0,
                    scale=1,
                    psnr_db=None,
                    tolerance=Tolerance(max_share=1),
                    passed=True,
                ),
            )
        )
    assert "warmed up student onnx-fp32" in file.getvalue()
