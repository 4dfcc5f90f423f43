"""Prophesee DAT, version 2, as `rsnn.data.readers.prophesee_dat` describes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rsnn.data.events import Events
from rsnn.data.readers.prophesee_dat import CHANGE_DETECTION, RECORD
from rsnn.data.writers.common import check_room

NAME = "Prophesee DAT"
LIMITS = {"t": 1 << 32, "x": 1 << 14, "y": 1 << 14}


def write(path: Path, pieces: Iterator[Events], sensor_size: tuple[int, int]) -> None:
    """Write change detection events."""
    width, height = sensor_size
    header = f"% Data file containing CD events.\n% Version 2\n% Width {width}\n% Height {height}\n"
    with path.open("wb") as file:
        file.write(header.encode() + bytes([CHANGE_DETECTION[-1], RECORD.itemsize]))
        for piece in pieces:
            check_room(piece, LIMITS, NAME)
            records = np.empty(len(piece), dtype=RECORD)
            records["t"] = piece.t
            records["pixel"] = piece.p.astype(np.uint32) << 28 | piece.y.astype(np.uint32) << 14 | piece.x
            file.write(records.tobytes())
