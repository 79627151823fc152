"""`handheld devices`: what can be measured, and the programs that measure on it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from toolkit.cli.output import console, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devices.android.runner_files import RuntimeName

app = typer.Typer(help="List devices; build what runs on them.", invoke_without_command=True)


@app.callback()
def devices(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the devices that `handheld profile --device NAME` takes."""
    if context.invoked_subcommand is not None:
        return
    from devices.listing import list_devices

    found = list_devices()
    if as_json:
        print_json([asdict(device) for device in found])
        return
    rows = [[d.name, d.model, d.system, d.state, d.remedy] for d in found]
    print_table("devices", ["--device", "model", "system", "state", "to use it"], rows, words=5)


@app.command("build-runner")
def build_runner(
    platform: Annotated[str, typer.Option(help="android-arm64, linux-arm64 or host.")] = "android-arm64",
    ndk: Annotated[Path | None, typer.Option(help="An unpacked Android NDK (default: ANDROID_NDK_HOME).")] = None,
    executorch: Annotated[Path | None, typer.Option(help="Where a source build of ExecuTorch was installed.")] = None,
    onnxruntime: Annotated[Path | None, typer.Option(help="An unpacked release or AAR of ONNX Runtime.")] = None,
    runtime: Annotated[list[str] | None, typer.Option(help="executorch or onnxruntime; default: both.")] = None,
    output: Annotated[Path | None, typer.Option(help="Default: where `handheld profile` looks for them.")] = None,
) -> None:
    """Build the programs that run artifacts on Android phones."""
    from devices.android.runner_build import build_runners
    from devices.android.runner_files import RUNTIMES

    programs = build_runners(
        platform,
        output,
        ndk=ndk,
        executorch=executorch,
        onnxruntime=onnxruntime,
        runtimes=cast("Sequence[RuntimeName]", runtime or RUNTIMES),  # which it checks
    )
    for program in programs:
        console.print(f"runner: {program}", soft_wrap=True, highlight=False, markup=False)
