"""What goes wrong on Android devices: one clear line, nothing left behind, and a record only of what was measured."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from devices import profile, store
from devices.android import adb, native_runner
from devices.android.profiler import profile_android
from devices.bench import DeviceLost
from devices.journal import Journal
from devices.requests import Request
from devices.sessions import Stopped
from tests.devices.android.loopback.fixture import phones
from tests.devices.android.loopback.fleet import Fleet, wait_for_end_of
from tests.devices.android.test_android import (
    IN_A_ROUND,
    Measure,
    Watching,
    check_nothing_left,
    held,
    installed,
    measure,
)
from tests.devices.conftest import MakeBundle
from tests.programs import needs
from toolkit.errors import DeviceError

__all__ = ["installed", "measure", "phones"]

pytestmark = needs("adb")


def test_wrong_numbers_are_a_failure_and_no_record(
    phones: Fleet, make_bundle: MakeBundle, frames: np.ndarray, installed: None
) -> None:
    phone = phones.add()
    with pytest.raises(DeviceError, match=f"wrong output on android:{phone.serial}"):
        profile([make_bundle(expected=frames + 1)], "android")
    check_nothing_left(phone)
    assert store.load() == []


@pytest.mark.slow
def test_a_good_candidate_is_measured_beside_a_bad_one(phones: Fleet, make_bundle: MakeBundle, installed: None) -> None:
    phone = phones.add()
    bad = make_bundle("bad", model=b"no model at all")
    found = profile([make_bundle("good"), bad], "android", iterations=2, repeats=1, operators=False)
    assert [record.bundle for record in found.records] == ["good"]
    (failure,) = found.failures
    assert failure.bundle == "bad"
    assert "onnxruntime could not run it on android:" in failure.reason
    assert "load failed" in failure.reason
    check_nothing_left(phone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("exit=3", "the runner ended with exit code 3"),
        ("exit=137", "the runner ended by SIGKILL, probably out of memory"),
        ("garbage", "the runner gave no event but"),
        ("truncated=1", "the runner gave no event but"),
        ("truncated=4", "the runner gave no event but"),
        ("full", r"cannot be pushed \(.*No space left on device\); free space on the phone"),
    ],
)
def test_a_fault_ends_in_one_clear_line(phones: Fleet, measure: Measure, fault: str, message: str) -> None:
    phone = phones.add("pixel8", [fault])
    with pytest.raises(DeviceError, match=message) as raised:
        measure()
    assert "\n" not in str(raised.value)
    check_nothing_left(phone)
    assert held(phone) == ["true", "false"]
    assert store.load() == []


def test_too_little_space_is_found_before_anything_is_pushed(phones: Fleet, measure: Measure) -> None:
    phone = phones.add()
    phone.change(storage={"free_bytes": 1_000_000})
    with pytest.raises(DeviceError, match="needs 0 MB in /data/local/tmp, and 1 MB are free; free space on the phone"):
        measure()
    assert "sync:" not in phone.services
    check_nothing_left(phone)


@pytest.mark.slow
def test_a_runner_that_never_answers(phones: Fleet, measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_runner, "LOAD_S", 1.0)
    phone = phones.add("pixel8", ["hang=/model.onnx --input"])
    with pytest.raises(DeviceError, match="no answer within 1 s"):
        measure()
    check_nothing_left(phone)


@pytest.mark.slow
def test_a_runner_that_hangs_is_left_out_and_the_others_go_on(
    phones: Fleet, make_bundle: MakeBundle, installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_runner, "RUN_S", 2.0)
    phone = phones.add("pixel8", ["freeze=1"])  # the first candidate's first run
    bundles = [make_bundle("first"), make_bundle("second")]
    found = profile(bundles, "android", iterations=2, repeats=1, operators=False)
    assert [record.bundle for record in found.records] == ["second"]
    (failure,) = found.failures
    assert "could not run it on android:" in failure.reason
    assert "the runner gave no answer within 2 s and was ended" in failure.reason
    check_nothing_left(phone)


@pytest.mark.slow
def test_a_runner_that_is_killed_between_rounds_is_left_out(
    phones: Fleet, make_bundle: MakeBundle, installed: None
) -> None:
    phone = phones.add("pixel8", ["kill=30"])  # after at most 26 runs of two candidates before their rounds
    bundles = [make_bundle("first"), make_bundle("second")]
    found = profile(bundles, "android", iterations=20, repeats=1, operators=False)
    (record,) = found.records
    (failure,) = found.failures
    assert {record.bundle, failure.bundle} == {"first", "second"}
    assert len(record.latency.iterations_ms) == 20
    assert record.interruptions == 0
    assert "the runner ended by SIGKILL, probably out of memory" in failure.reason
    check_nothing_left(phone)


@pytest.mark.slow
def test_a_phone_that_hangs_is_lost_and_no_candidate_to_blame(
    phones: Fleet, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_runner, "RUN_S", 1.0)
    monkeypatch.setattr(native_runner, "QUIT_S", 1.0)
    monkeypatch.setattr(adb, "ALIVE_S", 2.0)
    monkeypatch.setattr(adb, "ANSWER_S", 2.0)
    phone = phones.add("pixel8", ["silent=16"])
    with pytest.raises(DeviceLost, match=r"[1-9]\d* of 20 rounds are in the store") as raised:
        measure(iterations=10, wait_s=2.0)
    assert [failure.kind for failure in raised.value.failures] == ["lost"]
    phones.restart(phone)
    (record,) = measure(iterations=10, resume=True).records
    assert len(record.latency.iterations_ms) == 20
    assert record.interruptions == 1
    check_nothing_left(phone)


@pytest.mark.slow
def test_a_phone_is_not_measured_twice_at_once(phones: Fleet, measure: Measure) -> None:
    phone = phones.add("pixel8")
    refused = rf"^android:{phone.serial}: is being measured already; wait for that to end$"

    def measure_again() -> None:
        with pytest.raises(DeviceError, match=refused):
            measure(f"android:{phone.serial}")

    watching = Watching(in_a_round=measure_again)
    assert measure(watch=watching).records
    assert watching.happened == ["round"]
    assert measure().records  # whoever ended no longer stands in the way


@pytest.mark.slow
def test_two_phones_are_measured_at_once(phones: Fleet, measure: Measure) -> None:
    first, second = phones.add("pixel8"), phones.add("galaxy_s9")
    watching = Watching(in_a_round=lambda: measure(f"android:{second.serial}"))
    assert measure(f"android:{first.serial}", watch=watching).records


@pytest.mark.slow
def test_the_profile_of_a_runtime_that_was_cut_off_does_not_stay(phones: Fleet, measure: Measure) -> None:
    phone = phones.add("pixel8", ["drop-traced=1"])
    (record,) = measure(operators=True).records
    assert record.operators
    check_nothing_left(phone)


@pytest.mark.slow
def test_a_phone_that_is_waited_for_can_be_given_up(phones: Fleet, make_bundle: MakeBundle, installed: None) -> None:
    phone = phones.add("pixel8", [f"{IN_A_ROUND}:for-good"])
    watching = Watching()
    journal = Journal(None, watching)
    watching.when_lost = lambda: threading.Timer(1.0, journal.stop).start()
    with pytest.raises(Stopped):
        profile_android([make_bundle()], Request(journal, which=phone.serial, wait_s=60.0))
    assert watching.happened == ["round", "lost"]


@pytest.mark.slow
def test_a_connection_that_breaks_in_a_push_is_waited_for(phones: Fleet, measure: Measure) -> None:
    phone = phones.add("pixel8", ["drop-push=1000"])
    assert measure().records
    check_nothing_left(phone)


@pytest.mark.slow
def test_a_connection_that_breaks_in_a_round_is_waited_for(phones: Fleet, measure: Measure) -> None:
    phone = phones.add("pixel8", [IN_A_ROUND])
    (record,) = measure(iterations=10).records
    assert len(record.latency.iterations_ms) == 20
    assert record.interruptions == 1
    assert held(phone) == ["true", "true", "false"]  # it may have been started anew
    check_nothing_left(phone)


@pytest.mark.slow
def test_a_phone_that_stays_away_leaves_its_rounds_and_resume_goes_on(phones: Fleet, measure: Measure) -> None:
    phone = phones.add("pixel8", [f"{IN_A_ROUND}:for-good"])
    with pytest.raises(
        DeviceLost, match=r"did not come back within 2 s; [1-9]\d* of 20 rounds are in the store, and --resume"
    ) as raised:
        measure(iterations=10, wait_s=2.0)
    assert raised.value.exit_code == 3
    assert [failure.kind for failure in raised.value.failures] == ["lost"]
    assert store.load() == []
    wait_for_end_of(f"{phone.folder}/tmp/handheld/")
    phones.restart(phone)
    (record,) = measure(iterations=10, resume=True).records
    assert len(record.latency.iterations_ms) == 20
    assert record.interruptions == 1
    check_nothing_left(phone)
