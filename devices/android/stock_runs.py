"""Drive a binary that others ship on an Android device, for comparison with our own runners."""

from __future__ import annotations

import contextlib
import io
import shlex
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from devices.android import adb, stock
from devices.android.adb import Phone, Result
from devices.android.files import Depot
from devices.android.locks import locked
from devices.android.stock import StockResult
from toolkit.errors import DeviceError, unknown_name

RUN_S = 900.0
WARMUPS = 3


def drive_stock(
    program: Path,
    model: Path,
    *,
    which: str | None = None,
    runs: int = 20,
    threads: int = 4,
    libraries: Sequence[Path] = (),
) -> StockResult:
    """Copy a binary, its `libraries` and a model to a phone, run it `runs` times, and give its figures.

    The binary is known by its file's name: `executor_runner`, `onnxruntime_perf_test` or `benchmark_model`. `which` is
    what follows the colon in `android:WHICH`. Everything copied is deleted at the end. Raises `UserError` for another
    binary and for a phone's name that does not fit, `DeviceError` where the binary fails or tells no figures, and where
    the phone is being measured already.
    """
    if program.name not in DRIVERS:
        raise unknown_name("stock binary", program.name, DRIVERS)
    phone = Phone(adb.choose(adb.attached(), which).serial)
    depot = Depot(phone, f"stock-{uuid.uuid4().hex[:12]}")
    with locked(phone):
        try:
            folder = depot.place([program, *libraries], mode=0o700)
            place = f"{depot.place([model])}/{model.name}"
            return DRIVERS[program.name](phone, depot, f"{folder}/{program.name}", place, runs, threads)
        finally:
            with contextlib.suppress(DeviceError):
                depot.clean()


def _executor_runner(phone: Phone, depot: Depot, program: str, model: str, runs: int, threads: int) -> StockResult:
    """On Android it writes to the system's log."""
    phone.run(shlex.join(stock.EMPTY_LOG))
    done = _run(phone, stock.executor_runner_command(program, model, runs, threads))
    log = phone.run(shlex.join(stock.READ_LOG))
    return _read(program, done, lambda text: stock.read_executor_runner(f"{log}{text}"))


def _perf_test(phone: Phone, depot: Depot, program: str, model: str, runs: int, threads: int) -> StockResult:
    path, content = depot.scratch("times.csv"), io.BytesIO()
    done = _run(phone, stock.perf_test_command(program, model, path, runs, threads))
    if done.code == 0:
        phone.pull(path, content)
    times = content.getvalue().decode(errors="replace")
    return _read(program, done, lambda text: stock.read_perf_test(text, times))


def _benchmark_model(phone: Phone, depot: Depot, program: str, model: str, runs: int, threads: int) -> StockResult:
    done = _run(phone, stock.benchmark_model_command(program, model, runs, WARMUPS, threads))
    return _read(program, done, stock.read_benchmark_model)


def _run(phone: Phone, command: Sequence[str]) -> Result:
    """The binary takes the shell's place, so that the signal of a connection that closes reaches it."""
    folder = command[0].rpartition("/")[0]
    return phone.shell(f"export LD_LIBRARY_PATH={folder}; exec {shlex.join(command)}", RUN_S)


def _read(program: str, done: Result, read: Callable[[str], StockResult]) -> StockResult:
    """What it printed, wherever to; an exit code other than 0 makes its figures worthless."""
    name = program.rpartition("/")[2]
    if done.code:
        lines = [line.strip() for line in (done.err or done.out).splitlines() if line.strip()]
        raise DeviceError(f"{name}: failed with exit code {done.code} ({lines[-1][:200] if lines else 'no message'})")
    return read(f"{done.out}\n{done.err}")


Driver = Callable[[Phone, Depot, str, str, int, int], StockResult]

#: By the binary's name.
DRIVERS: dict[str, Driver] = {
    stock.EXECUTOR_RUNNER: _executor_runner,
    stock.PERF_TEST: _perf_test,
    stock.BENCHMARK_MODEL: _benchmark_model,
}
