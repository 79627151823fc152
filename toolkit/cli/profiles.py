"""`handheld profiles`: what the profile store holds, into and out of files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.output import console, print_json, print_table
from toolkit.cli.profile import STORE_VARIABLE, by_session

app = typer.Typer(no_args_is_help=True, help="List, export and import the records of a profile store.")

Store = Annotated[str | None, typer.Option(envvar=STORE_VARIABLE, help="Where records are kept.")]
Bundle = Annotated[str | None, typer.Option(help="Only records of the bundle of this name.")]


@app.command("list")
def list_(
    store: Store = None,
    bundle: Bundle = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the sessions of the store, the oldest first."""
    from devices import store as profiles

    url = store or profiles.default_url()
    sessions = by_session(profiles.load(url, bundle))
    if as_json:
        print_json(
            [
                {
                    "session": records[0].session,
                    "created": records[0].created,
                    "device": records[0].device.model,
                    "obtained": records[0].obtained,
                    "records": [{"bundle": record.bundle, **record.summary()} for record in records],
                }
                for records in sessions
            ]
        )
        return
    rows = [
        [
            records[0].created[:16].replace("T", " "),
            records[0].session[:8],
            records[0].device.model,
            records[0].obtained,
            ", ".join(dict.fromkeys(record.bundle for record in records)),
            ", ".join(f"{record.role} {record.target} {record.latency.p50:.1f}" for record in records),
        ]
        for records in sessions
    ]
    print_table(profiles.shown(url), ["created", "session", "device", "obtained", "bundles", "p50 ms"], rows, words=6)


@app.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="The file of JSON lines to write.")],
    store: Store = None,
    bundle: Bundle = None,
) -> None:
    """Write the records of the store to a file, one a line."""
    from devices import store as profiles

    url = store or profiles.default_url()
    records = profiles.load(url, bundle)
    profiles.write_lines(records, file)
    console.print(
        f"{file}: {len(records)} records of {profiles.shown(url)}", soft_wrap=True, highlight=False, markup=False
    )


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file of JSON lines that `export` wrote.")],
    store: Store = None,
) -> None:
    """Bring the records of a file into the store; those that it holds already are left as they are."""
    from devices import store as profiles

    url = store or profiles.default_url()
    records = profiles.read_lines(file)
    new = profiles.bring_in(records, url)
    console.print(
        f"{profiles.shown(url)}: {new} new records, {len(records) - new} held already",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
