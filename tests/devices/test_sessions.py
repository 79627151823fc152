"""Sessions as events: what is left, which stretch a time belongs to, and the records in the end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.protocol import VERSION, Schedule
from devices.sessions import Began, Event, Failed, Loaded, MemoryFound, OperatorsFound, Plan, Planned, Round, Session
from toolkit.errors import DeviceError
from toolkit.parity import Parity, Tolerance

PARITY = Parity(
    how="executed", runtime="x 1", max_abs=0, scale=1, psnr_db=99, tolerance=Tolerance(max_share=1e-4), passed=True
)


def candidate(target: str) -> Planned:
    return Planned(place=0, bundle="tiny", role="student", target=target, artifact_sha256="0" * 64, artifact_bytes=1)


@pytest.fixture
def make_plan(make_record: Any) -> Any:
    def make(repeats: int = 2, iterations: int = 3, **changes: Any) -> Plan:
        fields: dict[str, Any] = {
            "session": "5" * 32,
            "created": "2026-01-02T03:04:05+00:00",
            "protocol_version": VERSION,
            "device": make_record().device,
            "threads": 2,
            "schedule": Schedule(repeats=repeats, iterations=iterations),
            "obtained": "measured",
            "versions": {},
            "candidates": [candidate("onnx-fp32"), candidate("reference")],
        }
        return Plan(**{**fields, **changes})

    return make


def loaded(number: int) -> Loaded:
    return Loaded(candidate=number, runtime="x 1", load_ms=1, first_ms=2, warmup_ms=[3, 3, 3], parity=PARITY)


def began(repeat: int, waited_s: float = 0.0) -> Began:
    return Began(repeat=repeat, started="", waited_s=waited_s, cooled=True, temperature_c=None, clock_mhz=None)


def session(plan: Plan, events: list[Event]) -> Session:
    return Session(plan, events, lambda _event: None)


@given(repeats=st.integers(1, 4), iterations=st.integers(1, 5), data=st.data())
def test_what_is_left_and_what_is_done_are_all_rounds(repeats: int, iterations: int, data: st.DataObject) -> None:
    done = data.draw(st.integers(0, repeats * iterations))
    plan = Plan.model_construct(schedule=Schedule(repeats=repeats, iterations=iterations))
    left = session(plan, [Round(times_ms=[1.0])] * done).left()
    rounds = [number for _, first, count in left for number in range(first, first + count)]
    assert rounds == list(range(done, repeats * iterations))
    assert all(number // iterations == repeat for repeat, first, count in left for number in (first, first + count - 1))


def test_times_are_kept_by_the_stretch_in_which_they_were_taken(make_plan: Any) -> None:
    events = [began(0), Round(times_ms=[1, 10]), Round(times_ms=[2, None]), began(1, 4.5), Round(times_ms=[3, 30])]
    found = session(make_plan(), [loaded(0), loaded(1), *events])
    assert [repeat.iterations_ms for repeat in found.repeats(0)] == [[1, 2], [3]]
    assert [repeat.iterations_ms for repeat in found.repeats(1)] == [[10], [30]]
    assert [repeat.waited_s for repeat in found.repeats(0)] == [0.0, 4.5]


def test_records_are_of_candidates_with_times(make_plan: Any, make_record: Any) -> None:
    like = make_record()
    events: list[Event] = [loaded(0), loaded(1), began(0), Round(times_ms=[5, None])]
    events += [MemoryFound(candidate=0, memory=like.memory), OperatorsFound(candidate=0, operators=like.operators)]
    (record,) = session(make_plan(), events).profile().records
    assert (record.target, record.runtime, record.latency.iterations_ms) == ("onnx-fp32", "x 1", [5])
    assert (record.memory, record.operators, record.interruptions) == (like.memory, like.operators, 0)


def test_a_candidate_that_was_loaded_again_counts_an_interruption(make_plan: Any) -> None:
    events = [loaded(0), began(0), Round(times_ms=[5, None]), loaded(0), began(0), Round(times_ms=[6, None])]
    (record,) = session(make_plan(), events).profile().records
    assert record.interruptions == 1
    assert [repeat.iterations_ms for repeat in record.latency.repeats] == [[5], [6]]


@pytest.mark.parametrize("same", [{"session": "6" * 32}, {"created": "later"}])
def test_plans_that_ask_for_the_same_share_a_fingerprint(make_plan: Any, same: dict[str, Any]) -> None:
    assert make_plan(**same).fingerprint == make_plan().fingerprint


@pytest.mark.parametrize(
    "other",
    [
        {"threads": 1},
        {"repeats": 3},
        {"candidates": [candidate("onnx-fp32")]},
        {"versions": {"python": "4"}},
        {"obtained": "emulated"},
    ],
)
def test_plans_that_ask_for_something_else_do_not(make_plan: Any, other: dict[str, Any]) -> None:
    assert make_plan(**other).fingerprint != make_plan().fingerprint


@pytest.mark.parametrize("other", [{"clock_mode": "fixed"}, {"charging": True}, {"system": "Linux 7"}])
def test_a_device_in_another_state_does_not_go_on_with_a_session(make_plan: Any, other: dict[str, Any]) -> None:
    plan = make_plan()
    changed = plan.device.model_copy(update=other)
    assert make_plan(device=changed).fingerprint != plan.fingerprint
    warmer = plan.device.model_copy(update={"temperature_c": 40.0, "others_share": 0.5, "clock_mhz": 900.0})
    assert make_plan(device=warmer).fingerprint == plan.fingerprint


def test_a_session_is_hopeless_once_all_its_candidates_failed(make_plan: Any) -> None:
    one = [loaded(0), Failed(candidate=0, reason="gone")]
    assert not session(make_plan(), one).hopeless
    assert session(make_plan(), [*one, Failed(candidate=1, reason="gone")]).hopeless


def test_a_candidate_that_failed_is_a_failure_whatever_it_had_measured(make_plan: Any) -> None:
    events = [loaded(0), loaded(1), began(0), Round(times_ms=[5, 6]), Failed(candidate=0, reason="gone", lost=True)]
    found = session(make_plan(), events).profile()
    assert [record.target for record in found.records] == ["reference"]
    (failure,) = found.failures
    assert (failure.target, failure.kind, failure.reason) == ("onnx-fp32", "lost", "gone")
    assert str(failure) == "onnx-fp32 of tiny (student) was not measured, for the device was lost: gone"


def test_failures_alone_are_an_error(make_plan: Any) -> None:
    with pytest.raises(DeviceError, match="no room"):
        session(make_plan(), [Failed(candidate=0, reason="no room")]).profile()
