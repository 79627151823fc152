"""Runners that are installed: found by processor and runtime, and checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from devices.android.runner_files import MANIFEST, installed_runner, runner_files
from tests.programs import needs
from toolkit.errors import UserError
from toolkit.files import sha256

builds = [pytest.mark.slow, needs("cmake", "c++", "npm")]


def write_manifest(
    folder: Path, abi: str = "arm64-v8a", runtime: str = "onnxruntime", platform: str = "android-arm64"
) -> Path:
    """A folder of runners as a build leaves it, its program and library of one byte each."""
    folder.mkdir(parents=True)
    program, library = f"{runtime}-runner", f"lib{runtime}.so"
    for name in (program, library):
        (folder / name).write_bytes(b"x")
    runner = {"program": program, "libraries": [library], "version": None, "source": "a test"}
    content = {
        "platform": platform,
        "abi": abi,
        "protocol": 1,
        "runners": {runtime: runner},
        "sha256": {path.name: sha256(path) for path in folder.iterdir()},
    }
    (folder / MANIFEST).write_text(json.dumps(content))
    return folder


class TestWhatIsInstalled:
    def test_a_runner_is_found_by_what_the_device_calls_itself(self, tmp_path: Path) -> None:
        folder = write_manifest(tmp_path / "android-arm64")
        write_manifest(tmp_path / "other", abi="x86_64")

        assert installed_runner("arm64-v8a", "onnxruntime", tmp_path) == folder / "onnxruntime-runner"
        assert installed_runner("arm64-v8a", "executorch", tmp_path) is None
        assert installed_runner("armeabi-v7a", "onnxruntime", tmp_path) is None

    def test_the_files_of_a_runner_are_the_program_and_its_libraries(self, tmp_path: Path) -> None:
        folder = write_manifest(tmp_path / "runners")

        assert runner_files(folder / "onnxruntime-runner") == [
            folder / "onnxruntime-runner",
            folder / "libonnxruntime.so",
        ]

    def test_a_file_that_was_changed_or_removed_is_told(self, tmp_path: Path) -> None:
        folder = write_manifest(tmp_path / "runners")
        (folder / "libonnxruntime.so").write_bytes(b"y")

        with pytest.raises(UserError, match=r"libonnxruntime\.so: is missing or not what was built; build .* anew"):
            runner_files(folder / "onnxruntime-runner")

        (folder / "libonnxruntime.so").unlink()
        with pytest.raises(UserError, match=r"libonnxruntime\.so: is missing or not what was built"):
            runner_files(folder / "onnxruntime-runner")

    def test_a_damaged_manifest_is_told(self, tmp_path: Path) -> None:
        folder = write_manifest(tmp_path / "runners")
        (folder / MANIFEST).write_text("{")

        with pytest.raises(UserError, match=r"runners\.json: not valid JSON"):
            installed_runner("arm64-v8a", "onnxruntime", tmp_path)
