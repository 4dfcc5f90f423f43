"""Event Stream (`.es`) of a DVS, as `rsnn.data.readers.event_stream` describes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rsnn.data.events import Events
from rsnn.data.readers.event_stream import DVS, EVENT_BYTES, MAGIC
from rsnn.data.writers.common import check_room
from rsnn.errors import InputError

NAME = "Event Stream"
OVERFLOW, OVERFLOW_US = 0xFF, 127
LIMITS = {"t": 1 << 32}
SIDES = (1 << 16) - 1


def write(path: Path, pieces: Iterator[Events], sensor_size: tuple[int, int]) -> None:
    """Write the time since the event before with each; a pause takes one byte for every 127 microseconds."""
    if max(sensor_size) > SIDES:
        raise InputError(f"{NAME} has no room for a sensor of {sensor_size}; expected sides up to {SIDES}")
    before = 0
    with path.open("wb") as file:
        file.write(MAGIC + bytes([2, 0, 0, DVS]) + np.array(sensor_size, "<u2").tobytes())
        for piece in pieces:
            check_room(piece, LIMITS, NAME)
            overflows, step = np.divmod(np.diff(piece.t, prepend=before), OVERFLOW_US)
            begins = np.cumsum(overflows + EVENT_BYTES) - EVENT_BYTES
            stream = np.full(int(begins[-1]) + EVENT_BYTES, OVERFLOW, dtype=np.uint8)
            stream[begins] = step << 1 | piece.p
            for place, column in ((1, piece.x), (3, sensor_size[1] - 1 - piece.y)):
                stream[begins + place] = column & 0xFF
                stream[begins + place + 1] = column >> 8
            file.write(stream.tobytes())
            before = int(piece.t[-1])
