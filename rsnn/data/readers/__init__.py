"""One module a file format, and `read_events`, which picks the one that fits the file's content."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np

from rsnn.data.events import EVENT_DTYPE, LARGEST_SIDE, Events, check_sensor_size, find_fault
from rsnn.data.files import as_path
from rsnn.data.readers import (
    aedat4,
    aedat20,
    aedat31,
    event_stream,
    hdf5,
    nmnist_bin,
    npz,
    prophesee_dat,
    prophesee_raw,
    stmnist_mat,
    text,
)
from rsnn.data.readers.common import HEAD_BYTES, Block, Decoded, Source, file_id, usual_sensor_size
from rsnn.errors import InputError, RecordingError, suggest


class Reader(Protocol):
    """What each module of the table has."""

    NAME: str

    def recognises(self, head: bytes, path: Path) -> bool:
        """Tell from the first bytes, or else from the name, whether `read` is for this file."""

    def read(self, source: Source) -> Decoded:
        """Begin to read the file."""


# In the order in which they are asked; the formats without a signature come last.
READERS: dict[str, Reader] = {
    "aedat-3.1": aedat31,
    "aedat-2.0": aedat20,
    "aedat-4": aedat4,
    "prophesee-raw": prophesee_raw,
    "prophesee-dat": prophesee_dat,
    "event-stream": event_stream,
    "hdf5": hdf5,
    "stmnist": stmnist_mat,
    "numpy": npz,
    "text": text,
    "nmnist": nmnist_bin,
}

TRUNCATED = ("error", "keep")
UNSORTED = ("error", "sort")


def read_events(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002 - the word users look for
    sensor_size: tuple[int, int] | None = None,
    truncated: str = "error",
    unsorted: str = "error",
) -> Events:
    """Read the events of one recording.

    Args:
        path: the file. Its format is recognised by its content, and by its name only where the content cannot
            tell.
        format: a name of `rsnn.data.FORMATS`, to read a file as this format whatever it looks like.
        sensor_size: (width, height) in pixels. By default the size that the format or the file says, else the
            first of the usual sensors that holds all events: 34 x 34, 128 x 128, 240 x 180, 304 x 240, 320 x
            240, 320 x 320, 346 x 260, 640 x 480, 1280 x 720, 1280 x 960, and beyond them the largest
            coordinates plus one.
        truncated: what to do if the file ends within an event or a packet: "error", or "keep" the events
            before.
        unsorted: what to do if time runs backwards: "error", or "sort" the events by time, those of one time in
            the order of the file.

    Returns:
        All events of the recording, times as stored.

    Raises:
        RecordingError: the file is missing, is no recording, is damaged or truncated, is replaced while it is read,
            holds no events, or its events lie outside the sensor or run backwards in time. The message names the file
            and the byte or row.
        InputError: an argument has a value that it cannot have.
        MissingDependencyError: the format needs an optional package that is not installed.

    """
    if unsorted not in UNSORTED:
        raise InputError(f"unsorted is {unsorted!r}; expected 'error' or 'sort'")
    source, reader = open_source(path, format, truncated)
    if sensor_size is not None:
        sensor_size = check_sensor_size(sensor_size)
    decoded = reader.read(source)
    blocks = [block for block in source.read_on(decoded.blocks) if len(block.t)]
    if not blocks:
        raise source.fault("it holds no events; expected at least one: check that the recording was written to its end")
    size = sensor_size or decoded.sensor_size or _inferred_size(blocks)
    columns = {
        name: np.concatenate([getattr(block, name) for block in blocks])
        if len(blocks) > 1
        else getattr(blocks[0], name)
        for name in EVENT_DTYPE.names or ()
    }
    if fault := find_fault(**columns, sensor_size=size):
        if fault.column != "t" or unsorted == "error":
            raise source.broken(_where(blocks, fault.event), fault)
        order = np.argsort(columns["t"], kind="stable")
        columns = {name: column[order] for name, column in columns.items()}
    return Events(**columns, sensor_size=size)


def open_source(path: str | os.PathLike[str], format: str | None, truncated: str) -> tuple[Source, Reader]:  # noqa: A002
    """Return the file and the reader for it.

    Raises:
        RecordingError: there is no such file, or it is in none of the known formats.
        InputError: an argument is not a value that it can have.

    """
    if truncated not in TRUNCATED:
        raise InputError(f"truncated is {truncated!r}; expected 'error' or 'keep'")
    if format is not None and format not in READERS:
        raise InputError(f"format is {format!r}; expected one of {', '.join(READERS)}.{suggest(format, READERS)}")
    file = as_path(path)
    head, number = _head(file)
    name = format or next((name for name, reader in READERS.items() if reader.recognises(head, file)), None)
    if name is None:
        raise RecordingError(
            f"{file} begins with {head[:16]!r}, which is none of the known formats; expected one of "
            f"{', '.join(READERS)}: "
            "convert the file, or pass format= if you know better"
        )
    return Source(file, READERS[name].NAME, truncated == "keep", number), READERS[name]


def _head(file: Path) -> tuple[bytes, tuple[int, int]]:
    """Return the first bytes of a file, and what tells it from others."""
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise OSError("it is a pipe or device, which cannot be read twice: write what comes to a file first")
        number = file_id(file)
        with file.open("rb") as opened:
            head = opened.read(HEAD_BYTES)
    except FileNotFoundError:
        raise RecordingError(f"{file} does not exist; expected the path of a recording") from None
    except IsADirectoryError:
        raise RecordingError(f"{file} is a directory; expected a recording: pass one of the files in it") from None
    except (OSError, ValueError) as error:
        raise RecordingError(
            f"{file} cannot be read ({error}); expected a recording that this user may open"
        ) from error
    if not head:
        raise RecordingError(f"{file} is empty (0 bytes); expected a recording: copy it again")
    return head, number


def _inferred_size(blocks: list[Block]) -> tuple[int, int]:
    width = 1 + max(int(block.x.max()) for block in blocks)
    height = 1 + max(int(block.y.max()) for block in blocks)
    # Coordinates that fit no sensor are for `find_fault` to report.
    return usual_sensor_size(min(max(width, 1), LARGEST_SIDE), min(max(height, 1), LARGEST_SIDE))


def _where(blocks: list[Block], index: int) -> str:
    """Return the place in the file of event `index` of all blocks."""
    for block in blocks:
        if index < len(block.t):
            return block.where(index)
        index -= len(block.t)
    raise AssertionError("the event is in one of the blocks")
