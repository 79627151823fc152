"""Stock binaries on a phone: stand-ins that print what the real ones print, through the real adb."""

from __future__ import annotations

from pathlib import Path

import pytest

from devices.android import adb, locks, stock_runs
from devices.android.stock_runs import drive_stock
from tests.devices.android.loopback.fixture import phones
from tests.devices.android.loopback.fleet import Fleet, wait_for_end_of
from tests.programs import needs
from toolkit.errors import DeviceError, UserError

__all__ = ["phones"]

pytestmark = needs("adb")

LITERT = """\
INFO: Inference timings in us: Init: 16242, First inference: 36026, Warmup (avg): 30458, Inference (avg): 24968.4
INFO: count=50 first=24904 curr=24950 min=24100 max=26000 avg=24968.4 std=144
"""
PERF_TEST = """\
Session creation time cost: 0.25 s
Average inference time cost total: 12.5 ms
Total inference requests: 2
"""
LOG = """\
I/ExecuTorch( 123): Model loaded in 12.500000 ms.
I/ExecuTorch( 123): Model executed successfully 4 time(s) in 10.000000 ms.
"""


def binary(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(0o755)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(b"a model")
    return path


def test_litert(phones: Fleet, tmp_path: Path, model: Path) -> None:
    phone = phones.add()
    program = binary(tmp_path, "benchmark_model", f"test -f ${{1#--graph=}} || exit 9\ncat <<'END'\n{LITERT}END\n")
    found = drive_stock(program, model)
    assert (found.runs, found.mean_ms, found.load_ms) == (50, pytest.approx(24.9684), 16.242)
    assert phone.files == []
    # it takes the place of the phone's shell, whose end is its own then
    assert any("; exec /data/local/tmp/handheld/" in service for service in phone.services)


@pytest.mark.slow
def test_a_binary_that_hangs_is_ended(
    phones: Fleet, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stock_runs, "RUN_S", 1.0)
    phone = phones.add()
    with pytest.raises(DeviceError, match="gave no answer within 1 s"):
        drive_stock(binary(tmp_path, "benchmark_model", "exec sleep 300.5\n"), model)
    wait_for_end_of("sleep 300.5")
    assert phone.files == []


def test_a_phone_that_is_being_measured_is_left_alone(phones: Fleet, tmp_path: Path, model: Path) -> None:
    phone = phones.add()
    with (
        locks.locked(adb.Phone(phone.serial)),
        pytest.raises(DeviceError, match="is being measured already; wait for that to end"),
    ):
        drive_stock(binary(tmp_path, "benchmark_model", "exit 1\n"), model)
    assert phone.services == []


def test_onnx_runtime(phones: Fleet, tmp_path: Path, model: Path) -> None:
    phone = phones.add()
    times = 'for last; do :; done\nprintf "m,0.0125,1,50,0\\nm,0.0125,1,50,1\\n" > "$last"\n'
    found = drive_stock(binary(tmp_path, "onnxruntime_perf_test", f"{times}cat <<'END'\n{PERF_TEST}END\n"), model)
    assert found.mean_ms == 12.5
    assert found.iterations_ms == [12.5, 12.5]
    assert phone.files == []


def test_executorch_tells_its_figures_in_the_log_of_the_phone(phones: Fleet, tmp_path: Path, model: Path) -> None:
    phone = phones.add()
    phone.change(commands={"logcat -c": "0", "logcat -d -s ExecuTorch:I": f"0 {LOG}"})
    found = drive_stock(binary(tmp_path, "executor_runner", "exit 0\n"), model)
    assert (found.runs, found.mean_ms, found.load_ms) == (4, 2.5, 12.5)
    assert phone.files == []


def test_a_binary_that_fails(phones: Fleet, tmp_path: Path, model: Path) -> None:
    phone = phones.add()
    program = binary(tmp_path, "benchmark_model", "echo 'ERROR: Failed to read the model' >&2\nexit 1\n")
    with pytest.raises(
        DeviceError, match=r"benchmark_model: failed with exit code 1 \(ERROR: Failed to read the model"
    ):
        drive_stock(program, model)
    assert phone.files == []


def test_a_binary_that_tells_nothing(phones: Fleet, tmp_path: Path, model: Path) -> None:
    phone = phones.add()
    with pytest.raises(DeviceError, match="does not tell how long the model takes"):
        drive_stock(binary(tmp_path, "benchmark_model", "echo hello\n"), model)
    assert phone.files == []


def test_another_binary(tmp_path: Path, model: Path) -> None:
    with pytest.raises(UserError, match=r"unknown stock binary 'benchmark_modell'\. Did you mean 'benchmark_model'"):
        drive_stock(binary(tmp_path, "benchmark_modell", ""), model)
