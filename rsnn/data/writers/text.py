"""Comma-separated rows of t, x, y, p below their names, with the sensor's size in a line `%geometry:W,H` above."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rsnn.data.events import Events

NAME = "text"
ROWS_AT_ONCE = 1 << 16


def write(path: Path, pieces: Iterator[Events], sensor_size: tuple[int, int]) -> None:
    """Write a row an event."""
    width, height = sensor_size
    with path.open("w", encoding="ascii", newline="\n") as file:
        file.write(f"%geometry:{width},{height}\nt,x,y,p\n")
        for piece in pieces:
            for first in range(0, len(piece), ROWS_AT_ONCE):
                part = piece[first : first + ROWS_AT_ONCE]
                table = np.stack([getattr(part, name).astype(np.int64) for name in "txyp"], axis=1)
                file.write("".join("%d,%d,%d,%d\n" % tuple(row) for row in table.tolist()))  # noqa: UP031 - the fastest
