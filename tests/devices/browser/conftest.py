"""What tests of visits share: a runtime that is none, and a profile that waits for pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devices.browser.profiler import assets
from tests.devices.browser.browsers import Profiling, profiling
from tests.devices.conftest import MakeBundle


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files in the place of ONNX Runtime Web: nothing here runs them."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    for name in assets.FILES:
        (folder / name).write_text(name)
    (folder / "package.json").write_text('{"version": "1.2.3"}')
    monkeypatch.setenv(assets.VARIABLE, str(folder))
    return folder


@pytest.fixture
def under_way(make_bundle: MakeBundle) -> Iterator[Profiling]:
    with profiling([make_bundle()]) as started:
        yield started
