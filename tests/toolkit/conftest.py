"""What tests of several modules are tried on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.toolkit.bundles import fill
from toolkit.bundle import new_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    with new_bundle(path) as folder:
        fill(folder)
    return path
