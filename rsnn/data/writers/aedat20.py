"""AEDAT 2.0 of a DVS128, as `rsnn.data.readers.aedat20` describes it."""

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


def write(path: Path, pieces: Iterator[Events], sensor_size: tuple[int, int]) -> None:  # noqa: ARG001
    """Write the events; the format says 128 x 128 pixels, whatever the sensor."""
    with path.open("wb") as file:
        file.write(HEADER)
        for piece in pieces:
            check_room(piece, LIMITS, NAME)
            records = np.empty(len(piece), dtype=RECORD)
            records["address"] = piece.y.astype(np.uint32) << 8 | piece.x.astype(np.uint32) << 1 | (1 - piece.p)
            records["t"] = piece.t
            file.write(records.tobytes())
