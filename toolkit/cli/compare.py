"""`handheld compare`: two measurements side by side, or a gate against slower models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli.output import console, print_json, print_table
from toolkit.cli.profile import STORE_VARIABLE
from toolkit.errors import CheckFailed, UserError

if TYPE_CHECKING:
    from devices.comparison import Comparison, Row

BROKEN = ("started failing", "lost device", "moved off the accelerator", "gone")


def compare(
    base: Annotated[Path, typer.Argument(help="A bundle, or a .json file of profile records.")],
    new: Annotated[Path, typer.Argument(help="The same kind: what is to be compared with it.")],
    *,
    device: Annotated[str, typer.Option(help="Where two bundles are measured.")] = "host",
    fail_if_slower: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Exit with 1 where a candidate surely is, such as 5%.")
    ] = None,
    iterations: Annotated[int, typer.Option(min=1, help="Timed rounds of a repeat, of two bundles.")] = 20,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats, of two bundles.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads (default: all cores).")] = None,
    unlike: Annotated[bool, typer.Option("--unlike", help="Compare what was not measured alike.")] = False,
    store: Annotated[str | None, typer.Option(envvar=STORE_VARIABLE, help="Where records are kept.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare two bundles, measured in turn in one session, or two files of profile records."""
    import devices
    from devices.live import live

    limit = None if fail_if_slower is None else share(fail_if_slower)
    with live() as watch:
        found = devices.compare(
            base,
            new,
            device,
            iterations=iterations,
            repeats=repeats,
            threads=threads,
            unlike=unlike,
            store=store,
            watch=watch,
        )
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        print_comparison(found, base, new)
    if limit is not None:
        gate(found, limit)


def share(text: str) -> float:
    """`5%` or `0.05`; raises `UserError` for anything else."""
    number = text.strip().removesuffix("%")
    try:
        value = float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 10:
        raise UserError(f"--fail-if-slower {text}: expected a share such as 5%")
    return value


def gate(found: Comparison, limit: float) -> None:
    """Raise `CheckFailed` where a candidate surely is slower by more than `limit`, or no longer runs as it did."""
    slower = [row for row in found.rows if row.is_slower_than(limit)]
    broken = [row for row in found.rows if row.bucket in BROKEN]
    said = [f"{_name(row)} is {row.ratio - 1:.1%} slower" for row in slower if row.ratio is not None]
    said += [f"{_name(row)} {row.bucket} ({row.reason or 'not measured now'})" for row in broken]
    if not found.rows or all(row.bucket == "new" for row in found.rows):
        said.append("no candidate was measured before and now")
    if said:
        raise CheckFailed(f"--fail-if-slower {limit:.3g}: {'; '.join(said)}")


def print_comparison(found: Comparison, base: Path, new: Path) -> None:
    several = len({row.device for row in found.rows}) > 1
    rows = [
        [
            f"{row.device}: {_name(row)}" if several else _name(row),
            row.bucket,
            _ms(row.base_ms),
            _ms(row.new_ms),
            _change(row),
            _interval(row),
            _how(row),
        ]
        for row in found.rows
    ]
    print_table(f"{new} against {base}", ["candidate", "", "base ms", "new ms", "change", "95 %", ""], rows, words=2)
    for row in found.rows:
        if row.reason:
            console.print(f"{_name(row)}: {row.bucket}: {row.reason}", highlight=False, soft_wrap=True, markup=False)
    for difference in found.differences:
        console.print(f"caution: not measured alike: {difference}", highlight=False, soft_wrap=True, markup=False)


def _name(row: Row) -> str:
    return f"{row.role} {row.target} ({row.runtime})"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _change(row: Row) -> str:
    return "–" if row.ratio is None else f"{row.ratio - 1:+.1%}"


def _interval(row: Row) -> str:
    return "–" if row.interval is None else f"{row.interval.low - 1:+.1%} to {row.interval.high - 1:+.1%}"


def _how(row: Row) -> str:
    return "" if row.ratio is None else "paired" if row.paired else "apart"
