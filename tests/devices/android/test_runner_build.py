"""Building native runners: what comes out, how it is found again, and what is told where something is missing."""

from __future__ import annotations

import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from devices.android import runner_sources
from devices.android.elf import read_elf
from devices.android.runner_build import ANDROID_LIBRARIES, HOST, LINUX_LIBRARIES, build_runners
from devices.android.runner_files import MANIFEST, installed_runner, runner_files, runners_root
from tests.devices.android.native import (
    TwoOfTwo,
    by_pytorch,
    read_outputs,
    talk,
    to_executorch,
    two_inputs,
    write_inputs,
)
from tests.devices.android.test_runner_files import write_manifest
from tests.programs import needs
from toolkit.errors import DeviceError, UserError
from toolkit.files import sha256

builds = [pytest.mark.slow, needs("cmake", "c++", "npm")]


@pytest.fixture
def no_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of programs; what a test puts there is all that is found."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    return folder


def add_program(folder: Path, name: str, script: str = "exit 0") -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


class TestWhatIsBuilt:
    pytestmark = builds

    def test_the_manifest_describes_each_file(self, host_runners: Path) -> None:
        manifest = json.loads((host_runners / MANIFEST).read_text())

        files = {path.name: sha256(path) for path in host_runners.iterdir() if path.name != MANIFEST}
        assert manifest["sha256"] == files
        assert manifest["platform"] == "host"
        assert manifest["abi"] == f"{HOST}-linux"
        assert re.fullmatch(r"1\.5\.\d+", manifest["runners"]["executorch"]["version"])
        assert re.fullmatch(r"1\.\d+\.\d+", manifest["runners"]["onnxruntime"]["version"])

    @pytest.mark.parametrize("runtime", ["executorch", "onnxruntime"])
    def test_all_that_a_program_needs_lies_beside_it(self, host_runners: Path, runtime: str) -> None:
        files = {path.name: path for path in runner_files(host_runners / f"{runtime}-runner")}

        needed = {name for path in files.values() for name in read_elf(path).needed}
        assert {name for name in needed if not re.fullmatch(LINUX_LIBRARIES, name)} == set(files) - {
            f"{runtime}-runner"
        }

    def test_a_build_goes_where_it_is_found_again(self) -> None:
        assert installed_runner(f"{HOST}-linux", "onnxruntime") is None

        (built,) = build_runners("host", runtimes=["onnxruntime"])

        assert built == runners_root() / "host" / "onnxruntime-runner"
        assert installed_runner(f"{HOST}-linux", "onnxruntime") == built
        assert installed_runner(f"{HOST}-linux", "executorch") is None

    def test_a_runner_of_another_runtime_is_kept_where_it_is_whole(self, tmp_path: Path) -> None:
        release = stand_in_release(tmp_path / "release")
        for name, changed in {"whole": "other", "changed": "libexecutorch.so", "damaged": MANIFEST}.items():
            folder = write_manifest(tmp_path / name, runtime="executorch", platform="host")
            (folder / changed).write_bytes(b"y")

            (built,) = build_runners("host", folder, onnxruntime=release, runtimes=["onnxruntime"])

            assert built.is_file()
            manifest = json.loads((folder / MANIFEST).read_text())
            assert set(manifest["runners"]) == ({"executorch", "onnxruntime"} if name == "whole" else {"onnxruntime"})
            assert set(manifest["sha256"]) == {path.name for path in folder.iterdir()} - {MANIFEST}

    def test_a_build_that_fails_leaves_what_was_there(self, tmp_path: Path) -> None:
        before = write_manifest(tmp_path / "runners")
        broken = tmp_path / "release"
        for folder in ("include", "lib"):
            (broken / folder).mkdir(parents=True)
        (broken / "include" / "onnxruntime_c_api.h").write_text("#error no such luck\n")
        (broken / "lib" / "libonnxruntime.so").write_bytes(b"no library")

        with pytest.raises(
            DeviceError, match=r"host: the runners could not be built: .*no such luck.*; its log is "
        ) as raised:
            build_runners("host", before, onnxruntime=broken, runtimes=["onnxruntime"])

        log = Path(str(raised.value).rsplit(" ", 1)[1])
        assert "no such luck" in log.read_text()
        assert len(runner_files(before / "onnxruntime-runner")) == 2
        assert {path.name for path in tmp_path.iterdir()} == {"runners", "release"}

    def test_the_install_of_a_source_build_is_linked_by_its_targets(self, tmp_path: Path) -> None:
        prefix = source_install(tmp_path / "install")
        inputs = two_inputs()
        model = to_executorch(TwoOfTwo(), inputs, tmp_path / "model.pte")

        (runner,) = build_runners("host", tmp_path / "runners", executorch=prefix, runtimes=["executorch"])

        told = talk([runner, model, *write_inputs(inputs, tmp_path)], "run 0", "outputs out", folder=tmp_path)
        assert told.events[0]["runtime"] == "ExecuTorch 1.5.7"
        traced = talk([runner, model, *write_inputs(inputs, tmp_path), "--trace"], folder=tmp_path)
        assert traced.last["stage"] == "trace"  # this install has no tracer
        assert "built without ExecuTorch's event tracer" in traced.last["message"]
        for output, expected in zip(read_outputs(told.last, tmp_path), by_pytorch(TwoOfTwo(), inputs), strict=True):
            np.testing.assert_allclose(output, expected, atol=1e-5)

    def test_the_android_library_of_onnx_runtime_needs_nothing_that_phones_lack(self) -> None:
        source = runner_sources.onnxruntime_android()

        described = read_elf(source.library)
        assert described.machine == "aarch64"
        assert all(re.fullmatch(ANDROID_LIBRARIES, name) for name in described.needed)
        assert source.version == "1.29.0"

    @needs("aarch64-linux-gnu-g++")
    def test_a_program_for_plain_linux_does_not_pass_for_one_for_android(self, tmp_path: Path) -> None:
        toolchain = tmp_path / "ndk" / "build" / "cmake" / "android.toolchain.cmake"
        toolchain.parent.mkdir(parents=True)
        wanted = 'ANDROID_ABI STREQUAL "arm64-v8a" AND ANDROID_PLATFORM STREQUAL "android-26"'
        toolchain.write_text(
            "set(CMAKE_SYSTEM_NAME Linux)\nset(CMAKE_SYSTEM_PROCESSOR aarch64)\n"
            "set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)\n"
            "list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES ANDROID_ABI ANDROID_PLATFORM)\n"
            f'if(NOT ({wanted}))\n  message(FATAL_ERROR "wrong settings")\nendif()\n'
        )
        source = runner_sources.onnxruntime_arm64()
        release = tmp_path / "release"
        shutil.copytree(source.include, release / "include")
        (release / "lib").mkdir()
        shutil.copy(source.library, release / "lib" / "libonnxruntime.so")

        with pytest.raises(
            DeviceError, match=r"needs lib.*\.so\.\d, which is neither beside it nor part of android-arm64"
        ):
            build_runners(
                "android-arm64",
                tmp_path / "runners",
                ndk=tmp_path / "ndk",
                onnxruntime=release,
                runtimes=["onnxruntime"],
            )

        assert not (tmp_path / "runners").exists()


def stand_in_release(folder: Path) -> Path:
    """A release of ONNX Runtime for this machine, as one unpacks it."""
    source = runner_sources.onnxruntime_package()
    shutil.copytree(source.include, folder / "include")
    (folder / "lib").mkdir()
    shutil.copy(source.library, folder / "lib" / "libonnxruntime.so")
    return folder


def source_install(prefix: Path) -> Path:
    """The targets of a source build without devtools when it is installed, around the Python package's libraries."""
    package = runner_sources.executorch_package().prefix
    shutil.copytree(package / "lib", prefix / "lib", ignore=shutil.ignore_patterns("cmake"))
    libraries = {
        "executorch": "libexecutorch",
        "extension_threadpool": "libexecutorch_threadpool",
        "optimized_native_cpu_ops_lib": "libexecutorch_kernels_optimized",
        "quantized_ops_lib": "libexecutorch_kernels_quantized",
        "xnnpack_backend": "libexecutorch_backend_xnnpack",
    }
    includes = f"{package}/include;{package}/include/executorch/runtime/core/portable_type/c10"
    text = ""
    for target, file in libraries.items():
        path = prefix / "lib" / f"{file}.so"
        properties = f'IMPORTED_LOCATION "{path}" INTERFACE_INCLUDE_DIRECTORIES "{includes}"'
        text += f"add_library({target} SHARED IMPORTED)\nset_target_properties({target} PROPERTIES {properties})\n"
    for target in ("extension_module_static", "extension_tensor", "extension_data_loader", "extension_flat_tensor"):
        text += f"add_library({target} INTERFACE IMPORTED)\n"
    config = prefix / "lib" / "cmake" / "ExecuTorch"
    config.mkdir(parents=True)
    (config / "executorch-config.cmake").write_text(text)
    (config / "executorch-config-version.cmake").write_text(
        'set(PACKAGE_VERSION "1.5.7")\nset(PACKAGE_VERSION_COMPATIBLE TRUE)\n'
    )
    return prefix


class TestWhatIsMissing:
    def test_an_unknown_platform_is_told_with_those_known(self) -> None:
        with pytest.raises(UserError, match=r"unknown platform 'android-arm'\. Did you mean 'android-arm64'\?"):
            build_runners("android-arm")

    def test_an_unknown_runtime_is_told_with_those_known(self) -> None:
        with pytest.raises(UserError, match=r"unknown runtime 'onnx'.*onnxruntime"):
            build_runners("host", runtimes=["onnx"])  # type: ignore[list-item]

    def test_no_runtime_is_told(self) -> None:
        with pytest.raises(UserError, match="host: no runtime was named"):
            build_runners("host", runtimes=[])

    def test_a_missing_ndk_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for key in ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT"):
            monkeypatch.delenv(key, raising=False)

        with pytest.raises(UserError, match="needs Android's NDK; unpack one and name it with --ndk"):
            build_runners("android-arm64")

    def test_a_folder_that_is_no_ndk_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path))

        with pytest.raises(UserError, match=rf"{tmp_path}: no NDK \(build/cmake/android.toolchain.cmake is missing\)"):
            build_runners("android-arm64")

    def test_android_without_executorch_is_told_with_what_to_do(self, tmp_path: Path, no_programs: Path) -> None:
        add_program(no_programs, "cmake", "echo cmake version 3.28.3")
        toolchain = tmp_path / "ndk" / "build" / "cmake" / "android.toolchain.cmake"
        toolchain.parent.mkdir(parents=True)
        toolchain.touch()

        with pytest.raises(UserError, match=r"android-arm64: ExecuTorch for it is built from source; .*--executorch"):
            build_runners("android-arm64", tmp_path / "runners", ndk=tmp_path / "ndk")

    def test_a_missing_compiler_is_told(self, no_programs: Path) -> None:
        with pytest.raises(UserError, match=r"aarch64-linux-gnu-g.+: not found; install Debian's g"):
            build_runners("linux-arm64")
        with pytest.raises(UserError, match=r"no C.+ compiler was found"):
            build_runners("host")

    def test_a_missing_or_old_cmake_is_told(self, no_programs: Path) -> None:
        add_program(no_programs, "c++")
        with pytest.raises(UserError, match=r"cmake: not found; install CMake 3\.19"):
            build_runners("host")

        add_program(no_programs, "cmake", "echo cmake version 3.18.4")
        with pytest.raises(UserError, match=r"cmake: is older than CMake 3\.19"):
            build_runners("host")

    def test_a_folder_that_holds_other_files_is_not_replaced(self, tmp_path: Path, no_programs: Path) -> None:
        add_program(no_programs, "c++")
        add_program(no_programs, "cmake", "echo cmake version 3.28.3")
        (tmp_path / "thesis.tex").touch()

        with pytest.raises(UserError, match="holds other files, which would be replaced"):
            build_runners("host", tmp_path)

        assert (tmp_path / "thesis.tex").is_file()

    def test_a_folder_without_executorch_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no install of ExecuTorch"):
            runner_sources.executorch_install(tmp_path)

    @pytest.mark.parametrize(
        ("files", "missing"),
        [
            (["jni/arm64-v8a/libonnxruntime.so"], "onnxruntime_c_api.h"),
            (["headers/onnxruntime_c_api.h"], "libonnxruntime.so"),
        ],
    )
    def test_a_folder_without_all_of_onnx_runtime_is_told(self, tmp_path: Path, files: list[str], missing: str) -> None:
        for name in files:
            (tmp_path / name).parent.mkdir(parents=True)
            (tmp_path / name).touch()

        with pytest.raises(UserError, match=f"holds no {missing}; name an unpacked onnxruntime-android archive"):
            runner_sources.onnxruntime_folder(tmp_path)

    @pytest.mark.parametrize(
        ("header", "library"),
        [
            ("headers/onnxruntime_c_api.h", "jni/arm64-v8a/libonnxruntime.so"),
            ("include/onnxruntime_c_api.h", "lib/libonnxruntime.so.1.26.0"),
            ("include/onnxruntime/onnxruntime_c_api.h", "lib/libonnxruntime.so"),
        ],
    )
    def test_archives_and_releases_of_onnx_runtime_are_understood(
        self, tmp_path: Path, header: str, library: str
    ) -> None:
        for name in (header, library):
            (tmp_path / name).parent.mkdir(parents=True)
            (tmp_path / name).write_bytes(b"..\0VERS_1.26.0\0..")

        source = runner_sources.onnxruntime_folder(tmp_path)

        assert source.include == (tmp_path / header).parent
        assert source.library == tmp_path / library
        assert source.version == "1.26.0"

    def test_without_npm_the_headers_are_asked_for(
        self, tmp_path: Path, no_programs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

        with pytest.raises(UserError, match=r"npm: not found.*--onnxruntime"):
            runner_sources.onnxruntime_android()

    def test_a_package_that_cannot_be_fetched_is_told_and_nothing_is_left(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for key, value in {"XDG_CACHE_HOME": str(tmp_path), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}.items():
            monkeypatch.setenv(key, value)

        with pytest.raises(
            DeviceError, match=r"executorch .* for Linux on Arm: .* failed \(ERROR: .*; its log is .*fetch\.log"
        ):
            runner_sources.executorch_arm64()

        assert [path.name for path in (tmp_path / "handheld" / "runners").iterdir()] == ["fetch.log"]

    def test_an_archive_that_was_cut_leaves_nothing(self, tmp_path: Path) -> None:
        archive = tmp_path / "archive.zip"
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr("headers/a.h", "x" * 1000)
        archive.write_bytes(archive.read_bytes()[:-50])

        with pytest.raises(UserError, match="no archive; download it again"):
            runner_sources.unpack(archive, tmp_path / "folder", ["headers/"])

        assert list(tmp_path.iterdir()) == [archive]

    def test_what_another_process_unpacked_meanwhile_is_kept(self, tmp_path: Path) -> None:
        archive = tmp_path / "archive.zip"
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr("headers/a.h", "new")
        (tmp_path / "folder" / "headers").mkdir(parents=True)
        (tmp_path / "folder" / "headers" / "a.h").write_text("in use")

        runner_sources.unpack(archive, tmp_path / "folder", ["headers/"])

        assert (tmp_path / "folder" / "headers" / "a.h").read_text() == "in use"
        assert len(list(tmp_path.iterdir())) == 2
