"""An iPhone from end to end, through a fake `xcrun` and a fake runner app that follows the job format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devices import profiling, store
from devices.apple import iphone, iphone_app, profiler
from devices.bench import DeviceLost
from devices.journal import Journal
from devices.protocol import Schedule
from devices.records import Profile
from devices.requests import Request
from tests.devices.apple.apple_phone import UDID, FakePhone, connected, coreml_bundle, device, stateful_bundle
from toolkit.errors import DeviceError, UserError

pytestmark = pytest.mark.slow  # every session waits for a phone, though it is played

STAYING = ["clean.jsonl", "hello.jsonl"]

Measure = Callable[..., Profile]


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePhone:
    monkeypatch.setattr(iphone_app, "POLL_S", 1.0)
    monkeypatch.setattr(iphone, "WAIT_STEP_S", 0.05)
    return connected(tmp_path, monkeypatch)


@pytest.fixture
def bundle(tmp_path: Path, latent: np.ndarray, frames: np.ndarray) -> Path:
    return coreml_bundle(tmp_path / "tiny", latent, frames, {"coreml-fp16": 2.0, "coreml-fp32": 2.0})


@pytest.fixture
def measure(tmp_path: Path, phone: FakePhone, bundle: Path) -> Measure:
    """Profiles the bundle on the fake phone: two repeats of two rounds."""

    def run(bundles: list[Path] | None = None, **changes: Any) -> Profile:
        url = f"sqlite:///{tmp_path / 'profiles.db'}"
        schedule = Schedule(repeats=2, iterations=2)
        fields: dict[str, Any] = {"journal": Journal(url), "schedule": schedule, "wait_s": 20.0, **changes}
        return profiler.profile_iphone(bundles or [bundle], Request(**fields))

    return run


def test_records_hold_what_the_phone_told(measure: Measure, phone: FakePhone) -> None:
    found = measure()
    first, second = found.records
    assert [(r.target, r.unit, r.threads) for r in found.records] == [
        ("coreml-fp16", "all", None),
        ("coreml-fp32", "all", None),
    ]
    assert (first.runtime, first.label) == ("Core ML of iOS 18.1", "student · Core ML of iOS, all")
    assert [repeat.iterations_ms for repeat in first.latency.repeats] == [[0, 1], [2, 3]]
    assert [repeat.iterations_ms for repeat in second.latency.repeats] == [[10, 11], [12, 13]]
    assert [repeat.waited_s for repeat in first.latency.repeats] == [0, 1.5]
    assert (first.latency.load_ms, first.latency.first_ms, first.latency.warmup_ms) == (11.5, 7.25, [3, 3, 3])
    assert first.memory is not None
    assert first.memory.added_bytes == 30_000_000
    assert (first.parity.passed, first.parity.how, first.parity.max_abs) == (True, "executed", 0)
    assert (first.obtained, first.interruptions, found.failures) == ("measured", 0, [])


def test_the_device_is_described_by_what_it_and_devicectl_tell(measure: Measure) -> None:
    found = measure().records[0].device
    assert (found.kind, found.name, found.model, found.system) == ("apple", "Ada's iPhone", "iPhone 14 Pro", "iOS 18.1")
    assert (found.cores, found.memory_bytes, found.charging) == (6, 6_000_000_000, True)
    assert (found.clock_mhz, found.temperature_c, found.others_share) == (None, None, None)
    assert found.details["thermal state"] == "nominal"
    assert found.details["udid"] == UDID


def test_the_plan_is_no_operator_time(measure: Measure) -> None:
    (record, _) = measure().records
    (row,) = record.placement
    assert (row.kind, row.unit, row.operators, row.cost_share) == ("conv", "Neural Engine", 2, 0.75)
    assert row.obtained == "planned"
    assert record.operators == []


def test_compute_units_are_candidates(measure: Measure, phone: FakePhone) -> None:
    found = measure(compute_units=("cpuOnly", "cpuAndNeuralEngine"))
    assert [(r.target, r.unit) for r in found.records] == [
        ("coreml-fp16", "cpuOnly"),
        ("coreml-fp16", "cpuAndNeuralEngine"),
        ("coreml-fp32", "cpuOnly"),
        ("coreml-fp32", "cpuAndNeuralEngine"),
    ]
    copied = [call for call in phone.calls if call[:3] == ["device", "copy", "to"] and "/models/" in " ".join(call)]
    assert len(copied) == 1  # both packages are alike, and each model is copied once


def test_a_stream_whose_states_core_ml_keeps_is_led_to_the_step_of_the_sample(
    measure: Measure, phone: FakePhone, tmp_path: Path
) -> None:
    (record,) = measure([stateful_bundle(tmp_path / "stream")]).records
    assert (record.target, record.parity.passed) == ("coreml-state-fp16", True)
    assert phone.files == STAYING


def test_nothing_stays_on_the_phone(measure: Measure, phone: FakePhone) -> None:
    measure()
    assert phone.files == STAYING


@pytest.mark.slow
def test_models_stay_where_asked_and_are_not_copied_again(measure: Measure, phone: FakePhone) -> None:
    measure(keep=True)
    (model,) = [name for name in phone.files if name not in STAYING]
    assert model.startswith("models/")
    before = len(phone.calls)
    measure()
    assert not any("models/" in " ".join(call) for call in phone.calls[before:] if call[2] == "to")
    assert phone.files == STAYING


def test_a_wrong_output_is_not_timed(
    measure: Measure, tmp_path: Path, latent: np.ndarray, frames: np.ndarray, phone: FakePhone
) -> None:
    wrong = coreml_bundle(tmp_path / "wrong", latent, frames, {"coreml-fp16": 3.0, "coreml-fp32": 2.0})
    found = measure([wrong])
    assert [record.target for record in found.records] == ["coreml-fp32"]
    assert [record.latency.iterations_ms for record in found.records] == [[10, 11, 12, 13]]
    (failure,) = found.failures
    assert (failure.target, failure.kind, failure.unit) == ("coreml-fp16", "failed", "all")
    assert "wrong output" in failure.reason
    assert phone.files == STAYING


def test_where_all_are_wrong_it_is_an_error_and_the_phone_is_cleaned(
    measure: Measure, tmp_path: Path, latent: np.ndarray, frames: np.ndarray, phone: FakePhone
) -> None:
    wrong = coreml_bundle(tmp_path / "wrong", latent, frames, {"coreml-fp16": 3.0})
    with pytest.raises(DeviceError, match="wrong output"):
        measure([wrong])
    assert "measure" not in phone.launches
    assert phone.files == STAYING


@pytest.mark.parametrize("what", ["load", "warm up", "round", "memory"])
def test_a_candidate_at_which_the_app_crashes_is_left_out(measure: Measure, phone: FakePhone, what: str) -> None:
    phone.fault(f"crash:{what}:1")
    found = measure()
    (record,) = found.records
    (failure,) = found.failures
    assert (record.target, record.latency.iterations_ms) == ("coreml-fp16", [0, 1, 2, 3])
    assert failure.target == "coreml-fp32"
    assert f"the runner app was at '{what}', and broke off: it crashed, or iOS ended it" in failure.reason
    assert phone.files == STAYING


def test_a_crash_while_planning_costs_a_candidate_nothing(measure: Measure, phone: FakePhone) -> None:
    phone.fault("crash:plan:1")
    found = measure()
    assert [len(record.placement) for record in found.records] == [1, 0]
    assert found.failures == []


def test_a_step_that_does_not_end_is_ended(measure: Measure, phone: FakePhone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iphone_app, "STEP_LIMIT_S", 1.0)
    phone.fault("stall:load:0")
    found = measure()
    assert [record.target for record in found.records] == ["coreml-fp32"]
    assert "was at 'load' for longer than 1 s" in found.failures[0].reason


@pytest.mark.parametrize("fault", ["garbage:1", "missed:1", "garbage:3"])
def test_lines_that_cannot_be_read_are_measured_again(measure: Measure, phone: FakePhone, fault: str) -> None:
    phone.fault(fault)
    assert [record.latency.iterations_ms for record in measure().records] == [[0, 1, 2, 3], [10, 11, 12, 13]]


def test_half_a_line_is_left_out(measure: Measure, phone: FakePhone) -> None:
    phone.fault("half:2")
    found = measure()
    assert [record.latency.iterations_ms for record in found.records] == [[0, 1, 2, 3]]
    assert "broke off" in found.failures[0].reason


def test_a_phone_that_comes_back_goes_on(measure: Measure, phone: FakePhone) -> None:
    phone.fault("disconnect:2")
    found = measure()
    assert [record.latency.iterations_ms for record in found.records] == [[0, 1, 2, 3], [10, 11, 12, 13]]
    assert [record.interruptions for record in found.records] == [1, 1]
    assert phone.launches.count("measure") == 2
    assert phone.files == STAYING


@pytest.mark.parametrize("what", ["load", "warm up", "memory", "plan"])
def test_a_phone_that_is_cut_off_in_any_pass_goes_on(measure: Measure, phone: FakePhone, what: str) -> None:
    phone.fault(f"away:{what}:1")
    found = measure()
    assert [record.latency.iterations_ms for record in found.records] == [[0, 1, 2, 3], [10, 11, 12, 13]]
    assert all(record.memory is not None and record.placement for record in found.records)
    assert (found.failures, phone.files) == ([], STAYING)


def test_a_candidate_that_fails_within_the_rounds_leaves_the_others(measure: Measure, phone: FakePhone) -> None:
    phone.fault("fail:2")
    found = measure()
    assert [record.latency.iterations_ms for record in found.records] == [[0, 1, 2, 3]]
    (failure,) = found.failures
    assert "run failed (Core ML said no)" in failure.reason
    assert phone.launches.count("measure") == 1


def test_a_phone_that_stays_away_loses_no_round_and_can_be_resumed(
    measure: Measure, phone: FakePhone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GONE_CALLS", "100000")
    phone.fault("disconnect:3")
    with pytest.raises(DeviceLost, match=r"--resume goes on from there") as lost:
        measure(wait_s=0.5)
    assert [failure.kind for failure in lost.value.failures] == ["lost", "lost"]
    phone.fine()
    before = len(phone.launches)
    found = measure(resume=True)
    assert [record.latency.iterations_ms for record in found.records] == [[0, 1, 2, 3], [10, 11, 12, 13]]
    assert [record.interruptions for record in found.records] == [1, 1]
    # what it had finished before it was cut off came from its own files, and was not measured again
    assert [repeat.iterations_ms for repeat in found.records[0].latency.repeats] == [[0, 1], [2], [3]]
    assert "prove" not in phone.launches[before:]
    assert phone.files == STAYING


def test_no_space_on_the_phone(measure: Measure, phone: FakePhone) -> None:
    phone.fault("copy:full")
    with pytest.raises(DeviceError, match="no space left; free some"):
        measure()


def test_an_app_of_another_release(measure: Measure, phone: FakePhone) -> None:
    phone.fault("protocol")
    with pytest.raises(DeviceError, match="speaks protocol 2, this release 1; build and install the app"):
        measure()


def test_without_the_app(measure: Measure, phone: FakePhone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDHELD_IPHONE_APP", "org.example.none")
    with pytest.raises(DeviceError, match="is not installed; build and run it once in Xcode"):
        measure()


def test_a_locked_phone(measure: Measure, phone: FakePhone) -> None:
    phone.fault("launch:locked")
    with pytest.raises(DeviceError, match="it is locked; unlock it and leave the screen on"):
        measure()


def test_a_bundle_that_no_iphone_runs(measure: Measure, make_bundle: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="no bundle holds an artifact that the runner app can run"):
        measure([make_bundle("onnx-only")])


def test_the_public_function_knows_iphones_by_name(phone: FakePhone, bundle: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'public.db'}"
    found = profiling.profile([bundle], "iphone:Ada's iPhone", iterations=1, repeats=1, store=url)
    assert len(found.records) == len(store.load(url)) == 2
    with pytest.raises(UserError, match="unknown iPhone 'Bob'"):
        profiling.profile([bundle], "iphone:Bob", store=url)


def test_phones_are_listed_with_what_stands_in_their_way(phone: FakePhone) -> None:
    phone.devices(device("Near"), device("Far", udid="U2", tunnelState="unavailable"))
    near, far = profiler.list_iphones()
    assert (near.name, near.kind, near.model, near.state) == (
        f"iphone:{UDID}",
        "iphone",
        "Near (iPhone 14 Pro)",
        "ready",
    )
    assert (far.name, far.state) == ("iphone:U2", "not ready")
    assert "connect it by cable" in far.remedy


def test_without_a_mac_pymobiledevice3_lists_phones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = [
        {"DeviceClass": "iPhone", "DeviceName": "Ada", "ProductType": "iPhone15,2", "ProductVersion": "18.1"}
        | {"Identifier": UDID, "UniqueDeviceID": UDID, "ConnectionType": "USB", "BuildVersion": None},
        {"DeviceClass": "Watch", "UniqueDeviceID": "W"},
        "another release's line",
    ]
    program = tmp_path / "pymobiledevice3"
    program.write_text(f"#!/bin/sh\n[ \"$*\" = 'usbmux list' ] && cat <<'END'\n{json.dumps(told)}\nEND\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    (found,) = profiler.list_iphones()
    assert (found.name, found.model, found.state) == (f"iphone:{UDID}", "Ada (iPhone15,2)", "not ready")
    assert "measured from a Mac" in found.remedy
    program.write_text("#!/bin/sh\necho 'no muxer'; exit 1\n")
    assert profiler.list_iphones() == []


def test_the_doctor_names_what_is_missing(phone: FakePhone, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [finding.works for finding in profiler.findings()] == [False]
    monkeypatch.setattr(profiler, "is_mac", lambda: True)
    phone.devices(device("Near"), device("Far", udid="U2", developerModeStatus="disabled"))
    assert [(f.capability, f.works) for f in profiler.findings()] == [
        ("Xcode's devicectl", True),
        ("iPhone Near", True),
        ("iPhone Far", False),
    ]
    phone.fault("no-devicectl")
    (finding,) = profiler.findings()
    assert not finding.works
    assert "Xcode 16" in finding.remedy
