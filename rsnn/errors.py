"""The errors that users see: each says what came, what was expected and what to do.

Every mistake a user can make raises an [`RSNNError`][rsnn.errors.RSNNError] (a `ValueError`), so
`except rsnn.RSNNError` catches them all. Anything else that escapes the library is a bug in it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RSNNError(ValueError):
    """Base class of every error the library raises for a user's mistake."""


class RecordingError(RSNNError):
    """A recording cannot be read, or its events contradict each other."""


class InputError(RSNNError):
    """An argument, or a tensor's shape, type or device, is not what the call accepts."""


class ConfigError(RSNNError):
    """A configuration has an unknown key, a wrong type or a value outside its range."""


class CheckpointError(RSNNError):
    """A checkpoint is missing, damaged, or does not fit the model it is loaded into."""


class TrainingError(RSNNError):
    """A training cannot go on: its loss is no number, its folder cannot be written, or it belongs to another recipe."""


class UnknownNameError(RSNNError):
    """A name (of a model, a kernel, a recipe, ...) is not one the library has."""


class MissingDependencyError(RSNNError, ImportError):
    """An optional package is needed and not installed; the message says which extra has it."""


def suggest(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """Return `" Did you mean 'a' or 'b'?"` with the known names nearest to `name`, or an empty string."""
    near = difflib.get_close_matches(name, dict.fromkeys(known), n=most, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(other) for other in near)}?" if near else ""


def shortened(text: str, length: int = 300) -> str:
    """Return `text` as a message shows it: at most `length` characters, and none that a terminal would obey."""
    text = text if len(text) <= length else text[: length - 3] + "..."
    return "".join(c if c.isprintable() else " " for c in text)


def shown(value: object) -> str:
    """Return a value that came from outside as a message shows it."""
    return shortened(repr(value), 60)
