"""Native runners on this machine: where they lie, for which processors, and whether they are as they were built."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from platformdirs import user_data_path

from toolkit.errors import UserError
from toolkit.files import sha256
from toolkit.schema import StrictModel, validate_json

MANIFEST = "runners.json"

RuntimeName = Literal["executorch", "onnxruntime"]
RUNTIMES: tuple[RuntimeName, ...] = ("executorch", "onnxruntime")


class Runner(StrictModel):
    """One program and the shared libraries that must lie beside it.

    `version` is the runtime's release, None where its files do not tell; `source`, where they came from.
    """

    program: str
    libraries: list[str]
    version: str | None
    source: str


class RunnerManifest(StrictModel):
    """What stands in a folder of runners. `abi` is what the device calls itself; `sha256` is by file name."""

    platform: str
    abi: str
    protocol: int
    runners: dict[RuntimeName, Runner]
    sha256: dict[str, str]


def runners_root() -> Path:
    """The folder that holds a folder of runners for each platform."""
    return user_data_path("handheld") / "runners"


def installed_runner(abi: str, runtime: RuntimeName, root: Path | None = None) -> Path | None:
    """The runner of `runtime` for devices that call themselves `abi` (`arm64-v8a` is Android's); None without one.

    Raises `UserError` where a manifest is damaged.
    """
    for manifest in sorted((root or runners_root()).glob(f"*/{MANIFEST}")):
        found = validate_json(RunnerManifest, manifest)
        if found.abi == abi and runtime in found.runners:
            return manifest.parent / found.runners[runtime].program
    return None


def runner_files(program: Path) -> list[Path]:
    """What must be on a device to run `program`: itself, then its libraries, all into one folder.

    Raises `UserError` where one is missing or is not what was built.
    """
    manifest = validate_json(RunnerManifest, program.parent / MANIFEST)
    runner = next((runner for runner in manifest.runners.values() if runner.program == program.name), None)
    if runner is None:
        raise UserError(f"{program}: {MANIFEST} beside it does not know it; build the runners anew")
    files = [program.parent / name for name in (runner.program, *runner.libraries)]
    for path in files:
        if not path.is_file() or sha256(path) != manifest.sha256.get(path.name):
            raise UserError(f"{path}: is missing or not what was built; build the runners for {manifest.platform} anew")
    return files
