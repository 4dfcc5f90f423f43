"""Many recordings in one `.npz`: their events one after another, with the places where each begins."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rsnn.data.events import Events, check_sensor_size
from rsnn.data.readers import open_source
from rsnn.data.readers.common import usual_sensor_size
from rsnn.data.readers.npz import load_arrays
from rsnn.errors import InputError, RecordingError

REQUIRED = ("t", "x", "y", "p", "offsets")


class EventArchive:
    """A sequence of recordings kept in one `.npz` file.

    The file has the columns `t` (microseconds), `x`, `y`, `p` (1 = brighter) of all n events, `offsets` of
    shape (recordings + 1,) with recording i at `[offsets[i]:offsets[i + 1]]`, and may have `label`, `id`,
    `class_names` and `sensor_size` (width, height).

    Args:
        path: the file.
        sensor_size: (width, height); by default what the file says, else the first of the usual sensors that
            holds all.

    Attributes:
        sensor_size: (width, height) of the sensor in pixels.
        labels: class index of each recording, shape (recordings,), or `None`.
        ids: name or number of each recording, shape (recordings,), or `None`.
        class_names: name of each class, or `None`.
        files: the one file that the recordings come from.
        name: the file's name without its suffix.
        split: "all": an archive is one part.
        split_name: "archive".

    Raises:
        RecordingError: the file is missing, is no such archive or is damaged.

    """

    def __init__(self, path: str | os.PathLike[str], *, sensor_size: tuple[int, int] | None = None) -> None:
        source, _ = open_source(path, "numpy", "error")
        self.path = source.path
        self.files = [source.path]
        self.name, self.split, self.split_name = source.path.stem, "all", "archive"
        arrays = load_arrays(source)
        missing = [name for name in REQUIRED if name not in arrays]
        if missing:
            raise RecordingError(f"{self.path} has no array {missing[0]!r}; expected the arrays {', '.join(REQUIRED)}")
        self._columns = {name: arrays[name] for name in "txyp"}
        self._offsets = arrays["offsets"]
        lengths = {column.shape for column in self._columns.values()}
        if len(lengths) > 1 or (np.diff(self._offsets) < 0).any() or lengths != {(int(self._offsets[-1]),)}:
            raise RecordingError(
                f"{self.path} has columns of shapes {lengths} that its offsets do not divide; copy it again"
            )
        self.labels = arrays.get("label")
        self.ids = arrays.get("id")
        self.class_names = [str(name) for name in arrays["class_names"]] if "class_names" in arrays else None
        if sensor_size is None and "sensor_size" in arrays:
            sensor_size = (int(arrays["sensor_size"][0]), int(arrays["sensor_size"][1]))
        if sensor_size is None:
            width, height = (1 + int(self._columns[name].max(initial=0)) for name in "xy")
            sensor_size = usual_sensor_size(width, height)
        self.sensor_size = check_sensor_size(sensor_size)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> Events:
        """Return recording `index`; negative indices count from the end."""
        place = operator.index(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"recording {place} of {self.path}; it holds {len(self)}")
        place %= len(self)
        part = slice(int(self._offsets[place]), int(self._offsets[place + 1]))
        try:
            return Events(
                **{name: column[part] for name, column in self._columns.items()}, sensor_size=self.sensor_size
            )
        except (InputError, RecordingError) as error:
            raise RecordingError(f"{self.path}: recording {place}: {error}") from error

    def events(self, index: int) -> Events:
        """Return recording `index`, as the data sets do; negative indices count from the end."""
        return self[index]

    def __reduce__(self) -> tuple[Any, ...]:
        """Be pickled as the file's name: another process reads the file instead of being sent all events."""
        return _open, (self.path, self.sensor_size)

    def __iter__(self) -> Iterator[Events]:
        return (self[index] for index in range(len(self)))


def _open(path: Path, sensor_size: tuple[int, int]) -> EventArchive:
    return EventArchive(path, sensor_size=sensor_size)
