"""NumPy `.npz` with the arrays t, x, y, p and sensor_size, as `rsnn.data.readers.npz` describes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rsnn.data.events import Events

NAME = "NumPy"


def write(path: Path, pieces: Iterator[Events], sensor_size: tuple[int, int]) -> None:
    """Write the events, gathered in memory."""
    kept = list(pieces)
    t, x, y, p = (np.concatenate([getattr(piece, name) for piece in kept]) for name in "txyp")
    with path.open("wb") as file:
        np.savez(file, t=t, x=x, y=y, p=p, sensor_size=np.array(sensor_size))
