"""Recordings of any length, a window of time at once."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator

import numpy as np

from rsnn.data.events import EVENT_DTYPE, Events, backwards, check_sensor_size, find_fault
from rsnn.data.readers import open_source
from rsnn.data.readers.common import Block, Source, usual_sensor_size
from rsnn.errors import InputError


def iter_events(
    path: str | os.PathLike[str],
    *,
    duration_us: int,
    format: str | None = None,  # noqa: A002 - as in `read_events`
    sensor_size: tuple[int, int] | None = None,
    truncated: str = "error",
) -> Iterator[Events]:
    """Read a recording in windows of equal duration, with memory for one window and a few blocks of the file.

    Window k holds t_first + k duration_us <= t < t_first + (k + 1) duration_us. Windows without events are left out, so
    that a jump in time costs nothing. If neither the format nor the caller says the sensor's size, the file is read
    twice: first for the largest coordinates.

    NumPy arrays in Fortran order are read whole. Events that are not in the order of time are an error: what could
    still come is not known, so that only `read_events`, which holds the whole recording, can sort them.

    Args:
        path: the file.
        duration_us: length of a window in microseconds, at least 1.
        format: as for `read_events`.
        sensor_size: as for `read_events`.
        truncated: as for `read_events`.

    Yields:
        The events of each window that has any, times as stored.

    Raises:
        RecordingError: as `read_events`, when the bad place is reached.
        InputError: an argument has a value that it cannot have.

    """
    try:
        duration = operator.index(duration_us)
    except TypeError:
        duration = 0
    if duration < 1:
        raise InputError(f"duration_us is {duration_us!r}; expected a whole number of microseconds, at least 1")
    source, reader = open_source(path, format, truncated)
    size = None if sensor_size is None else check_sensor_size(sensor_size)
    size = (
        size or reader.read(source).sensor_size or usual_sensor_size(*largest_coordinates(reader.read(source).blocks))
    )
    return _windows(source, _checked(source, reader.read(source).blocks, size), duration)


def largest_coordinates(blocks: Iterator[Block]) -> tuple[int, int]:
    """Return the (width, height) that just holds all events; (1, 1) if there are none."""
    width = height = 1
    for block in blocks:
        if len(block.t):
            width, height = max(width, 1 + int(block.x.max())), max(height, 1 + int(block.y.max()))
    return width, height


def _checked(source: Source, blocks: Iterator[Block], size: tuple[int, int]) -> Iterator[Events]:
    """Yield blocks as events once they are known to be in order, among themselves too."""
    last_t = None
    for block in source.read_on(blocks):
        if not len(block.t):
            continue
        columns = {name: getattr(block, name) for name in EVENT_DTYPE.names or ()}
        fault = find_fault(**columns, sensor_size=size)
        if fault is None and last_t is not None and int(block.t[0]) < last_t:
            fault = backwards(0, last_t, block.t[0])
        if fault is not None:
            raise source.broken(block.where(fault.event), fault)
        last_t = int(block.t[-1])
        yield Events(**columns, sensor_size=size)


def _windows(source: Source, blocks: Iterator[Events], duration: int) -> Iterator[Events]:
    pieces: list[Events] = []  # of the window that is not yet complete
    first = end = None
    for block in blocks:
        if first is None or end is None:
            first = int(block.t[0])
            end = first + duration
        while len(block) and int(block.t[-1]) >= end:
            cut = int(np.searchsorted(block.t, end, side="left"))
            pieces.append(block[:cut])
            block = block[cut:]
            if any(len(piece) for piece in pieces):
                yield _joined(pieces)
            pieces = []
            end = first + ((int(block.t[0]) - first) // duration + 1) * duration
        pieces.append(block)
    if first is None:
        raise source.fault("it holds no events; expected at least one: check that the recording was written to its end")
    yield _joined(pieces)


def _joined(pieces: list[Events]) -> Events:
    if len(pieces) == 1:
        return pieces[0]
    columns = {name: np.concatenate([getattr(piece, name) for piece in pieces]) for name in EVENT_DTYPE.names or ()}
    return Events(**columns, sensor_size=pieces[0].sensor_size)
