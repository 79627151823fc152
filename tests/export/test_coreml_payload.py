"""A Core ML delegate's payload: its package comes out whole, and nothing of it leaves the folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from executorch.backends.apple.coreml import executorchcoreml

from export.coreml_payload import unpack
from toolkit.errors import CheckFailed


@pytest.fixture
def payload(tmp_path: Path) -> bytes:
    data = tmp_path / "source" / "model.mlpackage" / "Data"
    data.mkdir(parents=True)
    (data.parent / "WEIGHT").write_bytes(bytes(range(256)) * 40)
    (data / "model").write_bytes(b"hello}]")
    return bytes(executorchcoreml.flatten_directory_contents(str(tmp_path / "source")))


def test_a_package_comes_out_as_it_went_in(payload: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    package = unpack(payload, folder)
    assert package.name == "model.mlpackage"
    found = {path.relative_to(package).as_posix(): path.read_bytes() for path in package.rglob("*") if path.is_file()}
    assert found == {"WEIGHT": bytes(range(256)) * 40, "Data/model": b"hello}]"}


@pytest.mark.parametrize("name", ["../BBB", "..", "/tmp/B", "a/../B", "a\\..\\B", ".hid..", "C:evil"])
def test_a_name_that_leaves_the_folder_is_refused(name: str, payload: bytes, tmp_path: Path) -> None:
    """What ExecuTorch's own reader writes outside."""
    folder = tmp_path / "folder" / "inner"
    folder.mkdir(parents=True)
    escaped = name.replace("\\", "\\\\").encode()[::-1]
    with pytest.raises(CheckFailed, match="a Core ML delegate holds no model package"):
        unpack(payload.replace(b"THGIEW", escaped), folder)
    assert [path.name for path in folder.parent.rglob("*") if "B" in path.name or "evil" in path.name] == []


@pytest.mark.parametrize("change", [lambda p: b"", lambda p: p[:-9], lambda p: p.replace(b"04201", b"04299")])
def test_a_damaged_payload_is_refused(change: object, payload: bytes, tmp_path: Path) -> None:
    assert b"04201" in payload  # the weights' size, from its end
    assert callable(change)
    with pytest.raises(CheckFailed, match="a Core ML delegate holds no model package"):
        unpack(change(payload), tmp_path)
