"""`handheld encode`: the teacher's latents of training clips, once, for trainings to come."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.one_voice import one_voice
from toolkit.cli.output import console, print_json


def encode(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or a catalogued recipe's name.")],
    clips: Annotated[int, typer.Option(min=1, help="How many training clips to encode.")],
    output: Annotated[Path, typer.Option(help="The folder to write.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is missing.")] = False,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Set a field: trainer.workers=4.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Encode training clips by a recipe's teacher, once, to train from."""
    import recipes
    from toolkit.files import size_bytes

    with one_voice():
        manifest = recipes.encode(recipes.load_recipe(recipe, overrides), output, clips, resume=resume)
    total = size_bytes(output)
    if as_json:
        print_json({"folder": str(output), "bytes": total, "manifest": manifest.model_dump(by_alias=True)})
        return
    console.print(f"{output}: {clips:,} encoded clips, {total / 1e6:,.1f} MB", markup=False)
    console.print(
        f"handheld distill {recipe} --set 'data.train={{kind: latents, path: {output}}}'",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
