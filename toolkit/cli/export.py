"""`handheld export`: a student, its teacher as a baseline, or any PyTorch model, to a bundle of proved artifacts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli.output import command_line, console, console_err, print_json, print_table
from toolkit.cli.runs import find_run
from toolkit.errors import UserError

if TYPE_CHECKING:
    from export import Source
    from toolkit.bundle import Manifest
    from toolkit.parity import Parity


class Mode(StrEnum):
    """What one call of an artifact takes."""

    clip = "clip"
    stream = "stream"


def export(
    targets: Annotated[list[str], typer.Option("--target", help="A named preset; may be given several times.")],
    run: Annotated[Path | None, typer.Argument(help="A run directory, or asset:NAME for an embedded one.")] = None,
    module: Annotated[
        str | None,
        typer.Option(help="PKG.MOD:FACTORY instead of a run, which returns (module, example inputs). Runs its code."),
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(help="KIND:PRESET of a student, for example turbo_vaed:ltx or compact_flow:s, with --weights."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Its weights: a released checkpoint, .safetensors or .pth, for --student.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The bundle (default: RUN/bundle, RUN/teacher-bundle, or the factory's name).")
    ] = None,
    mode: Annotated[
        Mode, typer.Option(help="clip: a whole clip a call; stream: one latent frame a call, for causal models.")
    ] = Mode.clip,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="The latent's frames x height x width, such as 5x32x32; of images, such as 384x512. Given several "
            "times, artifacts hold the model for each; the first is the main one."
        ),
    ] = None,
    tiling: Annotated[
        bool, typer.Option("--tiling", help="Measure how tiles must overlap, to decode longer clips and larger frames.")
    ] = False,
    normalized_latents: Annotated[
        bool, typer.Option("--normalized-latents", help="Take a diffusion model's output: undo mean and std inside.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Targets made at once (default: as many as cores and memory allow)."),
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Make every artifact anew, and keep none for the next time.")
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(help="psnr=DB: keep the fewest layers at higher precision with which artifacts reach so many dB."),
    ] = None,
    sdk: Annotated[
        bool, typer.Option("--sdk", help="Also write a Swift package and a Kotlin module for apps into the bundle.")
    ] = False,
    teacher: Annotated[bool, typer.Option("--teacher", help="Export the teacher's decoder, as a baseline.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """Export to Core ML, ONNX and ExecuTorch, each proved equal to PyTorch before it is handed over."""
    import export as exporting

    shapes = [_parse_shape(text) for text in shape or []]
    source, bundle = _source(run, module, student, weights, teacher)
    bundle = output or bundle
    manifest = exporting.export(
        exporting.normalised(source) if normalized_latents else source,
        targets,
        bundle,
        mode=mode.value,
        shape=shapes[0] if shapes else None,
        further_shapes=shapes[1:],
        tiling=tiling,
        jobs=jobs,
        use_cache=not no_cache,
        budget_db=_parse_budget(budget),
        sdk=sdk,
        command=command_line(),
    )
    if as_json:
        print_json(manifest.model_dump(mode="json"))
        return
    print_artifacts(manifest)
    print_mixed(manifest)
    console.print(f"bundle: {bundle}", markup=False)


def _source(
    run: Path | None, module: str | None, student: str | None, weights: Path | None, teacher: bool
) -> tuple[Source, Path]:
    """What is to be exported, and where to by default; raises `UserError` unless exactly one thing is named."""
    import export as exporting

    if [run, module, student].count(None) != 2 or (student is None) != (weights is None) or (teacher and run is None):
        raise UserError(
            "name one of: a run directory; --module PKG.MOD:FACTORY; --student KIND:PRESET with --weights FILE "
            "(and --teacher only with a run)"
        )
    if student is not None and weights is not None:
        return _published(student, weights), Path(student.replace(":", "-"))
    if module is not None:
        return exporting.from_module(module), Path(module.rsplit(":")[-1])
    assert run is not None
    found, home = find_run(run)
    source = teacher_source(found) if teacher else exporting.from_run(found)
    return source, home / ("teacher-bundle" if teacher else "bundle")


def _published(student: str, weights: Path) -> Source:
    from export.sources import from_weights

    source, aside = from_weights(student, weights)
    if aside:
        console_err.print(f"{weights.name}: left aside, not needed to decode: {', '.join(aside)}", markup=False)
    return source


def teacher_source(run: Path) -> Source:
    """The teacher's decoder of a run, with the run's held-out latent; raises `UserError` where it had none."""
    import recipes
    from export.sources import Source, run_name, samples
    from toolkit.evaluation import read_evaluation

    vae = recipes.load_teacher(run)
    latent, *others = samples(run, "latent")
    return Source(
        name=f"{run_name(run)}-teacher",
        module=vae.decoder,
        inputs=latent,
        held_out=tuple(others),
        role="teacher",
        class_name=f"diffusers.{type(vae.vae).__name__}.decoder",
        config={key: value for key, value in vae.vae.config.items() if not key.startswith("_")},
        quality=read_evaluation(run),
        latent_statistics=vae.latent_statistics,
        recipe=run / "recipe.yaml",
    )


def print_artifacts(manifest: Manifest) -> None:
    """One row an artifact and size: bytes, graph facts, parity and how it was shown."""
    parities = {}
    for artifact in manifest.artifacts:
        parities[artifact.target] = artifact.parity
        parities |= {f"{artifact.target} {size.name}": size.parity for size in artifact.sizes}
    print_parities(manifest.name, manifest, parities)


def print_mixed(manifest: Manifest) -> None:
    """For each artifact of two precisions, the layers that kept the higher one, and how sensitive they are."""
    for artifact in manifest.artifacts:
        mixed = artifact.mixed_precision
        if mixed is None:
            continue
        kept = [layer for layer in mixed.layers if layer.kept]
        reached = "exact" if mixed.reached_db is None else f"{mixed.reached_db:.1f} dB"
        title = f"{artifact.target}: {len(kept)} of {len(mixed.layers)} layers kept for {mixed.budget_db:g} dB"
        rows = [
            [layer.layer, layer.operator, "–" if layer.alone_db is None else f"{layer.alone_db:.1f}"] for layer in kept
        ]
        if rows:
            print_table(
                title, ["kept at higher precision", "operator", "dB if reduced alone (estimated)"], rows, words=2
            )
        else:
            console.print(f"{title}: it reaches it without", highlight=False, markup=False)
        console.print(
            f"reached over all real inputs: {reached}, after {mixed.conversions} conversions", highlight=False
        )


def print_parities(title: str, manifest: Manifest, parities: Mapping[str, Parity]) -> None:
    """One row a target and a further size of it; `parities` may be those of the manifest or `export.verify`'s."""
    columns = ["target", "MB", "max rank", "delegated", "parity", "max |Δ|/scale", "PSNR dB", "tolerance", "how"]
    rows = []
    for target, parity in parities.items():
        artifact = manifest.artifact(target.partition(" ")[0])
        share = artifact.graph.delegated_share
        rows.append(
            [
                target,
                f"{artifact.bytes / 1e6:.2f}",
                str(artifact.graph.max_rank),
                "–" if share is None else f"{share:.1%} in {artifact.graph.delegates}",
                "pass" if parity.passed else "FAIL",
                "–" if parity.share is None else f"{parity.share:.1e}",
                "–" if parity.psnr_db is None else f"{parity.psnr_db:.1f}",
                str(parity.tolerance),
                f"{parity.how}, {parity.runtime}",
            ]
        )
    print_table(title, columns, rows)


def _parse_budget(text: str | None) -> float | None:
    if text is None:
        return None
    name, equals, figure = text.partition("=")
    try:
        found = float(figure)
    except ValueError:
        found = math.nan
    if name != "psnr" or not equals or not 0 < found < math.inf:
        raise UserError(f"--budget {text}: expected psnr=DB, such as psnr=40")
    return found


def _parse_shape(text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    if len(parts) not in (2, 3) or not all(part.isdecimal() and part.isascii() and int(part) > 0 for part in parts):
        raise UserError(
            f"--shape {text}: expected FRAMESxHEIGHTxWIDTH of the latent, such as 5x32x32, or HEIGHTxWIDTH of images"
        )
    return tuple(int(part) for part in parts)
