"""`handheld profile`: measure bundles on a device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from toolkit.cli.output import console, print_table
from toolkit.errors import DeviceError
from toolkit.files import check_writable

if TYPE_CHECKING:
    from devices.records import ComputeUnits, ProfileRecord

STORE_VARIABLE = "HANDHELD_STORE"
WAIT_S = 600.0


def profile(
    bundles: Annotated[list[Path], typer.Argument(help="Bundles to time against each other.")],
    *,
    device: Annotated[
        list[str] | None, typer.Option(help="KIND or KIND:WHICH; may be repeated. Default: host.")
    ] = None,
    iterations: Annotated[int, typer.Option(min=1, help="Timed rounds of a repeat; each calls every candidate.")] = 10,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats, with time to cool between them.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads (default: what suits the device).")] = None,
    operators: Annotated[bool, typer.Option(help="Per-operator tables, in a pass of their own.")] = True,
    store: Annotated[str | None, typer.Option(envvar=STORE_VARIABLE, help="Where records are kept.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished session of the same.")] = False,
    wait: Annotated[float, typer.Option(min=1, help="Seconds to wait for a device that is not there.")] = WAIT_S,
    fixed_clocks: Annotated[bool, typer.Option(help="Hold a phone's clocks while measuring, where it can.")] = True,
    keep: Annotated[bool, typer.Option("--keep", help="Leave what was copied to a device there.")] = False,
    lan: Annotated[bool, typer.Option("--lan", help="Open the browser's page to the local network.")] = False,
    compute_units: Annotated[
        list[str] | None, typer.Option(help="Core ML: all, cpuOnly, cpuAndGPU, cpuAndNeuralEngine; may be repeated.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the records to this file too.")] = None,
) -> None:
    """Measure latency and memory on devices: load, first inference, warm-up, interleaved iterations."""
    import devices
    from devices import store as profiles
    from devices.live import live

    profiles.check_writable(store)  # found out now, not after the measurement
    if json_file is not None:
        check_writable(json_file)
    with live() as watch:
        found = devices.profile(
            bundles,
            device or ["host"],
            iterations=iterations,
            repeats=repeats,
            threads=threads,
            operators=operators,
            store=store,
            resume=resume,
            wait_s=wait,
            fixed_clocks=fixed_clocks,
            keep=keep,
            lan=lan,
            compute_units=cast("Sequence[ComputeUnits]", compute_units or ["all"]),  # which it checks
            watch=watch,
        )
    if json_file is not None:
        profiles.write_json(found, json_file)
    url = store or profiles.default_url()
    for records in by_session(found.records):
        print_records(records)
        for record in records:
            print_operators(record)
    if resume and not any(record.interruptions for record in found.records):
        console.print("--resume: no unfinished session asked for the same of a device in this state; this one is new")
    console.print(
        f"records: {profiles.shown(url)}" + (f", {json_file}" if json_file else ""), soft_wrap=True, markup=False
    )
    if found.troubles:
        raise DeviceError("; ".join(found.troubles))


def by_session(records: Sequence[ProfileRecord]) -> list[list[ProfileRecord]]:
    """Records of one session together, in their order."""
    sessions = dict.fromkeys(record.session for record in records)
    return [[record for record in records if record.session == session] for session in sessions]


def print_records(records: Sequence[ProfileRecord]) -> None:
    """Latencies and memory, with the machine named."""
    first = records[0]
    columns = ["candidate", "target", "p50 ms", "95 %", "p90 ms", "p99 ms", "load ms", "first ms", "added memory MB"]
    rows = []
    for record in records:
        summary = record.summary()
        added = summary["added_memory_mb"]
        figures = [summary[key] for key in ("p50_ms", "p90_ms", "p99_ms", "load_ms", "first_ms")]
        memory = f"{added:.0f}" if added is not None else "–"
        median, *others = (f"{figure:.1f}" for figure in figures)
        between = record.latency.interval(50)
        interval = "–" if between is None else f"{between.low:.1f} to {between.high:.1f}"
        rows.append([_candidate(record, records), record.target, median, interval, *others, memory])
    rounds = f"{len(first.latency.iterations_ms)} rounds in {len(first.latency.repeats)} repeats"
    threads = f"{first.threads} threads, " if first.threads is not None else ""
    title = f"{first.obtained} on {first.device.model}, {threads}{rounds}"
    print_table(title, columns, rows)
    if first.interruptions:
        console.print(f"the session was resumed {first.interruptions} times; what it had found was kept")
    if any(repeat.cooled is False for record in records for repeat in record.latency.repeats):
        console.print("caution: the device did not cool to its first temperature between repeats")
    if first.busy:
        console.print(
            f"caution: other programs took {first.device.others_share:.0%} of the processors before the session began, "
            "and may have taken part in these figures"
        )


def _candidate(record: ProfileRecord, records: Sequence[ProfileRecord]) -> str:
    """What names a record in a table of `records`; where several bundles have its role, also its bundle, by number."""
    several = len({other.place for other in records if other.role == record.role}) > 1
    return f"{record.place + 1}: {record.bundle} · {record.label}" if several else record.label


def print_operators(record: ProfileRecord, most: int = 5) -> None:
    """The slowest operators of one record."""
    if record.operators:
        rows = [[row.name, row.unit, f"{row.ms:.2f}", str(row.calls)] for row in record.operators[:most]]
        print_table(f"slowest operators: {record.label}", ["operator", "unit", "ms", "calls"], rows)
