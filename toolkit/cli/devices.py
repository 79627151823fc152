"""`handheld devices`: what can be measured, and the programs that measure on it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from toolkit.cli.output import print_json, print_table

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
