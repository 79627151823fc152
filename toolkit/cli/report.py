"""`handheld report`: one self-contained page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.output import console
from toolkit.errors import UserError


def report(
    sources: Annotated[
        list[Path] | None, typer.Argument(help="Run directories, bundles, .json and .db files of profiles.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="URL of a profile store: its sessions about the bundles named, else all.")
    ] = None,
    output: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
) -> None:
    """Draw quality, parity, latency, operators and history on one page that needs no network."""
    import devices

    if not sources and store is None:
        raise UserError("report: nothing to report on; name run directories, bundles, profiles, or a --store")
    devices.report(sources or [], output, store)
    console.print(f"report: {output}", soft_wrap=True, markup=False)
