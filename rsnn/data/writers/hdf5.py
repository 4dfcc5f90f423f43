"""HDF5 with `events/t`, `x`, `y`, `p`, as DSEC has it, and the sensor's size as Prophesee writes it; needs `h5py`.

The HDF5 library crashes the process when a disk or a quota is full. So the room is tried before it is needed.
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
CACHE_BYTES = 1 << 20  # of a column; the library's own choice differs by its version
KEPT_BYTES = 4 * CACHE_BYTES  # that the library may hold back of what it was given


def write(path: Path, pieces: Iterator[Events], sensor_size: tuple[int, int]) -> None:
    """Write the events, compressed with the filters that every HDF5 library has."""
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError(
            "HDF5 needs the package 'h5py', which is not installed; run: pip install 'rsnn[formats]'"
        ) from error
    width, height = sensor_size
    _check_room(path, KEPT_BYTES)
    with h5py.File(path, "w", rdcc_nbytes=CACHE_BYTES) as file:
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
        length = spare = 0
        for piece in pieces:
            for first in range(0, len(piece), EVENTS_AT_ONCE):
                part = piece[first : first + EVENTS_AT_ONCE]
                if spare < len(part):  # events for which there is room
                    _check_room(path, EVENTS_AT_ONCE * EVENT_DTYPE.itemsize + KEPT_BYTES)
                    spare = EVENTS_AT_ONCE
                spare -= len(part)
                for name, column in columns.items():
                    column.resize((length + len(part),))
                    column[length:] = getattr(part, name)
                length += len(part)


def _check_room(path: Path, needed: int) -> None:
    """Check that a file can grow by so many bytes, by letting it grow for a moment where the system can do that."""
    if shutil.disk_usage(path.parent).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            os.posix_fallocate(file.fileno(), size, needed)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
        finally:
            os.ftruncate(file.fileno(), size)
