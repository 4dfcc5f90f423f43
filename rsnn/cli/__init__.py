"""The `rsnn` command: thin shells over the library, with tables for people and JSON for programs.

Each module holds a group of commands. What few of them need is imported inside them. Whatever a user or the system does
wrong, until the last line is written, ends every command in one line and exit code 1.
"""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from rsnn.cli import classify, costs, demo, doctor, recordings, streams, training, zoo
from rsnn.cli.console import out, user_errors, write_what_can_be_written

__all__ = ["app", "main"]

app = typer.Typer(
    name="rsnn",
    help="Recurrent spiking neural networks for event-camera recordings.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    *(classify.predict, demo.demo, streams.watch, zoo.models, zoo.info),
    *(training.evaluate, training.train, recordings.convert, recordings.simulate, zoo.export),
    *(costs.energy, costs.bench, doctor.doctor),
):
    app.command()(user_errors()(command))


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"rsnn {version('rsnn')}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version_wanted: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command; what Typer itself prints (help, version) may fail to be written as well."""
    write_what_can_be_written()
    try:
        with user_errors():
            try:
                app(prog_name="rsnn")
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()
    except typer.Exit as ended:
        raise SystemExit(ended.exit_code) from None
