"""`handheld verify`: every hash and every artifact's parity, again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.export import print_parities
from toolkit.cli.output import console, print_json, print_table
from toolkit.errors import CheckFailed, UserError
from toolkit.parity import InputCheck


def verify(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    deep: Annotated[bool, typer.Option("--deep", help="Also on further real inputs and on adversarial ones.")] = False,
    against: Annotated[
        Path | None, typer.Option(help="Another bundle: run nothing, and say which files and fields differ.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a bundle: no file changed, and every artifact still equals PyTorch."""
    if against is not None and deep:
        raise UserError("--against compares files and runs nothing, --deep runs them; give one of the two")
    if against is not None:
        _compare(bundle, against, as_json)
        return
    from toolkit.bundle import read_manifest

    manifest = read_manifest(bundle)  # what is no bundle is refused before the back ends are loaded
    import export

    results = export.verify(bundle)
    checks = export.verify_deeply(bundle) if deep else {}
    if as_json:
        print_json(
            {
                target: parity.model_dump(mode="json")
                | ({"checks": [check.model_dump(mode="json") for check in checks[target]]} if target in checks else {})
                for target, parity in results.items()
            }
        )
    else:
        print_parities(str(bundle), manifest, results)
        _print_checks(checks)
    _raise_on_failure(bundle, [target for target, parity in results.items() if not parity.passed], checks)
    if not as_json:
        inputs = f", on {sum(map(len, checks.values()))} further inputs too" if deep else ""
        console.print(f"{len(manifest.files)} files unchanged, {len(results)} artifacts pass{inputs}")


def _print_checks(checks: dict[str, list[InputCheck]]) -> None:
    rows = [
        [target, check.name, check.kind, _verdict(check), _share(check), _decibels(check)]
        for target, found in checks.items()
        for check in found
    ]
    if rows:
        print_table("further inputs", ["target", "input", "kind", "parity", "max |Δ|/scale", "PSNR dB"], rows)


def _verdict(check: InputCheck) -> str:
    if not check.passed:
        return "FAIL"
    if check.parity.passed:
        return "pass"
    return "beyond the tolerance, " + ("within PyTorch's own rounding" if check.rounding is not None else "finite")


def _share(check: InputCheck) -> str:
    return "–" if check.parity.share is None else f"{check.parity.share:.1e}"


def _decibels(check: InputCheck) -> str:
    return "–" if check.parity.psnr_db is None else f"{check.parity.psnr_db:.1f}"


def _raise_on_failure(bundle: Path, failed: list[str], checks: dict[str, list[InputCheck]]) -> None:
    import export

    for target, found in checks.items():
        worst = next((check for check in found if not check.passed), None)
        if worst is not None and target not in failed:
            raise CheckFailed(f"{bundle}: {target}: {worst}")
    if failed:
        main = [target for target in failed if " " not in target]  # no further size
        found_out = "".join(f"; {target}: {line}" for target, line in export.culprits(bundle, main).items())
        raise CheckFailed(
            f"{bundle}: {', '.join(failed)} differ from PyTorch with this machine's runtimes; compare their versions "
            f"with those in {bundle / 'manifest.json'}, or export the bundle again{found_out}"
        )


def _compare(bundle: Path, other: Path, as_json: bool) -> None:
    from toolkit.sameness import CIRCUMSTANCES, same_bundle

    found = same_bundle(bundle, other)
    if as_json:
        print_json([difference.model_dump() for difference in found])
    elif found:
        rows = [[each.what, each.first[:40], each.second[:40]] for each in found]
        print_table("differences", ["what", "first", "second"], rows, words=3)
    weighty = [each.what for each in found if each.what not in CIRCUMSTANCES]
    if weighty:
        more = f" and {len(weighty) - 5} more" if len(weighty) > 5 else ""
        raise CheckFailed(f"{bundle}: differs from {other} in {', '.join(weighty[:5])}{more}")
    if not as_json:
        alike = "the same model and files" if found else "the same, byte for byte"
        console.print(f"{bundle} and {other}: {alike}", markup=False)
