"""Driving a device call by call: what is measured, what fails alone, and a device that goes and comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from devices import protocol, sessions
from devices.bench import RECOVERIES, DeviceLost, drive
from devices.records import Memory, OperatorTime
from devices.sessions import Session, Source
from toolkit.bundle import read_manifest
from toolkit.errors import DeviceError, UserError
from toolkit.parity import Parity, Tolerance

PARITY = Parity(
    how="executed", runtime="toy 1", max_abs=0, scale=1, psnr_db=99, tolerance=Tolerance(max_share=1e-4), passed=True
)
OPERATOR = OperatorTime(name="Conv", kind="Conv", unit="CPU", ms=1, calls=1, obtained="measured")
MEMORY = Memory(baseline_bytes=1, peak_bytes=3)


@dataclass
class Toy:
    """A candidate whose calls take `ms`; `before` runs ahead of every call."""

    ms: float
    before: Callable[[], None]
    traced: bool = True
    closed: bool = False
    runtime: str = "toy 1"
    load_ms: float = 2.0
    first_ms: float = 3.0
    parity: Parity = field(default_factory=lambda: PARITY)

    def measure(self) -> float:
        self.before()
        return self.ms

    def operators(self) -> list[OperatorTime]:
        if not self.traced:
            raise DeviceError("toy: built without a tracer")
        return [OPERATOR]

    def close(self) -> None:
        self.closed = True


@dataclass
class ToyBench:
    """A device whose calls go wrong as the tests say; target `slow` takes 20 ms, others 10."""

    before: Callable[[], None] = lambda: None
    unloadable: tuple[str, ...] = ()
    traced: bool = True
    runtime: str = "toy 1"
    back: bool = True
    recovered: int = 0
    loaded: list[Toy] = field(default_factory=list)

    def load(self, source: Source) -> Toy:
        if source.target in self.unloadable:
            raise DeviceError(f"{source.target}: damaged")
        ms = 20.0 if source.target == "slow" else 10.0
        self.loaded.append(Toy(ms, self.before, self.traced, runtime=self.runtime))
        return self.loaded[-1]

    def memory(self, source: Source) -> Memory | None:
        return MEMORY if source.target == "slow" else None

    def temperature(self) -> float | None:
        return 30.0

    def clock_mhz(self) -> float | None:
        return 1800.0

    def recover(self) -> None:
        self.recovered += 1
        if not self.back:
            raise DeviceLost("toy: did not come back")


def at_calls(*numbers: int, error: DeviceError) -> Callable[[], None]:
    """Raises at these calls, counted over all candidates from 1."""
    calls = 0

    def before() -> None:
        nonlocal calls
        calls += 1
        if calls in numbers:
            raise error

    return before


@pytest.fixture
def sources(make_bundle: Any) -> list[Source]:
    bundle: Path = make_bundle()
    manifest = read_manifest(bundle)
    return [Source(0, bundle, manifest, target, bundle / "model.onnx") for target in ("quick", "slow")]


@pytest.fixture
def session(sources: list[Source], make_record: Any, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr(protocol, "PAUSE_S", 0.0)
    schedule = protocol.Schedule(repeats=2, iterations=3)
    return Session(sessions.plan(make_record().device, sources, 1, schedule))


def test_every_figure_is_the_devices_own(session: Session, sources: list[Source]) -> None:
    bench = ToyBench()
    drive(session, sources, bench)
    quick, slow = session.profile().records
    assert [repeat.iterations_ms for repeat in quick.latency.repeats] == [[10.0] * 3] * 2
    assert slow.latency.iterations_ms == [20.0] * 6
    assert (slow.latency.load_ms, slow.latency.first_ms, slow.latency.warmup_ms) == (2.0, 3.0, [20.0] * protocol.WINDOW)
    assert (quick.memory, slow.memory, slow.operators) == (None, MEMORY, [OPERATOR])
    assert (slow.latency.repeats[1].temperature_c, slow.latency.repeats[1].clock_mhz) == (30.0, 1800.0)
    assert all(toy.closed for toy in bench.loaded)


def test_a_candidate_that_cannot_be_loaded_leaves_the_other(session: Session, sources: list[Source]) -> None:
    drive(session, sources, ToyBench(unloadable=("quick",)))
    profile = session.profile()
    assert [record.target for record in profile.records] == ["slow"]
    assert [failure.reason for failure in profile.failures] == ["quick: damaged"]


def test_a_candidate_that_fails_in_the_rounds_is_closed_and_leaves_the_other(
    session: Session, sources: list[Source]
) -> None:
    warm_up = 2 * protocol.WINDOW
    bench = ToyBench(before=at_calls(warm_up + 3, error=DeviceError("out of memory")))
    drive(session, sources, bench)
    profile = session.profile()
    assert [failure.reason for failure in profile.failures] == ["out of memory"]
    (record,) = profile.records
    assert len(record.latency.iterations_ms) == 6
    assert all(toy.closed for toy in bench.loaded)


def test_times_stand_where_a_pass_behind_them_fails(session: Session, sources: list[Source]) -> None:
    drive(session, sources, ToyBench(traced=False))
    profile = session.profile()
    assert [len(record.latency.iterations_ms) for record in profile.records] == [6, 6]
    assert profile.failures == []
    assert profile.errors == [
        f"{target} of tiny (student): the pass of its operators failed, its times stand: toy: built without a tracer"
        for target in ("quick", "slow")
    ]


def test_a_session_does_not_go_on_with_another_runtime(session: Session, sources: list[Source]) -> None:
    before = at_calls(2 * protocol.WINDOW + 4, error=DeviceLost("toy: unplugged"))
    with pytest.raises(DeviceLost):
        drive(session, sources, ToyBench(before=before, back=False))
    with pytest.raises(UserError, match="began with toy 1, and now it is toy 2; measure anew"):
        drive(session, sources, ToyBench(runtime="toy 2"))


def test_a_device_that_was_lost_cools_before_it_goes_on(
    session: Session, sources: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []

    def cool_down(*_: object, **__: object) -> tuple[float, bool]:
        waits.append(session.rounds_done)
        return 5.0, True

    monkeypatch.setattr(protocol, "cool_down", cool_down)
    drive(session, sources, ToyBench(before=at_calls(2 * protocol.WINDOW + 4, error=DeviceLost("toy: unplugged"))))
    assert waits == [1, 3], "after the first round, in which it was lost, and before the second repeat"


def test_a_device_that_comes_back_is_gone_on_with(session: Session, sources: list[Source]) -> None:
    bench = ToyBench(before=at_calls(2 * protocol.WINDOW + 4, error=DeviceLost("toy: unplugged")))
    drive(session, sources, bench)
    assert bench.recovered == 1
    for record in session.profile().records:
        assert len(record.latency.iterations_ms) == 6
        assert record.interruptions == 1
    assert all(toy.closed for toy in bench.loaded)


def test_a_device_that_stays_away_leaves_its_rounds_and_what_was_lost(session: Session, sources: list[Source]) -> None:
    before = at_calls(2 * protocol.WINDOW + 4, error=DeviceLost("toy: unplugged"))
    with pytest.raises(DeviceLost, match=r"did not come back; 1 of 6 rounds are in the store, and --resume") as lost:
        drive(session, sources, ToyBench(before=before, back=False))
    assert [(failure.target, failure.kind) for failure in lost.value.failures] == [("quick", "lost"), ("slow", "lost")]
    drive(session, sources, ToyBench())
    assert len(session.profile().records[0].latency.iterations_ms) == 6


def test_a_device_that_is_lost_again_and_again_is_given_up(session: Session, sources: list[Source]) -> None:
    def before() -> None:
        raise DeviceLost("toy: loose cable")

    bench = ToyBench(before=before)
    with pytest.raises(DeviceLost, match="loose cable; 0 of 6 rounds"):
        drive(session, sources, bench)
    assert bench.recovered == RECOVERIES


def test_a_session_that_is_stopped_keeps_the_round_that_was_done(sources: list[Source], make_record: Any) -> None:
    stop, kept = threading.Event(), []

    def keep(event: sessions.Event) -> None:
        kept.append(event)
        if isinstance(event, sessions.Round):
            stop.set()

    plan = sessions.plan(make_record().device, sources, 1, protocol.Schedule(repeats=1, iterations=5))
    session = Session(plan, keep=keep, stop=stop)
    with pytest.raises(sessions.Stopped):
        drive(session, sources, ToyBench())
    assert sum(isinstance(event, sessions.Round) for event in kept) == 1
