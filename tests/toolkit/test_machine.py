"""Memory: the machine's, or that of the control group that a process is kept in."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from toolkit import machine

GB = 1 << 30


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A control group of a machine with 64 GB free."""
    free = psutil.virtual_memory()._replace(available=64 * GB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(machine, "GROUP", tmp_path)
    return tmp_path


def fill(group: Path, limit: str, used: int, files: int) -> None:
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon {used - files}\ninactive_file {files}\n")


def test_a_group_has_what_its_limit_leaves_and_what_files_give_back(group: Path) -> None:
    fill(group, str(8 * GB), 7 * GB, 5 * GB)
    assert machine.available_bytes() == 6 * GB


def test_a_group_has_no_more_than_the_machine(group: Path) -> None:
    fill(group, str(100 * GB), GB, 0)
    assert machine.available_bytes() == 64 * GB


def test_without_a_limit_it_is_the_machines(group: Path) -> None:
    assert machine.available_bytes() == 64 * GB
    fill(group, "max", GB, 0)
    assert machine.available_bytes() == 64 * GB


def test_the_processor_has_a_name() -> None:
    assert machine.processor()
