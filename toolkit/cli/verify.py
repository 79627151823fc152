"""`handheld verify`: every hash and every artifact's parity, again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from toolkit.cli.export import print_parities
from toolkit.cli.output import console, print_json, print_table
from toolkit.errors import CheckFailed


def verify(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    against: Annotated[
        Path | None, typer.Option(help="Another bundle: run nothing, and say which files and fields differ.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a bundle: no file changed, and every artifact still equals PyTorch."""
    if against is not None:
        _compare(bundle, against, as_json)
        return
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


def _compare(bundle: Path, other: Path, as_json: bool) -> None:
    from toolkit.sameness import CIRCUMSTANCES, same_bundle

    found = same_bundle(bundle, other)
    if as_json:
        print_json([difference.model_dump() for difference in found])
    elif found:
        rows = [[escape(each.what), escape(each.first[:40]), escape(each.second[:40])] for each in found]
        print_table("differences", ["what", "first", "second"], rows, words=3)
    weighty = [each.what for each in found if each.what not in CIRCUMSTANCES]
    if weighty:
        more = f" and {len(weighty) - 5} more" if len(weighty) > 5 else ""
        raise CheckFailed(f"{bundle}: differs from {other} in {', '.join(weighty[:5])}{more}")
    if not as_json:
        console.print(f"{bundle} and {other}: " + ("the same model and files" if found else "the same, byte for byte"))
