"""`handheld report`: one self-contained page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.output import console


def report(
    sources: Annotated[list[Path], typer.Argument(help="Run directories, bundles, files of profile records.")],
    output: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
) -> None:
    """Draw quality, parity, latency and operators on one page that needs no network."""
    import devices

    devices.report(sources, output)
    console.print(f"report: {output}", soft_wrap=True)
