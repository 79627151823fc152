"""A whole bundle on an Android device with the real runners: as they are on this machine, and as arm64 programs."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

from devices import profile
from devices.android import runner_files
from tests.devices.android.loopback.fixture import phones
from tests.devices.android.loopback.fleet import Fleet, wait_for_end_of
from tests.programs import needs

__all__ = ["phones"]

pytestmark = [pytest.mark.slow, needs("adb", "cmake", "c++", "npm")]


def install(folder: Path) -> None:
    """Copy built runners to where Handheld looks for them."""
    shutil.copytree(folder, runner_files.runners_root() / folder.name)


def test_native_runners_on_a_phone(phones: Fleet, exported_bundle: Path, host_runners: Path) -> None:
    install(host_runners)
    phone = phones.add("zenfone")
    phone.change(props={"ro.product.cpu.abi": f"{platform.machine()}-linux"})

    found = profile([exported_bundle], "android", iterations=2, repeats=2)

    assert found.failures == []
    by_target = {record.target: record for record in found.records}
    assert set(by_target) == {"onnx-fp32", "executorch-xnnpack-fp32"}
    assert by_target["executorch-xnnpack-fp32"].runtime.startswith("ExecuTorch 1.")
    assert by_target["onnx-fp32"].runtime.startswith("ONNX Runtime 1.")
    for record in found.records:
        assert record.obtained == "measured"
        assert record.parity.passed
        assert record.parity.how == "executed"
        assert record.memory is not None
        assert record.memory.added_bytes > 0
        assert sum(row.ms for row in record.operators) > 0
    assert any("XNNPACK" in row.unit for row in by_target["executorch-xnnpack-fp32"].operators)
    wait_for_end_of(f"{phone.folder}/tmp/handheld/")
    assert phone.files == []


def test_a_runner_that_is_cut_off_in_a_round_ends_and_is_started_again(
    phones: Fleet, exported_bundle: Path, host_runners: Path
) -> None:
    install(host_runners)
    phone = phones.add("zenfone", ["drop-run=30"])
    phone.change(props={"ro.product.cpu.abi": f"{platform.machine()}-linux"})

    found = profile([exported_bundle], "android", iterations=10, repeats=1, operators=False, wait_s=60)

    assert len(found.records) == 2
    assert all(len(record.latency.iterations_ms) == 10 for record in found.records)
    wait_for_end_of(f"{phone.folder}/tmp/handheld/")
    assert phone.files == []


@needs("qemu-aarch64-static", "aarch64-linux-gnu-g++")
def test_arm64_runners_on_an_emulated_phone(phones: Fleet, exported_bundle: Path, arm64_runners: Path) -> None:
    install(arm64_runners)
    phone = phones.add("emulator")
    phone.change(props={"ro.product.cpu.abi": "aarch64-linux"})

    found = profile([exported_bundle], "android", iterations=2, repeats=1)

    assert found.failures == []
    assert {record.target for record in found.records} == {"onnx-fp32", "executorch-xnnpack-fp32"}
    for record in found.records:
        assert record.obtained == "emulated"
        assert record.device.emulated
        assert record.parity.passed
        assert all(row.obtained == "emulated" for row in record.operators)
    wait_for_end_of(f"{phone.folder}/tmp/handheld/")
    assert phone.files == []
