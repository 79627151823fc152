"""`handheld inspect`: what stands between a model and its targets, or what a bundle's artifacts consist of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli.output import console, print_json, print_table
from toolkit.cli.runs import find_run
from toolkit.errors import UserError
from toolkit.files import check_writable

if TYPE_CHECKING:
    from export.device_fit import DeviceEstimate
    from export.figures import ModelFigures
    from export.inspection import ArtifactFacts, Inspection, Obstacle, TargetPlan
    from export.sources import Source
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
    device: Annotated[
        list[str] | None,
        typer.Option(help="A catalogued device to estimate fit and latency on; may be given several times."),
    ] = None,
    graph: Annotated[Path | None, typer.Option(help="Write the annotated graph here, for Model Explorer.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say, per target, what will not run and what leaves the accelerator, before any training or export."""
    if (path is None) == (module is None):
        raise UserError("name one thing to inspect: a run directory, a bundle, or --module PKG.MOD:FACTORY")
    path = None if path is None else find_run(path)[0]
    from toolkit.bundle import MANIFEST

    if path is not None and (path / MANIFEST).is_file():
        if device or graph is not None:
            raise UserError(f"{path}: a bundle has no figures for --device or --graph; name its run, or --module")
        _inspect_bundle(path, targets or (), as_json)
        return
    if path is not None and not (path / "recipe.yaml").is_file():
        raise UserError(f"{path}: neither a run directory nor a bundle; name one, or --module PKG.MOD:FACTORY")
    if graph is not None:
        check_writable(graph)  # found out now, not after the planning
    from devices.catalog import catalogued_devices
    from export import inspection, sources
    from toolkit.device_facts import choose

    catalogued = choose(catalogued_devices(), device or ())
    source = sources.from_run(path) if path is not None else sources.from_module(module or "")
    found = inspection.inspect_module(source.module, source.inputs, targets or (), source.name, graph, catalogued)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _print_source(source, found, graph, every_target=bool(device))
    refusal = found.refusal()
    if refusal is not None:
        raise refusal


def _inspect_bundle(path: Path, targets: Sequence[str], as_json: bool) -> None:
    from export import inspection
    from toolkit.bundle import read_manifest

    artifacts = inspection.inspect_bundle(path, targets)
    if as_json:
        print_json([artifact.model_dump(mode="json") for artifact in artifacts])
        return
    print_artifact_facts(str(path), artifacts)
    manifest = read_manifest(path)
    if manifest.model.task == "video-decoder":
        print_latents(manifest.latent_statistics, manifest.normalized_latents)


def _print_source(source: Source, found: Inspection, graph: Path | None, every_target: bool) -> None:
    print_inspection(found)
    print_devices(found.devices, every_target)
    if source.task == "video-decoder":
        print_latents(source.latent_statistics)
    if graph is not None:
        print_graph(found, graph)


def print_inspection(found: Inspection) -> None:
    """The obstacles, if any, what to do about them, one row a target, and the model's figures."""
    if found.obstacles:
        print_obstacles(found.obstacles, [plan.target for plan in found.targets])
    columns = ["target", "obstacles", "on the accelerator (planned)", "leaves it (planned)", "note"]
    rows = [
        [
            plan.target,
            str(plan.obstacles),
            _placed(plan),
            ", ".join(f"{row.operator} x{row.count}" + ("" if row.certain else "?") for row in plan.outside) or "–",
            plan.note or "–",
        ]
        for plan in found.targets
    ]
    print_table(f"{found.model}, inputs {', '.join(map(str, found.inputs))}", columns, rows, words=len(columns))
    reasons = {
        f"{row.operator}{'' if row.certain else '?'}: {row.reason}, so it runs on the {row.unit}": None
        for plan in found.targets
        for row in plan.outside
        if row.reason
    }
    for reason in reasons:
        console.print(f"planned: {reason}", highlight=False, soft_wrap=True, markup=False)
    if found.estimates is not None:
        print_figures(found.estimates)


def print_figures(found: ModelFigures) -> None:
    """The figures of the whole model, and of the layers with most MACs."""
    macs, peak = scaled(found.macs, "MACs"), scaled(found.peak_activation_bytes, "B")
    lines = [f"{found.params:,} parameters, {macs}, peak activations {peak}"]
    if found.intensity is not None:
        moved = scaled(found.moved_bytes, "B")
        lines.append(f"{found.intensity:.1f} operations a byte, of {moved} moved in fp32 if no operator is fused")
    if found.weight_bytes:
        sizes = ", ".join(f"{precision} {scaled(size, 'B')}" for precision, size in found.weight_bytes.items())
        lines.append(f"weights: {sizes}")
    if found.largest_tensor is not None:
        largest = found.largest_tensor
        size = scaled(largest.bytes, "B")
        lines.append(f"largest tensor: {largest.shape}, {size} in fp32, {largest.operator} in '{largest.layer}'")
    for line in lines:
        console.print(f"estimated from shapes: {line}", highlight=False, soft_wrap=True, markup=False)
    columns = ["layer", "MACs", "of all", "moved in fp32", "operations a byte"]
    rows = [
        [
            row.layer,
            scaled(row.macs, ""),
            f"{row.macs / found.macs:.1%}" if found.macs else "–",
            scaled(row.moved_bytes, "B"),
            f"{row.intensity:.1f}",
        ]
        for row in found.layers
    ]
    if rows:
        print_table("layers with most MACs (estimated)", columns, rows)


def print_devices(found: Sequence[DeviceEstimate], every_target: bool) -> None:
    """One row a catalogued device, that of its fastest target; with `every_target` all of them."""
    chosen = list(found)
    if not every_target:
        best: dict[str, DeviceEstimate] = {}
        for row in found:
            other = best.get(row.device)
            if other is None or _slowest(row) < _slowest(other):
                best[row.device] = row
        chosen = list(best.values())
    if not chosen:
        return
    columns = ["device", "target", "unit", "memory", "of", "", "latency, ms", "limited by", "note"]
    rows = [
        [
            row.device,
            row.target,
            row.unit,
            scaled(row.memory_bytes, "B"),
            scaled(row.app_bytes, "B"),
            row.memory,
            "unknown" if row.latency_ms is None else " to ".join(map(_two_digits, row.latency_ms)),
            row.limited_by or "–",
            row.note or "–",
        ]
        for row in chosen
    ]
    print_table("catalogued devices: estimated, not measured", columns, rows, words=3)


def _slowest(row: DeviceEstimate) -> float:
    return float("inf") if row.latency_ms is None else row.latency_ms[1]


def print_obstacles(obstacles: Sequence[Obstacle], inspected: Sequence[str]) -> None:
    """One row an obstacle, and under the table each remedy once."""
    columns = ["operator", "layer", "on", "line", "target", "reason"]
    rows = []
    for obstacle in obstacles:
        shapes = " ".join(str(shape) for shape in obstacle.shapes) or "–"
        everywhere = len(obstacle.targets) > 1 and set(obstacle.targets) >= set(inspected)
        targets = "all" if everywhere else ", ".join(obstacle.targets)
        line = _short(obstacle.source)
        rows.append([obstacle.operator, obstacle.layer, shapes, line, targets, obstacle.reason])
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


def print_graph(found: Inspection, path: Path) -> None:
    """Where the annotated graph is; there is none of a model that cannot be captured."""
    said = f"{path}, for Model Explorer" if found.estimates is not None else f"no {path}: the model is not captured"
    console.print(f"graph: {said}", highlight=False, soft_wrap=True, markup=False)


def print_latents(statistics: LatentStatistics | None, normalized: bool = False) -> None:
    """What an app does to a diffusion model's output before it decodes."""
    from toolkit.latents import undoing

    console.print(f"latents: {undoing(statistics, normalized)}", highlight=False, soft_wrap=True, markup=False)


def _placed(plan: TargetPlan) -> str:
    if plan.share is None or plan.accelerator is None:
        return "–"
    pieces = "" if plan.delegates is None else f" in {plan.delegates}"
    return f"{plan.share:.1%} {plan.accelerator}{pieces}"


def _two_digits(figure: float) -> str:
    return f"{float(f'{figure:.2g}'):g}"


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
