"""One module a file format, as among the readers, and `write_events`, which picks one by the file's name."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from rsnn.data.events import Events, check_events
from rsnn.data.files import as_path, replacing
from rsnn.data.writers import (
    aedat20,
    aedat31,
    event_stream,
    hdf5,
    nmnist_bin,
    npz,
    prophesee_dat,
    prophesee_raw,
    text,
)
from rsnn.errors import InputError, RecordingError, suggest


class Writer(Protocol):
    """What each module of the table has."""

    NAME: str

    def write(self, path: Path, pieces: Iterator[Events], sensor_size: tuple[int, int]) -> None:
        """Write the pieces of one recording, none of them empty, one after another."""


# The names are those of the readers.
WRITERS: dict[str, Writer] = {
    "aedat-3.1": aedat31,
    "aedat-2.0": aedat20,
    "prophesee-raw": prophesee_raw,
    "prophesee-dat": prophesee_dat,
    "event-stream": event_stream,
    "hdf5": hdf5,
    "numpy": npz,
    "text": text,
    "nmnist": nmnist_bin,
}
FORMAT_OF_SUFFIX = {
    ".aedat": "aedat-3.1",
    ".bin": "nmnist",
    ".csv": "text",
    ".dat": "prophesee-dat",
    ".es": "event-stream",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".npz": "numpy",
    ".raw": "prophesee-raw",
    ".txt": "text",
}


def write_events(
    path: str | os.PathLike[str],
    events: Events | Iterable[Events],
    *,
    format: str | None = None,  # noqa: A002 - as in `read_events`
) -> Path:
    """Write a recording; the file appears when it is complete, in place of one that may be there.

    What comes back is what was written, the sensor's size as well: AEDAT has it in a comment, which other programs do
    not read, where no camera has that size. N-MNIST's `.bin` says nothing of it: pass `sensor_size=` to read one.

    Args:
        path: the file. Its suffix says the format: `.npz`, `.csv` or `.txt`, `.aedat` (3.1), `.bin` (N-MNIST), `.dat`
            and `.raw` (Prophesee, EVT 2.0), `.es` (Event Stream), `.h5` or `.hdf5`.
        events: all events, or pieces of one recording in the order of time, such as `iter_events` gives: of those only
            one is kept in memory (`.npz` excepted).
        format: "aedat-3.1", "aedat-2.0", "prophesee-raw", "prophesee-dat", "event-stream", "hdf5", "numpy", "text" or
            "nmnist", whatever the suffix.

    Returns:
        The path.

    Raises:
        RecordingError: there are no events, the pieces do not fit together, or an event does not fit in the format (its
            time or its place is too large).
        InputError: the format is none of these, these are no events, or the file cannot be written.
        MissingDependencyError: the format needs an optional package that is not installed.

    """
    target = as_path(path)
    writer = WRITERS[_format_name(target, format)]
    in_pieces = isinstance(events, Iterable) and not isinstance(events, str | np.ndarray | dict)
    pieces: Iterable[object] = events if in_pieces else [events]  # type: ignore[assignment]
    given = (check_events(piece, "write_events") for piece in pieces)
    first = next((piece for piece in given if len(piece)), None)
    if first is None:
        raise RecordingError(f"there are no events to write to {target}; expected at least one")
    try:
        with replacing(target) as partial:
            writer.write(partial, _fitting(itertools.chain([first], given), first), first.sensor_size)
    except RecordingError as error:
        raise RecordingError(f"{target} was not written: {error}") from error
    return target


def _format_name(path: Path, format_name: str | None) -> str:
    if format_name is not None:
        if format_name not in WRITERS:
            raise InputError(
                f"format is {format_name!r}; expected one of {', '.join(WRITERS)}.{suggest(format_name, WRITERS)}"
            )
        return format_name
    if path.suffix.lower() not in FORMAT_OF_SUFFIX:
        raise InputError(
            f"{path} has the suffix {path.suffix!r}; expected one of {', '.join(FORMAT_OF_SUFFIX)}, or format= (rsnn "
            "simulate --format)"
        )
    return FORMAT_OF_SUFFIX[path.suffix.lower()]


def _fitting(pieces: Iterator[Events], first: Events) -> Iterator[Events]:
    """Yield the pieces that hold events, once they are known to follow one another."""
    last_t = int(first.t[0])
    for piece in pieces:
        if not len(piece):
            continue
        if piece.sensor_size != first.sensor_size:
            raise RecordingError(
                f"pieces have sensors of {first.sensor_size} and {piece.sensor_size}; expected one sensor"
            )
        if int(piece.t[0]) < last_t:
            raise RecordingError(
                f"a piece begins at {piece.t[0]} microseconds and the one before it ends at {last_t}; expected pieces "
                "in the order of time"
            )
        last_t = int(piece.t[-1])
        yield piece
