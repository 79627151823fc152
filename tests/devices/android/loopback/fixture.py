"""The fixture of tests that need phones: import `phones` into the test module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.devices.android.loopback.fleet import Fleet, fleet


@pytest.fixture
def phones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """An adb server without phones, which this process uses; add phones to it."""
    with fleet(tmp_path / "phones") as started:
        for name in ("ANDROID_ADB_SERVER_PORT", "HOME", "ADB_MDNS"):
            monkeypatch.setenv(name, started.environment[name])
        monkeypatch.delenv("ANDROID_SERIAL", raising=False)
        yield started
