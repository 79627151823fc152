"""`handheld evaluate`: a run's student and its teacher, side by side on held-out clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.output import command_line, console, print_json, print_table
from toolkit.cli.runs import find_run
from toolkit.errors import UserError


def evaluate(
    run: Annotated[Path, typer.Argument(help="A finished run directory, or asset:NAME for an embedded one.")],
    data: Annotated[
        Path | None,
        typer.Option(help="A video file, a .tar shard, a folder of them, or a pattern (default: the run's own)."),
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames of one clip (default: the recipe's).")] = None,
    size: Annotated[
        str | None, typer.Option(help="HxW: crop frames to their centre, for example 256x256 (default: the recipe's).")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Where the files go (default: RUN/evaluation).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print evaluation.json.")] = False,
) -> None:
    """Compare a run's student with its teacher on held-out clips: PSNR, SSIM, temporal PSNR, and LPIPS."""
    from recipes.side_by_side import FOLDER, evaluate_run
    from toolkit.side_by_side import table, title

    found, home = find_run(run)
    folder = output or home / FOLDER
    result = evaluate_run(
        found, data=data, frames=frames, size=_parse_size(size), output=folder, command=command_line()
    )
    if as_json:
        print_json(json.loads(result.model_dump_json()))
        return
    columns, rows = table(result)
    print_table(title(result), columns, rows)
    if result.lpips_left_out is not None:
        console.print(result.lpips_left_out, soft_wrap=True, highlight=False, markup=False)
    console.print(f"evaluation: {folder}", soft_wrap=True, highlight=False, markup=False)


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and part.isascii() and int(part) > 0 for part in parts):
        raise UserError(f"--size {text}: expected HEIGHTxWIDTH in pixels, for example 256x256")
    return int(parts[0]), int(parts[1])
