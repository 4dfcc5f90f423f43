"""What the commands share: consoles, errors in one line, tables, JSON, a progress bar, and common arguments."""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from rsnn.errors import InputError, RSNNError
from rsnn.interrupts import EXIT_CODE, interruptible

out = Console()
err = Console(stderr=True)

DEFAULT_MODEL = "rsnn-gesture-cl"
MODEL_HELP = "Zoo name, ./folder, or org/name on the Hub."
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
ModelOption = Annotated[str, typer.Option(help=MODEL_HELP)]
Samples = Annotated[str, typer.Option(help="Which of them, as FIRST:END; all by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


# What Unicode has no plain form of; one character for one where that is possible, lest tables be out of line.
ALIKE: dict[int, int | str] = {
    **str.maketrans("µ×·•█▓▒░▀–—−─━│┃▌‘’“”", "ux.*####=-----|||''\"\""),  # noqa: RUF001
    **{ord(one): several for one, several in {"→": "->", "≤": "<=", "≥": ">=", "±": "+-", "≈": "~"}.items()},
}


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn the library's errors, and what the system refuses, into one line and exit code 1; Ctrl-C into code 130.

    What standard output still holds is written at the end, while there is somebody to tell that it cannot be.
    """
    try:
        with interruptible():
            yield
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_CODE) from None
    except RSNNError as error:
        print_error(str(error))
        raise typer.Exit(1) from None
    except BrokenPipeError:  # who read it has seen enough; Typer ends without a word
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            reason = f"the output cannot be written: {reason}; expected a file with room for it"
        print_error(reason if error.filename is None else f"{error.filename}: {reason}")
        _give_up_output()
        raise typer.Exit(1) from None
    except UnicodeEncodeError as error:
        text = error.object[error.start : error.end]
        print_error(f"{text!a} cannot be written in {error.encoding}; set PYTHONIOENCODING=utf-8")
        raise typer.Exit(1) from None


def write_what_can_be_written() -> None:
    """Let what is printed have substitutes for the characters that its encoding has not got, from now on."""
    codecs.register_error("rsnn-substitute", _substitute)
    for stream in (sys.stdout, sys.stderr):
        # Another handler is somebody's choice, by PYTHONIOENCODING.
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape", "backslashreplace"):
            stream.reconfigure(errors="rsnn-substitute")


def _substitute(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for the characters that cannot be encoded: a likeness, else their numbers."""
    assert isinstance(error, UnicodeEncodeError)
    text = unicodedata.normalize("NFKC", error.object[error.start : error.end].translate(ALIKE))
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


def _give_up_output() -> None:
    """Let standard output go nowhere if it cannot be written: Python would complain once more when it closes it."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        with suppress(OSError):  # it may have no descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_error(text: str) -> None:
    """Print an error in one line, however long."""
    err.print(f"[bold red]error:[/] {escape(text)}", highlight=False, soft_wrap=True)


def print_table(table: Table) -> None:
    """Print a table, whole where it goes to a file or another program, which do not know 80 columns."""
    console = out if out.is_terminal else Console(file=out.file, width=max(out.width, 240))
    console.print(table)


def print_json(value: object) -> None:
    """Print plain data for other programs; in ASCII where standard output has no room for its characters."""
    if sys.stdout is None:
        raise InputError("standard output is closed; expected a file or another program to write to")
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    sys.stdout.write(text + "\n")


@contextmanager
def progress(title: str, total: int, *, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal while the block runs; yields what sets how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not (shown and err.is_terminal)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)


def refuse(context: typer.Context, *names: str, use: str, here: str) -> None:
    """Raise InputError where the user gave one of these parameters, which would be ignored.

    Args:
        context: of the command.
        names: of the parameters, as in its function.
        use: what they are for.
        here: what there is instead, as a clause.

    """
    given = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            option = parameter.opts[0]
            given.append(option if option.startswith("-") else option.upper())
    if given:
        listed = " and ".join([*filter(None, [", ".join(given[:-1])]), given[-1]])
        verb, them = ("is", "it") if len(given) == 1 else ("are", "them")
        raise InputError(f"{listed} {verb} for {use}, and {here}; leave {them} out")


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Return `"346x260"` as (346, 260), None for None.

    Raises:
        InputError: it is not of that form.

    """
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise InputError(f"size {text!r}: expected WIDTHxHEIGHT, as in 346x260")
    return int(sides[0]), int(sides[1])
