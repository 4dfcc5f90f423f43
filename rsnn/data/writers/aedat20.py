"""AEDAT 2.0 of a DVS128, as `rsnn.data.readers.aedat20` describes it.

A line of the header says the sensor where it is another one: programs that do not know the line take it for a comment.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rsnn.data.events import Events
from rsnn.data.readers.aedat20 import RECORD, SENSOR_SIZE
from rsnn.data.writers.common import check_room

NAME = "AEDAT 2.0"
HEADER = b"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n# AEChip: DVS128\r\n"
LIMITS = {"t": 1 << 32, "x": SENSOR_SIZE[0], "y": SENSOR_SIZE[1]}


def write(path: Path, pieces: Iterator[Events], sensor_size: tuple[int, int]) -> None:
    """Write the events."""
    width, height = sensor_size
    with path.open("wb") as file:
        file.write(HEADER)
        if sensor_size != SENSOR_SIZE:
            file.write(f"# geometry {width}x{height}\r\n".encode())
        for piece in pieces:
            check_room(piece, LIMITS, NAME)
            records = np.empty(len(piece), dtype=RECORD)
            records["address"] = piece.y.astype(np.uint32) << 8 | piece.x.astype(np.uint32) << 1 | (1 - piece.p)
            records["t"] = piece.t
            file.write(records.tobytes())
