"""`xcrun devicectl` through a fake one: what is read, and each way in which it fails as one clear line."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from devices.apple import devicectl
from devices.apple.devicectl import NoSuchFile
from devices.apple.devicectl_errors import AppMissing
from devices.bench import DeviceLost
from tests.devices.apple.apple_phone import UDID, FakePhone, connected, device
from toolkit.errors import DeviceError, UserError

APP = "org.handheld.runner"


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePhone:
    return connected(tmp_path, monkeypatch)


def test_a_phone_is_read_from_the_answer_file_whatever_else_is_in_it(phone: FakePhone) -> None:
    (found,) = devicectl.phones()
    assert (found.name, found.udid, found.model, found.system) == ("Ada's iPhone", UDID, "iPhone 14 Pro", "iOS 18.1")
    assert (found.product, found.transport, found.tunnel, found.trouble) == ("iPhone15,2", "wired", "disconnected", "")
    assert all("-j" in call for call in phone.calls)


def test_watches_simulators_and_entries_without_an_identifier_are_passed_over(phone: FakePhone) -> None:
    watch = device("Watch", deviceType="appleWatch")
    simulator = device("Sim", reality="simulated")
    phone.devices(watch, simulator, device(identifier=""), {"identifier": "X"}, device("Pad", deviceType="iPad"))
    assert [found.name for found in devicectl.phones()] == ["Pad"]


def test_missing_fields_are_unknown_not_an_error(phone: FakePhone) -> None:
    phone.devices({"identifier": "ABC", "hardwareProperties": {"deviceType": "iPhone"}})
    (found,) = devicectl.phones()
    assert (found.name, found.udid, found.system, found.developer_mode) == ("ABC", "ABC", "iOS", "")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pairingState": "unpaired"}, "not paired"),
        ({"tunnelState": "unavailable"}, "not within reach"),
        ({"developerModeStatus": "disabled"}, "developer mode off"),
    ],
)
def test_a_phone_that_cannot_be_used_says_why(phone: FakePhone, changes: dict[str, str], reason: str) -> None:
    phone.devices(device(**changes))
    with pytest.raises(DeviceError, match=f"Ada's iPhone: .*{reason}.*;"):
        devicectl.choose(None)


def test_a_phone_is_chosen_by_name_or_udid(phone: FakePhone) -> None:
    phone.devices(device("One", udid="U1", identifier="I1"), device("Two", udid="U2", identifier="I2"))
    assert devicectl.choose("Two").identifier == "I2"
    assert devicectl.choose("U1").name == "One"
    with pytest.raises(UserError, match=r"2 devices could be meant; name one of iphone:U1 \(One\), iphone:U2 \(Two\)"):
        devicectl.choose(None)
    with pytest.raises(UserError, match=r"unknown iPhone 'Tow'\. Did you mean 'Two'\?"):
        devicectl.choose("Tow")


def test_the_only_one_within_reach_is_chosen(phone: FakePhone) -> None:
    phone.devices(device("Near", udid="U1"), device("Far", udid="U2", tunnelState="unavailable"))
    assert devicectl.choose(None).name == "Near"
    phone.devices()
    with pytest.raises(DeviceError, match="no iPhone is known to this Mac"):
        devicectl.choose(None)


def test_files_go_there_and_back(phone: FakePhone, tmp_path: Path) -> None:
    source, back = tmp_path / "a.bin", tmp_path / "b.bin"
    source.write_bytes(b"\x00\x01")
    chosen = devicectl.choose(None)
    devicectl.copy_to(chosen, APP, source, "Documents/handheld/a.bin")
    devicectl.copy_from(chosen, APP, "Documents/handheld/a.bin", back)
    assert back.read_bytes() == b"\x00\x01"
    with pytest.raises(NoSuchFile):
        devicectl.copy_from(chosen, APP, "Documents/handheld/none", back)


def test_an_app_is_installed(phone: FakePhone, tmp_path: Path) -> None:
    (tmp_path / "Runner.app").mkdir()
    assert devicectl.install(devicectl.choose(None), tmp_path / "Runner.app") == APP
    with pytest.raises(UserError, match="no such app"):
        devicectl.install(devicectl.choose(None), tmp_path / "None.app")


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("install:signing", DeviceError, "signature was refused; choose your team in Xcode"),
        ("copy:full", DeviceError, "no space left; free some"),
        ("copy:pairing", DeviceError, "it is not paired; tap Trust"),
        ("copy:strange", DeviceError, "devicectl failed .The flux is not aligned"),
    ],
)
def test_refusals_are_told_with_their_remedy(
    phone: FakePhone, tmp_path: Path, fault: str, kind: type[DeviceError], message: str
) -> None:
    chosen = devicectl.choose(None)
    phone.fault(fault)
    (tmp_path / "Runner.app").write_text("")
    app = tmp_path / "Runner.app"
    calls = {
        "install": lambda: devicectl.install(chosen, app),
        "copy": lambda: devicectl.copy_to(chosen, APP, app, "x"),
    }
    with pytest.raises(kind, match=message):
        calls[fault.split(":")[0]]()


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("launch:locked", DeviceError, "it is locked; unlock it"),
        ("launch:developer", DeviceError, "developer mode is off"),
        ("launch:missing", AppMissing, "the runner app is not installed"),
    ],
)
def test_a_launch_that_is_refused(phone: FakePhone, fault: str, kind: type[DeviceError], message: str) -> None:
    chosen = devicectl.choose(None)
    phone.fault(fault)
    launched = devicectl.launch(chosen, APP, ["hello", "1"])
    try:
        assert _ends(launched)
        failure = launched.failure("phone")
    finally:
        launched.close()
    assert isinstance(failure, kind)
    assert message in str(failure)


def test_a_phone_that_is_gone_is_lost(phone: FakePhone, tmp_path: Path) -> None:
    chosen = devicectl.choose(None)
    phone.gone(1)
    with pytest.raises(DeviceLost, match="the connection is gone"):
        devicectl.copy_from(chosen, APP, "x", tmp_path / "x")


def test_without_xcode(phone: FakePhone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    phone.fault("no-devicectl")
    with pytest.raises(DeviceError, match="not on this machine; iPhones are measured from a Mac with Xcode 16"):
        devicectl.phones()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not devicectl.available()
    with pytest.raises(DeviceError, match="not on this machine"):
        devicectl.phones()


def test_half_an_answer(phone: FakePhone) -> None:
    phone.fault("truncated")
    with pytest.raises(DeviceError, match="devicectl's answer is no whole JSON"):
        devicectl.phones()


def test_a_call_that_hangs_is_ended(phone: FakePhone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devicectl, "LIST_TIMEOUT_S", 0.5)
    phone.fault("hang")
    with pytest.raises(DeviceLost, match="no answer within"):
        devicectl.phones()


def test_an_app_that_is_closed_runs_no_longer(phone: FakePhone) -> None:
    job = {"job": "j", "candidates": [{"candidate": 0}]}
    folder = phone.root / "container/Documents/handheld"
    folder.mkdir(parents=True)
    (folder / "j-1.json").write_text(json.dumps(job))
    phone.fault("stall:load:0")
    launched = devicectl.launch(devicectl.choose(None), APP, ["prove", "j", "1"])
    end = time.monotonic() + 20
    while not (folder / "j-prove.jsonl").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not launched.ended()
    launched.close()
    assert launched.ended()


def _ends(launched: devicectl.Launched) -> bool:
    end = time.monotonic() + 20
    while not launched.ended() and time.monotonic() < end:
        time.sleep(0.05)
    return launched.ended()
