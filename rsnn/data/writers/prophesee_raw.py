"""Prophesee RAW with the encoding EVT 2.0, as `rsnn.data.readers.prophesee_raw` describes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rsnn.data.events import Events
from rsnn.data.readers.prophesee_raw import EVT2_HIGH_BITS, EVT2_LOW_BITS, TIME_HIGH
from rsnn.data.writers.common import check_room, with_fillers

NAME = "Prophesee RAW"
LIMITS = {"t": 1 << (EVT2_LOW_BITS + EVT2_HIGH_BITS - 1), "x": 1 << 11, "y": 1 << 11}


def write(path: Path, pieces: Iterator[Events], sensor_size: tuple[int, int]) -> None:
    """Write the events, and before each whose high bits of the time are new a word that has them."""
    width, height = sensor_size
    before = -1
    with path.open("wb") as file:
        lines = ("evt 2.0", f"format EVT2;height={height};width={width}", f"geometry {width}x{height}", "end")
        file.write("".join(f"% {line}\n" for line in lines).encode())
        for piece in pieces:
            check_room(piece, LIMITS, NAME)
            high = piece.t >> EVT2_LOW_BITS
            low = piece.t & ((1 << EVT2_LOW_BITS) - 1)
            words = piece.p.astype(np.int64) << 28 | low << 22 | piece.x.astype(np.int64) << 11 | piece.y
            is_new = (np.diff(high, prepend=before) != 0).astype(np.int64)
            file.write(with_fillers(words, TIME_HIGH << 28 | high, is_new).astype("<u4").tobytes())
            before = int(high[-1])
