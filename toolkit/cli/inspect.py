"""`handheld inspect`: what stands between a model and its targets, or what a bundle's artifacts consist of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from toolkit.cli.output import console, print_json, print_table
from toolkit.cli.runs import find_run
from toolkit.errors import UserError

if TYPE_CHECKING:
    from export.inspection import ArtifactFacts, Inspection, Obstacle
    from toolkit.latents import LatentStatistics

PREFIXES = ["", "k", "M", "G", "T"]


def inspect(
    path: Annotated[
        Path | None,
        typer.Argument(help="A run directory (asset:NAME for an embedded one) or a bundle.", metavar="[RUN|BUNDLE]"),
    ] = None,
    module: Annotated[
        str | None, typer.Option(help="PKG.MOD:FACTORY, which returns (module, example inputs). Runs its code.")
    ] = None,
    targets: Annotated[
        list[str] | None, typer.Option("--target", help="A named preset; may be given several times (default: all).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say, per target, what will not run and what leaves the accelerator, before any training or export."""
    if (path is None) == (module is None):
        raise UserError("name one thing to inspect: a run directory, a bundle, or --module PKG.MOD:FACTORY")
    path = None if path is None else find_run(path)[0]
    from export import inspection, sources
    from toolkit.bundle import MANIFEST, read_manifest

    if path is not None and (path / MANIFEST).is_file():
        artifacts = inspection.inspect_bundle(path, targets or ())
        if as_json:
            print_json([artifact.model_dump(mode="json") for artifact in artifacts])
        else:
            print_artifact_facts(str(path), artifacts)
            manifest = read_manifest(path)
            if manifest.model.task == "video-decoder":
                print_latents(manifest.latent_statistics, manifest.normalized_latents)
        return
    if path is not None and not (path / "recipe.yaml").is_file():
        raise UserError(f"{path}: neither a run directory nor a bundle; name one, or --module PKG.MOD:FACTORY")
    source = sources.from_run(path) if path is not None else sources.from_module(module or "")
    found = inspection.inspect_module(source.module, source.inputs, targets or (), source.name)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        print_inspection(found)
        if source.task == "video-decoder":
            print_latents(source.latent_statistics)
    refusal = found.refusal()
    if refusal is not None:
        raise refusal


def print_inspection(found: Inspection) -> None:
    """The obstacles, if any, what to do about them, one row a target, and the estimates."""
    if found.obstacles:
        print_obstacles(found.obstacles)
    columns = ["target", "obstacles", "delegated (planned)", "outside the delegate (planned)", "note"]
    rows = [
        [
            plan.target,
            str(plan.obstacles),
            _share(plan.delegated_share, plan.delegates),
            ", ".join(f"{row.operator} x{row.count}" for row in plan.outside) or "–",
            escape(plan.note) or "–",
        ]
        for plan in found.targets
    ]
    print_table(escape(f"{found.model}, inputs {', '.join(map(str, found.inputs))}"), columns, rows, words=len(columns))
    if found.estimates is not None:
        macs, peak = scaled(found.estimates.macs, "MACs"), scaled(found.estimates.peak_activation_bytes, "B")
        figures = f"{found.estimates.params:,} parameters, {macs}, peak activations {peak}"
        console.print(f"estimated from shapes: {figures}", highlight=False, soft_wrap=True)


def print_obstacles(obstacles: Sequence[Obstacle]) -> None:
    """One row an obstacle, and under the table each remedy once."""
    columns = ["operator", "layer", "on", "line", "target", "reason"]
    rows = []
    for obstacle in obstacles:
        shapes = " ".join(str(shape) for shape in obstacle.shapes) or "–"
        targets = "all" if len(obstacle.targets) > 1 else obstacle.targets[0]
        line = _short(obstacle.source)
        row = [obstacle.operator, obstacle.layer, shapes, line, targets, obstacle.reason]
        rows.append([escape(cell) for cell in row])
    print_table(f"obstacles: {len(obstacles)}", columns, rows, words=len(columns))
    for remedy in dict.fromkeys(obstacle.remedy for obstacle in obstacles if obstacle.remedy):
        console.print(f"remedy: {remedy}", highlight=False, soft_wrap=True, markup=False)


def print_artifact_facts(title: str, artifacts: Sequence[ArtifactFacts]) -> None:
    """One row an artifact."""
    columns = [
        "target",
        "mode",
        "rank",
        "delegated\n(planned)",
        "outside\n(planned)",
        "parameters",
        "MACs\n(estimated)",
        "peak activations\n(estimated)",
        "parity",
    ]
    rows = []
    for artifact in artifacts:
        figures, share = artifact.estimates, artifact.parity.share
        verdict = "pass" if artifact.parity.passed else "FAIL"
        rows.append(
            [
                artifact.target,
                artifact.mode,
                str(artifact.max_rank),
                _share(artifact.delegated_share, artifact.delegates),
                ", ".join(f"{name} x{count}" for name, count in artifact.outside.items()) or "–",
                f"{figures.params:,}",
                scaled(figures.macs, ""),
                scaled(figures.peak_activation_bytes, "B"),
                f"{verdict} {'–' if share is None else f'{share:.1e}'}, {artifact.parity.how}",
            ]
        )
    print_table(title, columns, rows)


def print_latents(statistics: LatentStatistics | None, normalized: bool = False) -> None:
    """What an app does to a diffusion model's output before it decodes."""
    from toolkit.latents import undoing

    console.print(f"latents: {undoing(statistics, normalized)}", highlight=False, soft_wrap=True, markup=False)


def _share(share: float | None, delegates: int | None) -> str:
    return "–" if share is None else f"{share:.1%} in {delegates}"


def _short(source: str) -> str:
    """`"/folder/file.py", line 3, in forward` as `file.py:3`."""
    found = re.match(r'"(.*)", line (\d+)', source)
    return f"{Path(found[1]).name}:{found[2]}" if found else source or "–"


def scaled(figure: int | None, unit: str) -> str:
    """A large number with four digits and a prefix: 1234567 bytes as `1.235 MB`."""
    if figure is None:
        return "unknown"
    power = min((len(str(figure)) - 1) // 3, len(PREFIXES) - 1)
    return f"{figure / 1000**power:.4g} {PREFIXES[power]}{unit}".rstrip()
