"""The same model gives the same bytes in another process, and no artifact tells where it was made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import handheld, refusal
from tests.conftest import TARGETS
from tests.fuzz.mutations import reseal
from toolkit.bundle import read_manifest
from toolkit.sameness import same_bundle

pytestmark = pytest.mark.slow

EXPORT = """
import sys
from pathlib import Path
import export
export.export(export.from_module("tests.fuzz.model:build"), sys.argv[2:], Path(sys.argv[1]), command="handheld export")
"""
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two exports of one model, in two processes that order their sets differently."""
    bundles = [tmp_path_factory.mktemp("pair") / "bundle" for _ in range(2)]
    for seed, bundle in enumerate(bundles):
        environment = os.environ | {"SOURCE_DATE_EPOCH": "1767225600", "PYTHONHASHSEED": str(seed + 1)}
        command = [sys.executable, "-c", EXPORT, str(bundle), *TARGETS]
        subprocess.run(command, check=True, env=environment, cwd=ROOT, capture_output=True)
    return bundles


def test_two_exports_are_the_same_byte_for_byte(pair: list[Path]) -> None:
    assert same_bundle(*pair) == []
    assert read_manifest(pair[0]).provenance.created == "2026-01-01T00:00:00+00:00"
    assert handheld("verify", pair[0], "--against", pair[1]) == 0


def test_a_comparison_that_runs_nothing_takes_no_deep(capsys: pytest.CaptureFixture[str]) -> None:
    assert "give one of the two" in refusal(capsys, 2, "verify", "some", "--against", "other", "--deep")


def test_no_file_holds_a_path_of_this_machine(pair: list[Path]) -> None:
    for path in pair[0].rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [word for word in (str(ROOT), sys.prefix, "site-packages") if word.encode() in content], (
                path.name
            )


def test_difference_is_named(pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    shutil.copytree(pair[1], other)
    (other / "model.onnx").write_bytes(b"other")
    reseal(other, lambda content: content.update(name="renamed"))
    line = refusal(capsys, 1, "verify", pair[0], "--against", other)
    assert "differs from" in line
    assert "model.onnx" in line
    found = {each.what for each in same_bundle(pair[0], other)}
    assert found == {"model.onnx", "manifest.json: name", "manifest.json: manifest_sha256"}
