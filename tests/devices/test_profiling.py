"""Profiling on the host: what is refused before anything is timed, and what one session leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import devices
from devices import profiling
from devices.android import adb
from devices.bench import DeviceLost
from devices.host_runtimes import OnnxRuntime
from devices.records import Profile
from toolkit.errors import CheckFailed, DeviceError, UserError


def test_unknown_device_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"unknown device 'hots'\. Did you mean 'host'\? Known: android, browser, host, iphone, mac\."
    ):
        devices.profile([], "hots")


@pytest.mark.parametrize("option", ["iterations", "repeats"])
@pytest.mark.parametrize("number", [0, -3])
def test_refuses_to_measure_nothing(make_bundle: Any, option: str, number: int) -> None:
    with pytest.raises(UserError, match=rf"--{option} {number}: at least 1"):
        devices.profile([make_bundle()], **{option: number})


def test_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no bundle"):
        devices.profile([tmp_path])


def test_changed_bundle_is_not_timed(make_bundle: Any) -> None:
    bundle = make_bundle()
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckFailed, match=r"model\.onnx: changed"):
        devices.profile([bundle])


def test_candidates_with_wrong_output_are_not_timed(make_bundle: Any, frames: np.ndarray) -> None:
    with pytest.raises(DeviceError, match=r"reference\.pt2: wrong output on this machine \(FAIL.*it was not used"):
        devices.profile([make_bundle(expected=frames + 1)])


@pytest.mark.slow
def test_a_candidate_that_cannot_be_loaded_leaves_the_others_to_be_measured(make_bundle: Any) -> None:
    profile = devices.profile([make_bundle(model=b"not a model")], iterations=2, repeats=1, threads=1, operators=False)
    assert [record.target for record in profile.records] == ["reference"]
    (failure,) = profile.failures
    assert (failure.target, failure.kind) == ("onnx-fp32", "failed")
    assert "onnx could not run it" in failure.reason


@pytest.mark.slow
def test_a_candidate_that_fails_within_the_rounds_leaves_the_others_to_be_measured(
    make_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    whole = OnnxRuntime.__call__

    def failing(self: OnnxRuntime) -> list[np.ndarray]:
        nonlocal calls
        calls += 1
        if calls > 20:  # past the proof and the warm-up
            raise RuntimeError("out of memory")
        return whole(self)

    monkeypatch.setattr(OnnxRuntime, "__call__", failing)
    profile = devices.profile([make_bundle()], iterations=30, repeats=1, threads=1, operators=False)
    assert [(record.target, len(record.latency.iterations_ms)) for record in profile.records] == [("reference", 30)]
    assert [failure.target for failure in profile.failures] == ["onnx-fp32"]
    assert "out of memory" in profile.failures[0].reason


@pytest.fixture
def two_phones(make_record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device `phone` that answers by the name behind the colon: `good`, `away` or `bad`."""

    def profiler(_bundles: Any, request: Any) -> Profile:
        if request.which == "away":
            raise DeviceLost("phone: unplugged")
        if request.which == "bad":
            raise DeviceError("phone: no room")
        return Profile(records=[make_record(session=request.which or "")])

    monkeypatch.setitem(profiling.PROFILERS, "phone", profiler)


def test_several_devices_give_one_profile_in_the_order_they_were_named(make_bundle: Any, two_phones: None) -> None:
    found = devices.profile([make_bundle()], ["phone:b", "phone:a", "phone:b"])
    assert [record.session for record in found.records] == ["b", "a"]


def test_a_device_that_gives_nothing_leaves_the_others(make_bundle: Any, two_phones: None) -> None:
    found = devices.profile([make_bundle()], ["phone:good", "phone:away", "phone:bad"])
    assert [record.session for record in found.records] == ["good"]
    assert found.troubles == ["phone:away: phone: unplugged", "phone:bad: phone: no room"]


def test_what_the_user_got_wrong_of_one_device_leaves_the_others_too(
    make_bundle: Any, two_phones: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: Any) -> Profile:
        raise UserError("slate: no such slate")

    monkeypatch.setitem(profiling.PROFILERS, "slate", refusing)
    found = devices.profile([make_bundle()], ["slate", "phone:good"])
    assert [record.session for record in found.records] == ["good"]
    assert found.troubles == ["slate: slate: no such slate"]


def test_a_phone_by_two_names_is_measured_once(make_bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def profiler(_bundles: Any, request: Any) -> Profile:
        asked.append(request.which)
        return Profile(records=[])

    monkeypatch.setitem(profiling.PROFILERS, "android", profiler)
    monkeypatch.setattr(adb, "attached", lambda: [adb.Attached("39021F", "device", "Pixel_8")])
    devices.profile([make_bundle()], ["android", "android:39021F", "android:Pixel 8"])
    assert asked == ["39021F"]


def test_devices_that_all_give_nothing_are_an_error(make_bundle: Any, two_phones: None) -> None:
    with pytest.raises(DeviceError, match=r"phone:away: phone: unplugged; phone:bad: phone: no room"):
        devices.profile([make_bundle()], ["phone:away", "phone:bad"])


def test_this_machine_has_no_other_name(make_bundle: Any) -> None:
    with pytest.raises(UserError, match="host:box: this machine is just `host`"):
        devices.profile([make_bundle()], "host:box")


@pytest.mark.slow
def test_one_session_holds_reference_and_artifacts_with_all_their_figures(make_bundle: Any) -> None:
    bundle = make_bundle()
    profile = devices.profile([bundle], iterations=3, repeats=2, threads=1)
    assert profile.failures == []
    records = profile.records
    assert [record.target for record in records] == ["reference", "onnx-fp32"]
    assert len({record.session for record in records}) == 1
    for record in records:
        assert (record.bundle, record.role, record.threads, record.obtained) == ("tiny", "student", 1, "measured")
        assert [len(repeat.iterations_ms) for repeat in record.latency.repeats] == [3, 3]
        assert len(record.latency.warmup_ms) >= 3
        assert record.parity.passed
        assert record.memory is not None
        assert record.operators
    assert records[1].artifact_bytes == (bundle / "model.onnx").stat().st_size
