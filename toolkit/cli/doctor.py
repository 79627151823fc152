"""`handheld doctor`: what this machine can do, and how to get the rest."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.text import Text

from toolkit.cli.output import console, print_json, print_table
from toolkit.errors import CheckFailed
from toolkit.quiet import native_stderr_hidden


@dataclass(frozen=True)
class Finding:
    """One capability: whether it works here, what was seen, and the command that adds it."""

    capability: str
    works: bool
    seen: str
    remedy: str = ""
    required: bool = True


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Versions, which runtimes work, what is missing and the command that adds it."""
    findings = [check() for check in CHECKS] + _apple()
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        rows: list[list[str | Text]] = [
            [f.capability, _state(f), f.seen, "" if f.works else f.remedy] for f in findings
        ]
        print_table("this machine", ["capability", "state", "seen", "to get it"], rows)
    broken = [finding.capability for finding in findings if finding.required and not finding.works]
    if broken:
        raise CheckFailed(f"{', '.join(broken)}: not working; see the remedies above")
    if not as_json:
        console.print("everything that is required works")


def _state(finding: Finding) -> Text:
    if finding.works:
        return Text("works", "green")
    return Text("missing", "red") if finding.required else Text("not here", "yellow")


def _python() -> Finding:
    seen = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding("Python", (3, 11) <= sys.version_info[:2] <= (3, 13), seen, "use Python 3.11 to 3.13")


def _torch() -> Finding:
    import torch

    accelerator = "CUDA" if torch.cuda.is_available() else "CPU only"
    return Finding("PyTorch", True, f"{torch.__version__}, {accelerator}", "pip install torch")


def _onnxruntime() -> Finding:
    import onnxruntime

    providers = ", ".join(p.removesuffix("ExecutionProvider") for p in onnxruntime.get_available_providers())
    return Finding("ONNX Runtime", True, f"{onnxruntime.__version__}: {providers}", "pip install onnxruntime")


def _executorch() -> Finding:
    with native_stderr_hidden():
        from importlib.metadata import version

        from executorch.runtime import Runtime

        backends = [str(name) for name in Runtime.get().backend_registry.registered_backend_names]
    works = any("xnnpack" in name.lower() for name in backends)
    names = ", ".join(name.removesuffix("Backend") for name in backends)
    return Finding(
        "ExecuTorch with XNNPACK", works, f"{version('executorch')}: {names}", "pip install executorch==1.5.1"
    )


def _coremltools() -> Finding:
    from importlib.metadata import version

    import coremltools  # noqa: F401  (importing is the check)

    return Finding("Core ML conversion", True, version("coremltools"), "pip install coremltools")


def _coreml_execution() -> Finding:
    works = sys.platform == "darwin"
    seen = f"macOS {platform.mac_ver()[0]}" if works else "reference evaluation only"
    return Finding("Core ML execution", works, seen, "run `handheld verify` on a Mac", required=False)


def _adb() -> Finding:
    path = shutil.which("adb")
    return Finding(
        "adb (Android)", path is not None, path or "", "apt-get install adb, or Android platform-tools", False
    )


def _runners() -> Finding:
    """The programs that run artifacts on Android phones."""
    from devices.android.runner_files import RUNTIMES, installed_runner

    found = [runtime for runtime in RUNTIMES if installed_runner("arm64-v8a", runtime) is not None]
    remedy = "handheld devices build-runner --ndk PATH (docs/android.md)"
    return Finding("runners for Android phones", bool(found), ", ".join(found), remedy, required=False)


def _browser() -> Finding:
    """What the page for browsers needs."""
    from devices.browser import assets, profiler

    own, found, trouble = assets.named(), assets.cached(), profiler.problem()
    seen = str(own) if own is not None else "" if found is None else found.version
    return Finding("ONNX Runtime Web (browsers)", trouble is None, seen, trouble or "", required=False)


def _cache() -> Finding:
    """Where artifacts are kept for the next export of the same."""
    from export import cache

    place = cache.folder()
    seen = f"{place}: {cache.used_bytes() / 1e9:.1f} of {cache.most_bytes() / 1e9:g} GB; to clear it, delete the folder"
    remedy = f"unset {cache.FOLDER_VARIABLE}"
    return Finding("cache of artifacts", place is not None, seen if place else "off", remedy, required=False)


def _apple() -> list[Finding]:
    from devices.apple import profiler

    return [Finding(f.capability, f.works, f.seen, f.remedy, required=False) for f in profiler.findings()]


def _guarded(name: str, check: Callable[[], Finding], remedy: str, required: bool = True) -> Callable[[], Finding]:
    """A check whose import fails is a finding, not a crash."""

    def run() -> Finding:
        try:
            return check()
        except (ImportError, OSError, RuntimeError) as error:
            return Finding(name, False, " ".join(str(error).split())[:80], remedy, required)

    return run


CHECKS: list[Callable[[], Finding]] = [
    _python,
    _guarded("PyTorch", _torch, "pip install torch"),
    _guarded("ONNX Runtime", _onnxruntime, "pip install onnxruntime"),
    _guarded("ExecuTorch with XNNPACK", _executorch, "pip install executorch==1.5.1"),
    _guarded("Core ML conversion", _coremltools, "pip install coremltools==9.0"),
    _coreml_execution,
    _adb,
    _runners,
    _browser,
    _guarded("cache of artifacts", _cache, "name another folder with HANDHELD_CACHE", required=False),
]
