"""The `rsnn` command: thin shells over the library, with tables for people and JSON for programs.

Each module holds a group of commands. What few of them need is imported inside them. Whatever a user or the system does
wrong, until the last line is written, ends every command in one line and exit code 1.
"""

import typer

from rsnn.cli import classify, costs, demo, doctor, recordings, streams, training, zoo
from rsnn.cli.console import user_errors

__all__ = ["app"]

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
