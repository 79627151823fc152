"""`handheld demo`: the whole way on the embedded default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.bundle import read_manifest
from toolkit.cli.distill import print_evaluation
from toolkit.cli.export import print_artifacts, print_parities, teacher_source
from toolkit.cli.output import command_line, console
from toolkit.cli.profile import print_records
from toolkit.errors import CheckFailed, DeviceError

RECIPE = "demo-turbo-vaed"
TARGETS = ["onnx-fp32", "executorch-xnnpack-fp32", "coreml-fp16"]
REPEATS = 3
ROUNDS = 5


def demo(
    output: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("demo"),
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Set a field of the recipe.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds of each of three repeats.")] = ROUNDS,
) -> None:
    """Distil, export, prove, measure and report, with the clip and the teacher that ship with Handheld."""
    import devices
    import export
    import recipes
    from devices import store
    from devices.live import live

    run, bundle, teacher = output / "run", output / "bundle", output / "teacher-bundle"
    _step(1, f"distil: recipe {RECIPE}")
    recipe = recipes.load_recipe(RECIPE, overrides)
    print_evaluation(recipes.distill(recipe, run, resume=run.exists()))
    _step(2, "export: the student to three targets, the teacher's decoder as a baseline")
    command = command_line()
    print_artifacts(export.export(export.from_run(run), TARGETS, bundle, command=command))
    print_artifacts(export.export(teacher_source(run), TARGETS[:1], teacher, command=command))
    _step(3, "verify: hashes, and parity once more from the files")
    results = export.verify(bundle)
    print_parities(str(bundle), read_manifest(bundle), results)
    if not all(parity.passed for parity in results.values()):
        raise CheckFailed(f"{bundle}: an artifact differs from PyTorch on this machine")
    _step(4, "profile: teacher and student on this host, interleaved")
    url = f"sqlite:///{output / 'profiles.db'}"
    with live() as watch:
        found = devices.profile(
            [bundle, teacher], iterations=rounds, repeats=REPEATS, store=url, resume=True, watch=watch
        )
    store.write_json(found, output / "profile.json")
    print_records(found.records)
    if found.troubles:
        raise DeviceError("; ".join(found.troubles))
    _step(5, "report")
    page = devices.report([run, bundle, teacher, output / "profile.json"], output / "report.html")
    console.print(f"report: {page.resolve()}", soft_wrap=True, highlight=False, markup=False)


def _step(number: int, text: str) -> None:
    console.print(f"\n[bold]{number}/5[/] {text}", highlight=False)
