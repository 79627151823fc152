"""Binaries that others ship for timing models on a phone: how each is called, and what its output says.

They are driven for comparison with our own runners, which prove their output and settle the clocks; these do not.
Every reader takes the whole text that a binary printed and raises `DeviceError` where the figures are not all there.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from toolkit.errors import DeviceError

EXECUTOR_RUNNER = "executor_runner"
PERF_TEST = "onnxruntime_perf_test"
BENCHMARK_MODEL = "benchmark_model"

#: On Android `executor_runner` prints nothing: its log is read with the second, after the first has emptied it.
EMPTY_LOG = ("logcat", "-c")
READ_LOG = ("logcat", "-d", "-s", "ExecuTorch:I")

#: ExecuTorch cuts a message there, in the midst of a number if need be.
LOG_MESSAGE_BYTES = 256

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_QUOTED = 200


@dataclass(frozen=True)
class Delegation:
    """How many of a graph's nodes a delegate took over."""

    delegate: str | None
    nodes: int
    of: int


@dataclass(frozen=True)
class StockResult:
    """What a binary told, in milliseconds and bytes; None or empty where it did not tell.

    `iterations_ms` holds every timed run, or nothing. `spread_ms` holds `min`, `max` and percentiles by the name `p50`.
    `errors` are differences from expected outputs by ExecuTorch's names, `passed` whether it found them within bounds.
    """

    binary: str
    runs: int
    mean_ms: float
    load_ms: float | None = None
    first_ms: float | None = None
    warmup_ms: float | None = None
    iterations_ms: list[float] = field(default_factory=list)
    spread_ms: dict[str, float] = field(default_factory=dict)
    peak_bytes: int | None = None
    delegations: list[Delegation] = field(default_factory=list)
    errors: dict[str, float] = field(default_factory=dict)
    passed: bool | None = None


def executor_runner_command(
    program: str,
    model: str,
    runs: int,
    threads: int,
    inputs: Sequence[str] = (),
    output: str | None = None,
    trace: str | None = None,
) -> list[str]:
    """Run a `.pte` `runs` times; without `inputs`, raw files, on ones. `output` begins the names of output files."""
    command = [program, f"--model_path={model}", f"--num_executions={runs}", f"--cpu_threads={threads}"]
    if inputs:
        command.append(f"--inputs={','.join(inputs)}")
    if output is not None:
        command.append(f"--output_file={output}")
    if trace is not None:
        command.append(f"--etdump_path={trace}")
    return [*command, "--print_output=none"]


def perf_test_command(
    program: str, model: str, result: str, runs: int, threads: int, provider: str = "cpu", profile: str | None = None
) -> list[str]:
    """Run a `.onnx` `runs` times on inputs that it makes up, and write each run's time to `result`."""
    command = [program, "-e", provider, "-m", "times", "-r", str(runs), "-x", str(threads), "-I", "-s", "-Z"]
    if profile is not None:
        command += ["-p", profile]
    return [*command, model, result]


def benchmark_model_command(
    program: str, model: str, runs: int, warmups: int, threads: int, delegate: str = "xnnpack"
) -> list[str]:
    """Run a `.tflite` at least `runs` times after `warmups`, on the processor (`none`, `xnnpack`) or the `gpu`."""
    switches = [f"--use_{name}={str(delegate == name).lower()}" for name in ("xnnpack", "gpu")]
    counts = [f"--num_runs={runs}", f"--warmup_runs={warmups}", f"--num_threads={threads}"]
    return [program, f"--graph={model}", *counts, *switches]


def read_executor_runner(text: str) -> StockResult:
    """Read ExecuTorch's log, as `logcat` or a terminal has it; of several runs in it, the last."""
    lines = _from_last(text.splitlines(), r"Model loaded in ")
    joined = "\n".join(lines)
    done = re.findall(rf"Model executed successfully (\d+) time\(s\) in ({_NUMBER}) ms\.", joined)
    if not done or int(done[-1][0]) == 0:
        _unreadable(EXECUTOR_RUNNER, text)
    runs, total = int(done[-1][0]), float(done[-1][1])
    times = [float(time) for time in re.findall(rf"Iteration \d+ of \d+: ({_NUMBER}) ms", joined)]
    verdicts = re.findall(r"TEST: BundleIO index\[\d+\] Test_result: (\w+)", joined)
    return StockResult(
        EXECUTOR_RUNNER,
        runs=runs,
        mean_ms=total / runs,
        load_ms=_last_number(rf"Model loaded in ({_NUMBER}) ms", joined),
        iterations_ms=times if len(times) == runs else [],  # older releases print none; a full log drops some
        errors=_error_stats(lines),
        passed=all(verdict == "PASS" for verdict in verdicts) if verdicts else None,
    )


def _error_stats(lines: list[str]) -> dict[str, float]:
    """The differences it found; one that a cut may have shortened is left out."""
    found: dict[str, float] = {}
    pattern = re.compile(rf"((?:mean|max)_(?:absolute|relative)_error)\s*[:=]?\s*({_NUMBER}|-?nan|-?inf)")
    for line in lines:
        message = _message(line)
        cut = len(message.encode()) >= LOG_MESSAGE_BYTES - 1
        for match in pattern.finditer(message):
            if not (cut and match.end() == len(message)):
                found[match[1]] = float(match[2])
    return found


def _message(line: str) -> str:
    """A line of the log without what the system puts before the message."""
    prefixes = (
        r"^[A-Z] \d\d:\d\d:\d\d\.\d+ executorch:[^\]]*\] ",  # a terminal's
        r"^[\d-]+ [\d:.]+ +\d+ +\d+ [VDIWEF] ExecuTorch *: ",  # logcat's with time and thread
        r"^[VDIWEF]/ExecuTorch *(?:\( *\d+\))?: ",  # logcat's brief one
    )
    for prefix in prefixes:
        match = re.match(prefix, line)
        if match:
            return line[match.end() :]
    return line


def read_perf_test(text: str, result: str | None = None) -> StockResult:
    """Read what ONNX Runtime's tool printed, in the spelling of any of its releases, and its `result` file if given."""
    averages = rf"Average (?:inference )?time cost(?: total)?\s*:\s*({_NUMBER})\s*ms"
    mean = _last_number(averages, text)
    runs = _last_number(r"Total (?:inference requests|iterations)\s*:\s*(\d+)", text)
    if mean is None or not runs:
        _unreadable(PERF_TEST, text)
    load = _last_number(rf"Session creation time cost\s*:\s*({_NUMBER})\s*s", text)
    spread = re.findall(rf"(Min|Max|P\d+) Latency\s*(?::|is)\s*({_NUMBER})\s*s(?:ec)?\b", text)
    peak = _last_number(r"Peak working set size\s*:\s*(\d+)\s*bytes", text)
    times = read_perf_test_file(result) if result is not None else []
    return StockResult(
        PERF_TEST,
        runs=int(runs),
        mean_ms=mean,
        load_ms=None if load is None else load * 1e3,
        first_ms=_last_number(rf"First inference time cost\s*:\s*({_NUMBER})\s*ms", text),
        iterations_ms=times if len(times) == runs else [],
        spread_ms={name.lower(): float(seconds) * 1e3 for name, seconds in spread},
        peak_bytes=None if peak is None else int(peak),
    )


def read_perf_test_file(text: str) -> list[float]:
    """Milliseconds of each run in a result file: `model,seconds,peak,cpu,run`.

    Newer releases put the seconds until the run was submitted before those until it ended.
    """
    rows = [line.split(",") for line in text.splitlines() if line.strip()]
    widths = {_figures(row) for row in rows}
    if len(widths) != 1 or not widths <= {4, 5}:  # a last line that was cut is narrower
        _unreadable(PERF_TEST, text)
    return [float(row[-4]) * 1e3 for row in rows]


def _figures(row: list[str]) -> int:
    """How many columns at the end of a row are figures, before a model's name, which may hold commas; at most 5."""
    figures = itertools.takewhile(lambda column: re.fullmatch(rf"\s*{_NUMBER}\s*%?\s*", column), reversed(row[1:]))
    return min(5, len(list(figures)))


def read_benchmark_model(text: str) -> StockResult:
    """Read what LiteRT's tool printed. Its figures are microseconds, large ones as `1.24e+06`."""
    summary = re.findall(r"(?<!Average )Inference timings in us: (.*Inference \(avg\): .+)", text)
    older = re.findall(r"Average inference timings in us: (.*no stats: .+)", text)
    statistics = re.findall(
        rf"^(?!.*\((?:microseconds|bytes)\)).*?\bcount=(\d+)((?:\s+\w+={_NUMBER})+)", text, re.MULTILINE
    )
    if not (summary or older) or not statistics:
        _unreadable(BENCHMARK_MODEL, text)
    # of the warm-up and the timed runs the last; a table of operators has statistics of its own, with their unit
    count, told = int(statistics[-1][0]), _milliseconds(statistics[-1][1], rf"(\w+)=({_NUMBER})")
    whole = _milliseconds((summary or older)[-1], rf"([A-Za-z][\w ()]*?): ({_NUMBER})(?=,|\s|$)")
    # the statistics have more digits, but name no mean where all runs took as long
    mean = next((told[key] for key in ("avg", "curr") if key in told), None)
    if mean is None or count == 0:
        _unreadable(BENCHMARK_MODEL, text)
    spread = {key.replace("median", "p50"): told[key] for key in ("min", "max", "p5", "median", "p95") if key in told}
    return StockResult(
        BENCHMARK_MODEL,
        runs=count,
        mean_ms=mean,
        load_ms=whole.get("Init"),
        first_ms=whole.get("First inference"),
        warmup_ms=whole.get("Warmup (avg)", whole.get("Warmup")),
        spread_ms=spread,
        delegations=_delegations(text),
    )


def _delegations(text: str) -> list[Delegation]:
    pattern = r"Replacing (\d+) out of (\d+) node\(s\) with delegate(?: \(([^)]+)\))?"
    return [Delegation(name or None, int(nodes), int(of)) for nodes, of, name in re.findall(pattern, text)]


def _milliseconds(text: str, pattern: str) -> dict[str, float]:
    """Values by name, from microseconds."""
    return {name: float(value) / 1e3 for name, value in re.findall(pattern, text)}


def _last_number(pattern: str, text: str) -> float | None:
    found = re.findall(pattern, text)
    return float(found[-1]) if found else None


def _from_last(lines: list[str], pattern: str) -> list[str]:
    """The lines from the last one that matches; all of them where none does."""
    starts = [number for number, line in enumerate(lines) if re.search(pattern, line)]
    return lines[starts[-1] :] if starts else lines


def _unreadable(binary: str, text: str) -> NoReturn:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = f"its last line was '{lines[-1][:_QUOTED]}'" if lines else "it printed nothing"
    raise DeviceError(f"{binary}: its output does not tell how long the model takes; {last}")
