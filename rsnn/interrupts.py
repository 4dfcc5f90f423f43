"""Ctrl-C ends the command `rsnn` with exit code 130 and without a traceback, from its first import on.

Within a command it raises KeyboardInterrupt, so that all is put in order. Before and after, while PyTorch is imported
and while Python ends, there is nothing to put in order, and the process ends at once. A program that imports the
library has its own way with Ctrl-C, and keeps it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

EXIT_CODE = 130


def _is_command() -> bool:
    """Tell whether this process is the command, or one that it started to share its work."""
    program = Path(sys.argv[0] if getattr(sys, "argv", None) else "")
    if program.name == "-m":  # Python is still looking for the module
        return any(
            option[:1] == "-" and option[-1:] == "m" and name == "rsnn" for option, name in pairwise(sys.orig_argv)
        )
    return program.stem == "rsnn" or program.parts[-2:] == ("rsnn", "__main__.py")


def _end(*_: Any) -> None:
    os._exit(EXIT_CODE)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt for a while."""
    ours = signal.getsignal(signal.SIGINT) is _end
    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, _end)


if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)
