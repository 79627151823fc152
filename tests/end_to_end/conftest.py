"""What several commands are tried on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def bundle(exported_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that a test may change."""
    copy = tmp_path / "bundle"
    shutil.copytree(exported_bundle, copy)
    return copy
