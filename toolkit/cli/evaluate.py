"""`handheld evaluate`: a run's student and its teacher, side by side on held-out clips or pairs of images."""

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
        str | None,
        typer.Option(
            help="Videos: a file, a .tar shard, a folder of them, or a pattern. Optical flow: motorcycle, or "
            "LAYOUT:FOLDER[:VARIANT], for example sintel:/data/Sintel:final (default: the run's own)."
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Of videos: frames of one clip (default: the recipe's).")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="Of videos: HxW, to crop frames to their centre, as 256x256 (default: the recipe's)."),
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(min=1, help="Of optical flow: at most so many pairs, evenly spread (default: all).")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Where the files go (default: RUN/evaluation).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print evaluation.json.")] = False,
) -> None:
    """Compare a run's student with its teacher on held-out data, clip by clip or pair by pair."""
    from recipes.evaluation_folder import FOLDER
    from recipes.flow_schema import CompactFlowSpec
    from recipes.rundir import read_recipe

    found, home = find_run(run)
    folder = output or home / FOLDER
    if isinstance(read_recipe(found).student, CompactFlowSpec):
        if frames is not None or size is not None:
            raise UserError(f"{run}: a run of optical flow; --frames and --size are for videos, --pairs is for flow")
        _evaluate_flow(found, data, pairs, folder, as_json)
    else:
        if pairs is not None:
            raise UserError(f"{run}: a run of videos; --pairs is for optical flow, --frames and --size are for videos")
        _evaluate_video(found, data, frames, _parse_size(size), folder, as_json)
    if not as_json:
        console.print(f"evaluation: {folder}", soft_wrap=True, highlight=False, markup=False)


def _evaluate_video(
    run: Path, data: str | None, frames: int | None, size: tuple[int, int] | None, folder: Path, as_json: bool
) -> None:
    from recipes.side_by_side import evaluate_run
    from toolkit.side_by_side import table, title

    videos = None if data is None else Path(data)
    result = evaluate_run(run, data=videos, frames=frames, size=size, output=folder, command=command_line())
    if as_json:
        print_json(json.loads(result.model_dump_json()))
        return
    print_table(title(result), *table(result))
    if result.lpips_left_out is not None:
        console.print(result.lpips_left_out, soft_wrap=True, highlight=False, markup=False)


def _evaluate_flow(run: Path, data: str | None, pairs: int | None, folder: Path, as_json: bool) -> None:
    from recipes.flow_side_by_side import evaluate_flow
    from toolkit.flow_side_by_side import tables, title

    result = evaluate_flow(run, data=data, pairs=pairs, output=folder, command=command_line())
    if as_json:
        print_json(json.loads(result.model_dump_json()))
        return
    errors, shares = tables(result)
    print_table(title(result), *errors)
    print_table("", *shares)
    for line in result.left_out:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and part.isascii() and int(part) > 0 for part in parts):
        raise UserError(f"--size {text}: expected HEIGHTxWIDTH in pixels, for example 256x256")
    return int(parts[0]), int(parts[1])
