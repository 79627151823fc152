"""`handheld recipes`: list, show, copy and validate recipe files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.output import console, print_json, print_table
from toolkit.errors import UserError
from toolkit.files import write_atomic

app = typer.Typer(help="Recipes: list, show, copy, validate.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A catalogued recipe's name, or a file.")]


@app.command("list")
def list_recipes(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """The recipes that ship with Handheld."""
    from recipes import schema

    found = [schema.load_recipe(path) for path in schema.catalog().values()]
    if as_json:
        print_json([{"name": r.name, "description": r.description, "steps": r.total_steps} for r in found])
        return
    print_table(
        "recipes", ["name", "steps", "description"], [[r.name, f"{r.total_steps:,}", r.description] for r in found]
    )


@app.command()
def show(name: Name) -> None:
    """Print a recipe."""
    from recipes import schema

    print(schema.find_recipe(name).read_text(encoding="utf-8"), end="")


@app.command()
def copy(name: Name, destination: Annotated[Path, typer.Argument(help="The file to write.")]) -> None:
    """Copy a recipe, to change it."""
    from recipes import schema

    source = schema.find_recipe(name)
    if destination.exists():
        raise UserError(f"{destination}: exists; name another file")
    write_atomic(destination, source.read_bytes())
    console.print(f"{destination}: change it, then `handheld distill {destination}`", markup=False)


@app.command()
def validate(
    file: Name,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="KEY.SUBKEY=VALUE, as for distill.")] = None,
) -> None:
    """Check a recipe file and say what is wrong with it."""
    from recipes import schema
    from toolkit import students

    recipe = schema.load_recipe(file, overrides)
    if not isinstance(recipe.student, schema.AutoencoderSpec):
        students.build(recipe.student.kind, recipe.student.preset, recipe.student.overrides)
    console.print(f"{file}: a valid recipe of {recipe.total_steps:,} steps", markup=False)
