"""The runtimes of this host behind one interface: load an artifact, call it, ask it for its operators' times."""

from __future__ import annotations

import io
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
from onnxruntime.capi import onnxruntime_pybind11_state

from devices.records import OperatorTime
from toolkit import reference
from toolkit.errors import DeviceError
from toolkit.quiet import native_stderr_hidden

OPERATOR_RUNS = 5


class Runtime(Protocol):
    """One loaded artifact. Calling it runs it once on the arrays it was loaded with, as they then are."""

    name: str

    def __call__(self) -> list[np.ndarray]: ...
    def operators(self) -> list[OperatorTime]: ...


def import_runtime(kind: str) -> None:
    """Import what a runtime needs ahead of timing: an app links its runtime, it does not import it."""
    if kind == "executorch":
        with native_stderr_hidden():
            from executorch.extension.pybindings import portable_lib  # noqa: F401
    elif kind in ("onnx", "ort"):
        import onnxruntime  # noqa: F401
    else:
        import torch

        buffer = io.BytesIO()  # the first load of any program imports hundreds of modules
        torch.export.save(torch.export.export(torch.nn.Identity(), (torch.zeros(1),)), buffer)
        buffer.seek(0)
        torch.export.load(buffer).module()


class OnnxRuntime:
    """A session of ONNX Runtime's CPU provider."""

    def __init__(
        self, path: Path, inputs: Sequence[np.ndarray], threads: int, profile_prefix: Path | None = None
    ) -> None:
        import onnxruntime

        self.name = f"ONNX Runtime {onnxruntime.__version__}"
        self._arguments = (path, inputs, threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        if profile_prefix is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile_prefix)
        # its workers would otherwise go on spinning into the next candidate's turn
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if _overflows():
            options.add_session_config_entry("session.x64quantprecision", "1")
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [value.name for value in self.session.get_inputs()]
        self._feed = dict(zip(names, inputs, strict=True))

    def __call__(self) -> list[np.ndarray]:
        return [np.asarray(output) for output in self.session.run(None, self._feed)]

    def operators(self) -> list[OperatorTime]:
        """Operator kinds by the profile of a second session, the first run left out."""
        with tempfile.TemporaryDirectory() as folder:
            profiled = OnnxRuntime(*self._arguments, profile_prefix=Path(folder) / "profile")
            for _ in range(OPERATOR_RUNS + 1):
                profiled()
            events = json.loads(Path(profiled.session.end_profiling()).read_text(encoding="utf-8"))
        return read_onnxruntime_profile(events)


@cache
def _overflows() -> bool:
    """Whether ONNX Runtime's fast 8-bit kernels overflow on this processor: x86 without VNNI, where Linux tells."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""
    return "avx2" in text and "vnni" not in text


class ExecuTorch:
    """A program in the ExecuTorch runtime, with its thread pool set to `threads`."""

    def __init__(self, path: Path, inputs: Sequence[np.ndarray], threads: int) -> None:
        import torch
        from executorch.extension.pybindings import portable_lib

        self.name = f"ExecuTorch {version('executorch')}"
        self._path = path
        with native_stderr_hidden():
            portable_lib._unsafe_reset_threadpool(threads)
            self._module = portable_lib._load_for_executorch(str(path))
        self._inputs = [torch.from_numpy(array) for array in inputs]

    def __call__(self) -> list[np.ndarray]:
        return [np.asarray(output.numpy()) for output in self._module.run_method("forward", self._inputs)]

    def operators(self) -> list[OperatorTime]:
        """Delegate steps and kernels by ETDump, the first run left out."""
        from executorch.extension.pybindings import portable_lib

        with tempfile.TemporaryDirectory() as folder, native_stderr_hidden():
            dump = Path(folder) / "etdump.etdp"
            module = portable_lib._load_for_executorch(str(self._path), enable_etdump=True)
            for _ in range(OPERATOR_RUNS + 1):
                module.run_method("forward", self._inputs)
            module.write_etdump_result_to_file(str(dump), str(Path(folder) / "debug.bin"))
            if not dump.is_file():
                raise DeviceError("ExecuTorch wrote no ETDump: this build has no event tracer; use executorch 1.5.1")
            return read_etdump(dump)


class PyTorch:
    """The bundle's `reference.pt2` in eager PyTorch."""

    def __init__(self, path: Path, inputs: Sequence[np.ndarray], threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.name = f"PyTorch {torch.__version__}"
        self._torch = torch
        self._module = reference.load(path)
        self._inputs = [torch.from_numpy(array) for array in inputs]

    def __call__(self) -> list[np.ndarray]:
        with self._torch.no_grad():
            outputs = self._module(*self._inputs)
        outputs = [outputs] if isinstance(outputs, self._torch.Tensor) else outputs
        return [np.asarray(output.numpy()) for output in outputs]

    def operators(self) -> list[OperatorTime]:
        """Kernels by torch's own profiler."""
        from torch.profiler import ProfilerActivity, profile

        with native_stderr_hidden(), profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(OPERATOR_RUNS):
                self()
        rows = [
            OperatorTime(
                name=event.key,
                kind=event.key,
                unit="CPU",
                ms=event.self_cpu_time_total / 1e3 / OPERATOR_RUNS,
                calls=event.count // OPERATOR_RUNS,
                obtained="measured",
            )
            for event in profiler.key_averages()
        ]
        return _slowest(rows)


Loader = Callable[[Path, Sequence[np.ndarray], int], Runtime]

#: What the runtimes raise when they cannot load or run an artifact; ONNX Runtime's own have no base in common.
RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    OSError,
    IndexError,
    MemoryError,
    *(
        found
        for found in vars(onnxruntime_pybind11_state).values()
        if isinstance(found, type) and issubclass(found, Exception)
    ),
)

#: ExecuTorch's delegates that not every build has, by the target's second word: the back end, and where to run it.
BACKENDS = {
    "coreml": ("CoreMLBackend", "profile it on an iPhone or a Mac"),
    "vulkan": ("VulkanBackend", "profile it on an Android device"),
}

#: Which runtime runs a target on the host, by the target's first word. PyTorch runs `reference`.
RUNTIMES: dict[str, Loader] = {
    "onnx": OnnxRuntime,
    "ort": OnnxRuntime,
    "executorch": ExecuTorch,
    "reference": PyTorch,
}


def check_backend(path: Path, target: str) -> None:
    """Raise `DeviceError` where the artifact's delegate is none of this host's ExecuTorch."""
    first, *rest = target.split("-")
    if first != "executorch" or not rest or rest[0] not in BACKENDS:
        return
    from executorch.runtime import Runtime as Registered

    backend, remedy = BACKENDS[rest[0]]
    with native_stderr_hidden():
        available = Registered.get().backend_registry.is_available(backend)
    if not available:
        raise DeviceError(f"{path}: {target} is not runnable here: this host's ExecuTorch has no {backend}; {remedy}")


@contextmanager
def runtime_failures(path: Path, kind: str) -> Iterator[None]:
    """What the runtime `kind` raises in here about the artifact `path` becomes a `DeviceError` of one line."""
    try:
        yield
    except RUNTIME_ERRORS as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DeviceError(f"{path}: {kind} could not run it ({reason})") from error


def read_onnxruntime_profile(events: list[dict[str, object]]) -> list[OperatorTime]:
    """Mean ms an inference by operator kind, from the events of an ONNX Runtime profile; its first run is dropped."""
    runs = [e for e in events if e.get("cat") == "Session" and e.get("name") == "model_run"]
    first_end = min((_number(e["ts"]) + _number(e["dur"]) for e in runs), default=0.0)
    counted = max(1, len(runs) - 1)
    total: defaultdict[tuple[str, str], float] = defaultdict(float)
    calls: defaultdict[tuple[str, str], int] = defaultdict(int)
    for event in events:
        if event.get("cat") != "Node" or not str(event.get("name")).endswith("_kernel_time"):
            continue
        if len(runs) > 1 and _number(event["ts"]) < first_end:
            continue
        arguments = event["args"]
        assert isinstance(arguments, dict)
        key = (str(arguments["op_name"]), str(arguments.get("provider", "")).removesuffix("ExecutionProvider"))
        total[key] += _number(event["dur"]) / 1e3
        calls[key] += 1
    rows = [
        OperatorTime(
            name=kind, kind=kind, unit=unit, ms=ms / counted, calls=calls[kind, unit] // counted, obtained="measured"
        )
        for (kind, unit), ms in total.items()
    ]
    return _slowest(rows)


def read_etdump(path: Path) -> list[OperatorTime]:
    """Mean ms an inference by kind of step, from an ETDump file."""
    from executorch.devtools import Inspector

    inspector = Inspector(etdump_path=str(path))
    events = [
        (event.name, [float(ms) for ms in event.perf_data.raw])
        for block in inspector.event_blocks
        if block.name == "Execute"
        for event in block.events
        if event.perf_data is not None
    ]
    return read_etdump_events(events)


def read_etdump_events(events: list[tuple[str, list[float]]]) -> list[OperatorTime]:
    """Mean ms an inference by kind of step, from ETDump's events; each event's first run is dropped.

    XNNPACK names a step like "Convolution (NHWC, F32) IGEMM #1"; steps of one kind are added up.
    """
    wholes = {"Method::execute", "DELEGATE_CALL", "OPERATOR_CALL"}
    total: defaultdict[str, float] = defaultdict(float)
    calls: defaultdict[str, int] = defaultdict(int)
    for name, raw in events:
        if name in wholes or not raw:
            continue
        counted = raw[1:] or raw
        kind = name.split(" #")[0]
        total[kind] += sum(counted) / len(counted)
        calls[kind] += 1
    rows = [
        OperatorTime(
            name=kind,
            kind=kind,
            unit="portable CPU" if kind.startswith("native_call") else "XNNPACK",
            ms=ms,
            calls=calls[kind],
            obtained="measured",
        )
        for kind, ms in total.items()
    ]
    return _slowest(rows)


def _slowest(rows: list[OperatorTime]) -> list[OperatorTime]:
    return sorted(rows, key=lambda row: -row.ms)


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)
