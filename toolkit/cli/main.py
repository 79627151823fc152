"""Entry point: verbs, verbosity, and the rule that a user's mistake ends in one line."""

from __future__ import annotations

import logging
import shutil
import signal
import sys

import typer
from rich.markup import escape

from toolkit import __version__, progress
from toolkit.cli import (
    compare,
    demo,
    devices,
    distill,
    doctor,
    encode,
    evaluate,
    export,
    flow,
    inspect,
    profile,
    profiles,
    recipes,
    report,
    verify,
)
from toolkit.cli.output import console_err
from toolkit.errors import HandheldError, UserError
from toolkit.quiet import hush_libraries

app = typer.Typer(
    name="handheld",
    help="Get heavy vision networks onto phones: distil, export, prove, measure. "
    "With every verb: -q no progress, -v libraries' messages, -vv tracebacks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(doctor.doctor)
app.command()(demo.demo)
app.add_typer(recipes.app, name="recipes")
app.command()(encode.encode)
app.command()(distill.distill)
app.command()(evaluate.evaluate)
app.command()(export.export)
app.command()(inspect.inspect)
app.command()(verify.verify)
app.add_typer(devices.app, name="devices")
app.command()(profile.profile)
app.add_typer(profiles.app, name="profiles")
app.command()(compare.compare)
app.command()(flow.flow)
app.command()(report.report)

LEVELS = {"-q": -1, "--quiet": -1, "-v": 1, "--verbose": 1, "-vv": 2}


def _version(value: bool) -> None:
    if value:
        print(f"handheld {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Options of the command itself."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a check failed, 2 the user's input, 3 a device failed, 130 stopped."""
    given = sys.argv[1:] if arguments is None else arguments
    verbosity = sum(LEVELS.get(argument, 0) for argument in given)
    logging.basicConfig(level=[logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG][min(verbosity, 2) + 1])
    if verbosity <= 0:
        hush_libraries()
    progress.console.quiet = verbosity < 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whatever ends at Ctrl-C tidies up then too
    try:
        app(args=[argument for argument in given if argument not in LEVELS], prog_name="handheld")
    except HandheldError as error:
        _fail(str(error), error.exit_code, verbosity)
    except OSError as error:
        if error.errno is None and not isinstance(error, shutil.Error):
            raise
        where = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or str(error.args[0][0][-1])  # shutil.Error lists what it could not copy
        _fail(f"{where}{reason}; free space or name a folder you can write", UserError.exit_code, verbosity)


def _fail(message: str, exit_code: int, verbosity: int) -> None:
    if verbosity >= 2:
        raise  # noqa: PLE0704  (inside the handler of the caller)
    line = " ".join(message.split())
    console_err.print(f"[bold red]handheld:[/] {escape(line)}", soft_wrap=True, highlight=False)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
