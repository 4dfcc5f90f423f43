"""HDF5 with `events/t`, `x`, `y`, `p`, as DSEC has it, and the sensor's size as Prophesee writes it; needs `h5py`.

The HDF5 library crashes the process when a disk is full. So the room is looked at before it is needed.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from rsnn.data.events import EVENT_DTYPE, Events
from rsnn.errors import MissingDependencyError

NAME = "HDF5"
CHUNK_EVENTS = 1 << 16
EVENTS_AT_ONCE = 1 << 18
KEPT_BYTES = 1 << 22  # that the library may hold back of what it was given: a cache of 1 MiB for each column


def write(path: Path, pieces: Iterator[Events], sensor_size: tuple[int, int]) -> None:
    """Write the events, compressed with the filters that every HDF5 library has."""
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError(
            "HDF5 needs the package 'h5py', which is not installed; run: pip install 'rsnn[formats]'"
        ) from error
    width, height = sensor_size
    with h5py.File(path, "w") as file:
        file.attrs["geometry"] = f"{width}x{height}"
        columns = {
            name: file.create_dataset(
                f"events/{name}",
                shape=(0,),
                maxshape=(None,),
                dtype=EVENT_DTYPE[name],
                chunks=(CHUNK_EVENTS,),
                compression="gzip",
                compression_opts=1,
                shuffle=True,
            )
            for name in "txyp"
        }
        length = 0
        for piece in pieces:
            for first in range(0, len(piece), EVENTS_AT_ONCE):
                part = piece[first : first + EVENTS_AT_ONCE]
                _check_room(path, len(part) * EVENT_DTYPE.itemsize + KEPT_BYTES)
                for name, column in columns.items():
                    column.resize((length + len(part),))
                    column[length:] = getattr(part, name)
                length += len(part)


def _check_room(path: Path, needed: int) -> None:
    if shutil.disk_usage(path.parent).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
