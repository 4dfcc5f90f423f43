"""AEDAT 3.1, as `rsnn.data.readers.aedat31` describes it.

The header names a camera where one is known to have a sensor of that size. Else a line of it says the size: programs
that do not know the line take it for a comment.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rsnn.data.events import Events
from rsnn.data.readers.aedat31 import (
    OVERFLOW_BITS,
    POLARITY_EVENT_BYTES,
    POLARITY_TYPE,
    SENSOR_OF_CAMERA,
    WORD_BYTES,
)
from rsnn.data.writers.common import check_room

NAME = "AEDAT 3.1"
PACKET_EVENTS = 8192
LIMITS = {"t": 1 << 62, "x": 1 << 15, "y": 1 << 15}


def write(path: Path, pieces: Iterator[Events], sensor_size: tuple[int, int]) -> None:
    """Write the events in packets; one never holds times on both sides of an overflow."""
    camera = next((camera for camera, size in SENSOR_OF_CAMERA.items() if size == sensor_size), None)
    lines = ["!AER-DAT3.1", "Format: RAW", f"Source 1: {camera or 'unknown'}"]
    if camera is None:
        lines.append("geometry {}x{}".format(*sensor_size))
    with path.open("wb") as file:
        file.write("".join(f"#{line}\r\n" for line in [*lines, "!END-HEADER"]).encode())
        for piece in pieces:
            check_room(piece, LIMITS, NAME)
            words = np.empty((len(piece), 2), dtype="<u4")
            words[:, 0] = piece.x.astype(np.uint32) << 17 | piece.y.astype(np.uint32) << 2 | piece.p << 1 | 1
            words[:, 1] = piece.t & ((1 << OVERFLOW_BITS) - 1)
            overflow = piece.t >> OVERFLOW_BITS
            borders = [0, *(np.flatnonzero(np.diff(overflow)) + 1).tolist(), len(piece)]
            for begin, end in itertools.pairwise(borders):
                for first in range(begin, end, PACKET_EVENTS):
                    packet = words[first : min(first + PACKET_EVENTS, end)]
                    file.write(_header(len(packet), int(overflow[first])) + packet.tobytes())


def _header(number: int, overflow: int) -> bytes:
    source = 1
    fields = (source << 16 | POLARITY_TYPE, POLARITY_EVENT_BYTES, WORD_BYTES, overflow, number, number, number)
    return np.array(fields, dtype="<u4").tobytes()
