"""`handheld verify`: every hash and every artifact's parity, again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.export import print_parities
from toolkit.cli.output import console, print_json
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
        print_parities(str(bundle), manifest, results)
    failed = [target for target, parity in results.items() if not parity.passed]
    if failed:
        raise CheckFailed(
            f"{bundle}: {', '.join(failed)} differ from PyTorch with this machine's runtimes; compare their versions "
            f"with those in {bundle / 'manifest.json'}, or export the bundle again"
        )
    if not as_json:
        console.print(f"{len(manifest.files)} files unchanged, {len(results)} artifacts pass")
