"""`handheld verify`: every hash and every artifact's parity, again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.output import console, print_json, print_table
from toolkit.errors import CheckFailed


def verify(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a bundle: no file changed, and every artifact still equals PyTorch."""
    import export
    from toolkit.bundle import read_manifest

    results = export.verify(bundle)
    manifest = read_manifest(bundle)
    if as_json:
        print_json({target: parity.model_dump(mode="json") for target, parity in results.items()})
    else:
        rows = []
        for target, parity in results.items():
            graph = manifest.artifact(target).graph
            share = f"{graph.delegated_share:.1%}" if graph.delegated_share is not None else "–"
            rows.append([target, str(graph.max_rank), share, str(parity)])
        print_table(f"{bundle}", ["target", "max rank", "delegated", "parity with PyTorch fp32"], rows)
    failed = [target for target, parity in results.items() if not parity.passed]
    if failed:
        raise CheckFailed(f"{bundle}: {', '.join(failed)} differ from PyTorch here; export the bundle again")
    if not as_json:
        console.print(f"{len(manifest.files)} files unchanged, {len(results)} artifacts pass")
