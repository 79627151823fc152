"""Where the runtimes come from that runners are built with: Python packages, an Android archive, or the user's folder.

What is fetched is kept in the cache and fetched once.
"""

from __future__ import annotations

import importlib.util
import io
import re
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from platformdirs import user_cache_path

from devices.android.bounded import run_logged
from toolkit.errors import DeviceError, UserError
from toolkit.files import sha256

#: Of ONNX Runtime for 64-bit Arm under Linux: the newest that also runs under qemu's user mode (1.32 does not).
ONNXRUNTIME_ARM64 = "1.26.0"

#: An npm package with the Android archive (AAR) of ONNX Runtime in it: a library for Android, and the headers, which no
#: Python package has. The hash is that of the archive.
AAR_PACKAGE = "com.github.asus4.onnxruntime@0.4.9"
AAR_SHA256 = "98cddbac92640b4a6af72a03c42e0491851f366d3da66bbaeb5dd66310946cf2"

AAR_LIBRARY = "jni/arm64-v8a/libonnxruntime.so"
HEADER = "onnxruntime_c_api.h"
FETCH_TIMEOUT_S = 900.0


@dataclass(frozen=True)
class ExecuTorchSource:
    """`prefix` is what CMake searches, `libraries` the folders of shared libraries that must go with a runner."""

    prefix: Path
    libraries: list[Path]
    version: str | None
    source: str


@dataclass(frozen=True)
class OnnxRuntimeSource:
    """The folder of `onnxruntime_c_api.h`, and the shared library."""

    include: Path
    library: Path
    version: str | None
    source: str


def find_program(name: str) -> str | None:
    """A program on PATH, or one that a Python package brought (`pip install cmake ninja`)."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


def cache() -> Path:
    return user_cache_path("handheld") / "runners"


def executorch_package() -> ExecuTorchSource:
    """The ExecuTorch that is installed here."""
    prefix = _package("executorch")
    release = version("executorch")
    return ExecuTorchSource(prefix, [prefix / "lib"], release, f"the Python package executorch {release}")


def executorch_arm64() -> ExecuTorchSource:
    """The same release for 64-bit Arm under Linux."""
    release = version("executorch")
    folder = _wheel("executorch", release, ["executorch/lib/", "executorch/include/", "executorch/share/"])
    prefix = folder / "executorch"
    return ExecuTorchSource(prefix, [prefix / "lib"], release, f"the Python package executorch {release}")


def executorch_install(prefix: Path) -> ExecuTorchSource:
    """A user's: the install of a source build, or an unpacked package. Raises `UserError` where it is neither."""
    places = [prefix / place for place in ("lib/cmake/executorch", "lib/cmake/ExecuTorch", "share/cmake")]
    config = next((place for place in places if (place / "executorch-config.cmake").is_file()), None)
    if config is None:
        raise UserError(
            f"{prefix}: no install of ExecuTorch (executorch-config.cmake is missing); "
            "name the folder that its `cmake --install` wrote"
        )
    file = config / "executorch-config-version.cmake"
    told = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    release = re.search(r'set\((?:EXECUTORCH_BUILD_VERSION|PACKAGE_VERSION) "([0-9.]+)', told)
    return ExecuTorchSource(prefix, [prefix / "lib"], release[1] if release else None, str(prefix))


def onnxruntime_package() -> OnnxRuntimeSource:
    """The ONNX Runtime that is installed here, with headers from elsewhere: the interface is the same."""
    release = version("onnxruntime")
    library = _only(_package("onnxruntime") / "capi", "libonnxruntime.so.*", "onnxruntime")
    return OnnxRuntimeSource(_aar() / "headers", library, release, f"the Python package onnxruntime {release}")


def onnxruntime_arm64() -> OnnxRuntimeSource:
    """ONNX Runtime for 64-bit Arm under Linux."""
    folder = _wheel("onnxruntime", ONNXRUNTIME_ARM64, ["onnxruntime/capi/libonnxruntime.so"])
    library = _only(folder / "onnxruntime" / "capi", "libonnxruntime.so.*", "onnxruntime")
    source = f"the Python package onnxruntime {ONNXRUNTIME_ARM64}"
    return OnnxRuntimeSource(_aar() / "headers", library, ONNXRUNTIME_ARM64, source)


def onnxruntime_android() -> OnnxRuntimeSource:
    """ONNX Runtime for Android, out of the npm package."""
    folder = _aar()
    library = folder / AAR_LIBRARY
    return OnnxRuntimeSource(folder / "headers", library, release_in(library), f"the npm package {AAR_PACKAGE}")


def onnxruntime_folder(folder: Path) -> OnnxRuntimeSource:
    """A user's: an unpacked Android archive, or a release with `include` and `lib`.

    Raises `UserError` where header or library is missing.
    """
    include = next(
        (path.parent for path in _search(folder, ["headers", "include", "include/onnxruntime"], HEADER)), None
    )
    library = next(iter(_search(folder, ["jni/arm64-v8a", "lib"], "libonnxruntime.so*")), None)
    if include is None or library is None:
        missing = HEADER if include is None else "libonnxruntime.so"
        raise UserError(
            f"{folder}: holds no {missing}; name an unpacked onnxruntime-android archive (headers, jni/arm64-v8a) "
            "or a release of ONNX Runtime (include, lib)"
        )
    return OnnxRuntimeSource(include, library, release_in(library), str(folder))


def release_in(library: Path) -> str | None:
    """ONNX Runtime names the version of its symbols after its release; None where it does not."""
    found = re.search(rb"\0VERS_([0-9]+\.[0-9]+\.[0-9]+)\0", library.read_bytes())
    return found[1].decode() if found else None


def _search(folder: Path, places: Iterable[str], pattern: str) -> list[Path]:
    return [path for place in (*places, ".") for path in sorted((folder / place).glob(pattern))]


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{name}: the Python package is not installed; `pip install {name}`")
    return Path(spec.submodule_search_locations[0])


def _only(folder: Path, pattern: str, package: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise UserError(
            f"{folder}: holds no {pattern}: this release of {package} has no library of its own; install another"
        )
    return found[0]


def _wheel(name: str, release: str, members: list[str]) -> Path:
    """The cached folder of a package for 64-bit Arm under Linux, with what begins like one of `members`."""
    folder = cache() / f"{name}-{release}-linux-aarch64"
    if folder.is_dir():
        return folder
    tag = f"{sys.version_info.major}{sys.version_info.minor}"
    platforms = [f"manylinux{kind}_aarch64" for kind in ("_2_28", "_2_27", "_2_17", "2014")]
    with tempfile.TemporaryDirectory() as downloads:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", downloads]
        command += [word for kind in platforms for word in ("--platform", kind)]
        command += ["--python-version", tag, "--implementation", "cp", "--abi", f"cp{tag}", f"{name}=={release}"]
        run_logged(command, f"{name} {release} for Linux on Arm", FETCH_TIMEOUT_S, cache() / "fetch.log")
        wheel = next(Path(downloads).glob("*.whl"), None)
        if wheel is None:
            raise DeviceError(f"{name} {release} for Linux on Arm: pip downloaded no wheel")
        unpack(wheel, folder, members)
    return folder


def _aar() -> Path:
    """The cached folder of the Android archive: its headers and its library for 64-bit Arm."""
    folder = cache() / f"onnxruntime-android-{AAR_SHA256[:12]}"
    if folder.is_dir():
        return folder
    npm = find_program("npm")
    if npm is None:
        raise UserError(
            "npm: not found, and ONNX Runtime's headers come from an npm package; install npm, "
            "or name an unpacked onnxruntime-android archive with --onnxruntime"
        )
    with tempfile.TemporaryDirectory() as downloads:
        command = [npm, "pack", AAR_PACKAGE, "--silent", "--pack-destination", downloads]
        run_logged(command, f"ONNX Runtime's headers ({AAR_PACKAGE})", FETCH_TIMEOUT_S, cache() / "fetch.log")
        archive = Path(downloads) / "onnxruntime.aar"
        try:
            with tarfile.open(next(Path(downloads).glob("*.tgz"))) as package, archive.open("wb") as file:
                member = package.extractfile("package/Plugins/Android/onnxruntime.aar")
                shutil.copyfileobj(member or io.BytesIO(), file)
        except (KeyError, StopIteration, tarfile.TarError) as error:
            raise DeviceError(f"{AAR_PACKAGE}: holds no Android archive; name one with --onnxruntime") from error
        if sha256(archive) != AAR_SHA256:
            raise DeviceError(f"{AAR_PACKAGE}: its Android archive is not the one that is known here; it was not used")
        unpack(archive, folder, ["headers/", AAR_LIBRARY])
    return folder


def unpack(archive: Path, folder: Path, members: list[str]) -> None:
    """Write what begins like one of `members` into `folder`, which is there whole or not at all.

    One that another process made meanwhile is left alone: it may be in use. Raises `UserError` where `archive` is no
    zip file.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            zipfile.ZipFile(archive) as opened,
            tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary,
        ):
            whole = Path(temporary) / "whole"
            for name in opened.namelist():
                if name.startswith(tuple(members)):
                    opened.extract(name, whole)
            try:
                whole.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    except zipfile.BadZipFile as error:
        raise UserError(f"{archive}: no archive; download it again") from error
