"""Build the native runners for a platform into one folder: programs, the libraries they need, and a manifest.

Needs CMake 3.19, a compiler for the platform, and for Android an NDK. `devices/runners/android/README.md` has the same
in commands.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform as machine
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from devices.android import runner_sources as sources
from devices.android.bounded import run_logged
from devices.android.elf import read_elf
from devices.android.runner_files import (
    MANIFEST,
    RUNTIMES,
    Runner,
    RunnerManifest,
    RuntimeName,
    runner_files,
    runners_root,
)
from devices.android.runner_sources import ExecuTorchSource, OnnxRuntimeSource, find_program
from toolkit.errors import DeviceError, UserError, unknown_name
from toolkit.files import atomic_directory, sha256, write_atomic
from toolkit.progress import track
from toolkit.schema import validate_json

SOURCES = Path(__file__).parents[1] / "runners" / "android"
PROTOCOL = 1
ANDROID_API = 26
CMAKE_VERSION = (3, 19)

CONFIGURE_TIMEOUT_S = 300.0
BUILD_TIMEOUT_S = 1800.0

#: What every device of a platform has; a library beyond these must lie beside the runner.
LINUX_LIBRARIES = r"ld-linux-.*|lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+)\.so\.\d+"
ANDROID_LIBRARIES = r"lib(c|m|dl|log|android)\.so"


@dataclass(frozen=True)
class Platform:
    """`abi` is what its devices call themselves, `machine` the processor in the headers of its programs."""

    name: str
    abi: str
    machine: str
    system: str
    executorch: Callable[[], ExecuTorchSource] | None
    onnxruntime: Callable[[], OnnxRuntimeSource]


HOST = machine.machine()

PLATFORMS = {
    known.name: known
    for known in (
        Platform(
            "host",
            f"{HOST}-linux",
            HOST,
            LINUX_LIBRARIES,
            sources.executorch_package,
            sources.onnxruntime_package,
        ),
        Platform(
            "linux-arm64",
            "aarch64-linux",
            "aarch64",
            LINUX_LIBRARIES,
            sources.executorch_arm64,
            sources.onnxruntime_arm64,
        ),
        Platform("android-arm64", "arm64-v8a", "aarch64", ANDROID_LIBRARIES, None, sources.onnxruntime_android),
    )
}


def build_runners(
    platform: str,
    output: Path | None = None,
    *,
    ndk: Path | None = None,
    executorch: Path | None = None,
    onnxruntime: Path | None = None,
    runtimes: Sequence[RuntimeName] = RUNTIMES,
) -> list[Path]:
    """Build the runners of `runtimes` for `platform` into `output`, and give the programs' paths in that order.

    `platform` is `host`, `linux-arm64` or `android-arm64`; `output` is by default where `installed_runner` looks. It is
    replaced as a whole or not at all; a runner of another runtime that stands there is kept. `ndk` is an unpacked NDK
    (default: ANDROID_NDK_HOME), `executorch` the install of a source build (Android needs one), `onnxruntime` an
    unpacked Android archive or release of ONNX Runtime.
    Raises `UserError` where something to build with is missing, `DeviceError` where fetching or building fails.
    """
    target = PLATFORMS.get(platform)
    if target is None:
        raise unknown_name("platform", platform, PLATFORMS)
    for name in runtimes:
        if name not in RUNTIMES:
            raise unknown_name("runtime", name, RUNTIMES)
    if not runtimes:
        raise UserError(f"{platform}: no runtime was named; known: {', '.join(RUNTIMES)}")
    definitions = _toolchain(target, ndk)
    cmake = _cmake()
    output = output or runners_root() / platform
    _check_output(output)
    with track(f"runners for {platform}", 4) as progress:
        progress.update(0, "runtimes")
        torch, onnx = _sources(target, executorch, onnxruntime, runtimes)
        with tempfile.TemporaryDirectory() as build, atomic_directory(output) as folder:
            log = sources.cache() / f"build-{platform}-{hashlib.sha256(str(output).encode()).hexdigest()[:8]}.log"
            log.unlink(missing_ok=True)
            progress.update(1, "configure")
            arguments = [*definitions, *_definitions(torch, onnx)]
            command: list[str | Path] = [cmake, "-S", SOURCES, "-B", build, "-DCMAKE_BUILD_TYPE=Release", *arguments]
            run_logged(command, f"{platform}: the build could not be set up", CONFIGURE_TIMEOUT_S, log)
            progress.update(2, "compile")
            command = [cmake, "--build", build, "--parallel", str(os.cpu_count() or 1)]
            run_logged(command, f"{platform}: the runners could not be built", BUILD_TIMEOUT_S, log)
            progress.update(3, "gather")
            names = _gather(target, Path(build), folder, torch, onnx, _kept(output, folder, target, runtimes))
        progress.update(4, "done")
    return [output / names[name] for name in runtimes]


def _cmake() -> str:
    cmake = find_program("cmake")
    if cmake is None:
        raise UserError("cmake: not found; install CMake 3.19 or newer (`pip install cmake` will do)")
    told = subprocess.run([cmake, "--version"], capture_output=True, text=True, timeout=60).stdout
    found = re.search(r"version (\d+)\.(\d+)", told)
    if found is None or (int(found[1]), int(found[2])) < CMAKE_VERSION:
        raise UserError(f"{cmake}: is older than CMake 3.19; `pip install cmake` brings a newer one")
    return cmake


def _toolchain(target: Platform, ndk: Path | None) -> list[str]:
    """How CMake is told of the platform's compiler; raises `UserError` where there is none."""
    ninja = find_program("ninja")
    definitions = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    if target.name == "android-arm64":
        return [*definitions, *_ndk(ndk)]
    if sys.platform != "linux":
        raise UserError(f"{target.name}: is built under Linux only; android-arm64 is built here too")
    if target.name == "linux-arm64":
        if find_program("aarch64-linux-gnu-g++") is None:
            raise UserError("aarch64-linux-gnu-g++: not found; install Debian's g++-aarch64-linux-gnu")
        return [*definitions, f"-DCMAKE_TOOLCHAIN_FILE={SOURCES / 'linux-arm64.cmake'}"]
    if not any(find_program(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        raise UserError("c++: no C++ compiler was found; install g++ or clang, or name one in CXX")
    return definitions


def _ndk(ndk: Path | None) -> list[str]:
    named = ndk or next(
        (Path(os.environ[key]) for key in ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT") if key in os.environ), None
    )
    if named is None:
        raise UserError("android-arm64: needs Android's NDK; unpack one and name it with --ndk or ANDROID_NDK_HOME")
    file = named / "build" / "cmake" / "android.toolchain.cmake"
    if not file.is_file():
        raise UserError(f"{named}: no NDK (build/cmake/android.toolchain.cmake is missing); name the unpacked folder")
    settings = {"CMAKE_TOOLCHAIN_FILE": file, "ANDROID_ABI": "arm64-v8a", "ANDROID_PLATFORM": f"android-{ANDROID_API}"}
    return [f"-D{key}={value}" for key, value in {**settings, "ANDROID_STL": "c++_static"}.items()]


def _check_output(output: Path) -> None:
    """A folder of runners may be replaced; nothing else may."""
    if output.is_dir() and any(output.iterdir()) and not (output / MANIFEST).is_file():
        raise UserError(f"{output}: holds other files, which would be replaced; name a new folder")


def _sources(
    target: Platform, executorch: Path | None, onnxruntime: Path | None, runtimes: Sequence[RuntimeName]
) -> tuple[ExecuTorchSource | None, OnnxRuntimeSource | None]:
    torch, onnx = None, None
    if "executorch" in runtimes:
        if executorch is not None:
            torch = sources.executorch_install(executorch)
        elif target.executorch is not None:
            torch = target.executorch()
        else:
            raise UserError(
                f"{target.name}: ExecuTorch for it is built from source; name its install with --executorch "
                "(devices/runners/android/README.md has the commands), or build only --runtime onnxruntime"
            )
    if "onnxruntime" in runtimes:
        onnx = sources.onnxruntime_folder(onnxruntime) if onnxruntime is not None else target.onnxruntime()
    return torch, onnx


def _definitions(torch: ExecuTorchSource | None, onnx: OnnxRuntimeSource | None) -> list[str]:
    switch = {True: "ON", False: "OFF"}
    found = [f"-DHANDHELD_EXECUTORCH={switch[bool(torch)]}", f"-DHANDHELD_ONNXRUNTIME={switch[bool(onnx)]}"]
    if torch is not None:
        found.append(f"-DCMAKE_PREFIX_PATH={torch.prefix.resolve()}")
    if onnx is not None:
        found.append(f"-DONNXRUNTIME_INCLUDE={onnx.include.resolve()}")
        found.append(f"-DONNXRUNTIME_LIBRARY={onnx.library.resolve()}")
    return found


def _kept(output: Path, folder: Path, target: Platform, built: Sequence[RuntimeName]) -> dict[RuntimeName, Runner]:
    """Copy from `output` what is not built anew, where it is whole and for the same platform."""
    kept: dict[RuntimeName, Runner] = {}
    with contextlib.suppress(UserError):  # a damaged manifest: then nothing is
        found = validate_json(RunnerManifest, output / MANIFEST) if (output / MANIFEST).is_file() else None
        if found is None or found.platform != target.name or found.protocol != PROTOCOL:
            return kept
        for name in set(found.runners) - set(built):
            with contextlib.suppress(UserError):  # a changed file: then this runner is not
                for path in runner_files(output / found.runners[name].program):
                    shutil.copy2(path, folder)
                kept[name] = found.runners[name]
    return kept


def _gather(
    target: Platform,
    build: Path,
    folder: Path,
    torch: ExecuTorchSource | None,
    onnx: OnnxRuntimeSource | None,
    kept: dict[RuntimeName, Runner],
) -> dict[RuntimeName, str]:
    """Copy programs and libraries into `folder`, write the manifest, and give the programs' names."""
    runners = dict(kept)
    if torch is not None:
        known = {path.name: path for place in torch.libraries for path in place.glob("*.so*")}
        runners["executorch"] = _copy(target, build / "executorch-runner", folder, known, torch)
    if onnx is not None:
        known = {read_elf(onnx.library).name or onnx.library.name: onnx.library}
        runners["onnxruntime"] = _copy(target, build / "onnxruntime-runner", folder, known, onnx)
    hashes = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    manifest = RunnerManifest(platform=target.name, abi=target.abi, protocol=PROTOCOL, runners=runners, sha256=hashes)
    write_atomic(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    return {name: runner.program for name, runner in runners.items()}


def _copy(
    target: Platform, program: Path, folder: Path, known: dict[str, Path], source: ExecuTorchSource | OnnxRuntimeSource
) -> Runner:
    """Copy a program and, by name, all libraries that it and they need and the platform does not have."""
    shutil.copy2(program, folder)
    libraries: dict[str, Path] = {}
    left = [program]
    while left:
        path = left.pop()
        described = read_elf(path)
        if described.machine != target.machine:
            raise UserError(f"{path}: is for {described.machine}, and {target.name} needs {target.machine}")
        for name in described.needed:
            if name in libraries or re.fullmatch(target.system, name):
                continue
            if name not in known:
                raise DeviceError(f"{path}: needs {name}, which is neither beside it nor part of {target.name}")
            libraries[name] = known[name]
            left.append(known[name])
    for name, path in libraries.items():
        shutil.copyfile(path, folder / name)
    return Runner(program=program.name, libraries=sorted(libraries), version=source.version, source=source.source)
