"""The `.bin` files of N-MNIST, as `rsnn.data.readers.nmnist_bin` describes them; they do not say their sensor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rsnn.data.events import Events
from rsnn.data.readers.nmnist_bin import EVENT_BYTES, OVERFLOW_US, OVERFLOW_Y
from rsnn.data.writers.common import check_room, with_fillers

NAME = "N-MNIST bin"
TIME_BITS = 23
LIMITS = {"t": 1 << 32, "x": 256, "y": OVERFLOW_Y}
RECORD = np.dtype((np.void, EVENT_BYTES))
OVERFLOW = np.frombuffer(bytes([0, OVERFLOW_Y, 0, 0, 0]), dtype=RECORD)


def write(path: Path, pieces: Iterator[Events], sensor_size: tuple[int, int]) -> None:  # noqa: ARG001
    """Write the events, and as many overflows as later times need to fit in 23 bits."""
    before = 0
    with path.open("wb") as file:
        for piece in pieces:
            check_room(piece, LIMITS, NAME)
            overflows = np.maximum(-(-(piece.t - (1 << TIME_BITS) + 1) // OVERFLOW_US), 0)
            low = piece.t - overflows * OVERFLOW_US
            rows = np.stack(
                (piece.x, piece.y, piece.p.astype(np.int64) << 7 | low >> 16, low >> 8 & 0xFF, low & 0xFF), axis=1
            ).astype(np.uint8)
            records = np.frombuffer(rows.tobytes(), dtype=RECORD)
            counts = np.diff(overflows, prepend=before)
            file.write(with_fillers(records, np.repeat(OVERFLOW, len(piece)), counts).tobytes())
            before = int(overflows[-1])
