"""`handheld flow`: the optical flow of two images, or a video at twice its frame rate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.output import console, print_json
from toolkit.errors import UserError


def flow(
    first: Annotated[Path, typer.Argument(metavar="A", help="An image; with --interpolate, a video.")],
    second: Annotated[Path | None, typer.Argument(metavar="[B]", help="The image after it, of the same size.")] = None,
    *,
    model: Annotated[Path, typer.Option(help="A bundle of an optical-flow student.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A .png (colours) or .flo (numbers); a video: .mp4.")],
    interpolate: Annotated[bool, typer.Option("--interpolate", help="Double a video's frame rate.")] = False,
    target: Annotated[str | None, typer.Option(help="The artifact to run (default: the first ONNX one).")] = None,
    tiles: Annotated[
        bool | None,
        typer.Option(
            "--tiles/--no-tiles", help="Refine in tiles at full resolution (default: where images are large)."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run an optical-flow bundle: on two images, or to put a frame between every two of a video."""
    if interpolate and second is not None:
        raise UserError(f"{second}: --interpolate takes one video; leave the second file out")
    if not interpolate and second is None:
        raise UserError(f"{first}: flow is between two images; name the second one, or add --interpolate to a video")

    import devices

    if second is None:
        made = devices.interpolate(first, model, output, target, tiles)
        said = f"{made.frames:,} frames at {made.rate:.4g} a second"
    else:
        found = devices.flow(first, second, model, output, target, tiles)
        said = f"mean length {found.mean_length:.2f} px, longest {found.longest:.2f} px"
        said += f", full colour at {found.full_colour:.2f} px" if found.full_colour is not None else ""
    result = made if second is None else found
    if as_json:
        print_json({**asdict(result), "output": str(output)})
        return
    (height, width), (rows, columns) = result.size, result.computed_at
    resized = "" if result.size == result.computed_at else f", computed at {columns}x{rows} and scaled back"
    resized = f", in {result.tiles:,} tiles of {columns}x{rows}" if result.tiles else resized
    console.print(f"{output}: {width}x{height}, {said}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"by {result.target} in {result.runtime}{resized}", highlight=False, soft_wrap=True, markup=False)
