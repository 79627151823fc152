"""The memory pass: `python -m devices.memory RUNTIME ARTIFACT SAMPLE THREADS INPUT...` in a process of its own.

Prints one JSON line. The peak is taken after the runtime was imported and the input read, so that it speaks of the
model: on Linux the high-water mark is reset at that point; elsewhere the process's own peak is all there is.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from devices.records import Memory
from toolkit.children import ChildFailed, command_of, last_line
from toolkit.errors import DeviceError
from toolkit.sample import read_arrays

RUNS = 2
TIMEOUT_S = 300


def measure(runtime: str, artifact: Path, sample: Path, inputs: Sequence[str], threads: int) -> Memory:
    """Peak memory of loading and running `artifact` on the arrays of `sample` called `inputs`.

    Raises `DeviceError` if the child fails.
    """
    command = [*command_of("devices.memory"), runtime, str(artifact), str(sample), str(threads), *inputs]
    return of_command(command, artifact)


def of_command(command: Sequence[str], artifact: Path) -> Memory:
    """The memory that a child tells of `artifact` in its last line; raises `DeviceError` where the child fails."""
    try:
        return Memory.model_validate_json(last_line(command, TIMEOUT_S))
    except ChildFailed as error:
        raise DeviceError(f"{artifact}: the memory pass {error}") from error


def main(runtime: str, artifact: str, sample: str, threads: str, *inputs: str) -> None:
    from devices.host_runtimes import RUNTIMES, import_runtime

    import_runtime(runtime)
    arrays = read_arrays(Path(sample))
    given = [arrays[name] for name in inputs]

    def load_and_run() -> None:
        loaded = RUNTIMES[runtime](Path(artifact), given, int(threads))
        for _ in range(RUNS):
            loaded()

    print(peak_of(load_and_run).model_dump_json())


def peak_of(work: Callable[[], object]) -> Memory:
    """The peak of this process while `work` is done, and what was resident before it."""
    reset = _reset_peak()
    baseline = _status_bytes("VmRSS") if reset else _peak_of_process()
    work()
    peak = _status_bytes("VmHWM") if reset else _peak_of_process()
    return Memory(baseline_bytes=baseline, peak_bytes=peak)


def _reset_peak() -> bool:
    """Set the high-water mark back to what is resident now; False where the system has no such thing."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status_bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def _peak_of_process() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
