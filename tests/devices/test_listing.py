"""What `handheld devices` lists."""

from __future__ import annotations

import json

import pytest

from devices.android import adb
from devices.listing import list_devices
from tests.command_line import handheld
from toolkit.errors import DeviceError


@pytest.fixture(autouse=True)
def without_adb(monkeypatch: pytest.MonkeyPatch) -> None:
    """To list phones starts an adb server, which would outlive the test."""

    def missing() -> str:
        raise DeviceError("adb: not found")

    monkeypatch.setattr(adb, "adb_program", missing)


def test_this_machine_is_always_there_and_ready() -> None:
    (host,) = [device for device in list_devices() if device.kind == "host"]
    assert (host.name, host.state, host.remedy) == ("host", "ready", "")
    assert host.model
    assert host.system


def test_the_command_lists_names_that_profile_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert handheld("devices", "--json") == 0
    assert "host" in {device["name"] for device in json.loads(capsys.readouterr().out)}
    assert handheld("devices") == 0
    assert "--device" in capsys.readouterr().out
