"""Many recordings in one `.npz`: their events one after another, with the places where each begins."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsnn.data.events import LARGEST_SIDE, Events, check_sensor_size
from rsnn.data.fingerprint import file_state
from rsnn.data.readers import open_source
from rsnn.data.readers.common import Source, usual_sensor_size
from rsnn.data.readers.npz import load_arrays, stored_sensor_size
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
        self.path = source.path.absolute()
        self.files = [self.path]
        self._state = _content_state(self.path)
        self.name, self.split, self.split_name = source.path.stem, "all", "archive"
        arrays = load_arrays(source)
        missing = [name for name in REQUIRED if name not in arrays]
        if missing:
            raise RecordingError(f"{self.path} has no array {missing[0]!r}; expected the arrays {', '.join(REQUIRED)}")
        self._columns = {name: arrays[name] for name in "txyp"}
        for name, column in self._columns.items():
            if column.dtype.kind not in "iub":
                raise source.fault(
                    f"its array {name!r} holds {column.dtype} values; expected integers"
                    + (", microseconds" if name == "t" else "")
                )
        self._offsets = _offsets(source, arrays)
        self.labels = _for_each(source, arrays, "label", len(self))
        self.ids = _for_each(source, arrays, "id", len(self))
        self.class_names = _class_names(source, arrays)
        if sensor_size is None and "sensor_size" in arrays:
            sensor_size = stored_sensor_size(source, arrays["sensor_size"])
        if sensor_size is None:
            # Coordinates that fit no sensor are for `Events` to report, with the recording that has them.
            width, height = (min(1 + int(self._columns[name].max(initial=0)), LARGEST_SIDE) for name in "xy")
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

    @property
    def fingerprint(self) -> str:
        """What the events depend on besides the file: nothing, as long as it is the one that was read.

        Raises:
            RecordingError: the file has changed since.

        """
        self._check_unchanged()
        return ""

    def _check_unchanged(self) -> None:
        if _content_state(self.path) != self._state:
            raise RecordingError(f"{self.path} has changed since it was opened; expected the same file: open it again")

    def events(self, index: int) -> Events:
        """Return recording `index`, as the data sets do; negative indices count from the end."""
        return self[index]

    def __reduce__(self) -> tuple[Any, ...]:
        """Be pickled as the file's name and the labels: another process reads the file for the events."""
        small = {name: value for name, value in vars(self).items() if name not in ("_columns", "_offsets")}
        return _open, (type(self), self.path, self.sensor_size), small

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._check_unchanged()

    def __iter__(self) -> Iterator[Events]:
        return (self[index] for index in range(len(self)))


def _offsets(source: Source, arrays: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    """Return where recordings begin and end, if that divides the columns."""
    offsets, lengths = arrays["offsets"], {arrays[name].shape for name in "txyp"}
    if offsets.ndim != 1 or not offsets.size or offsets.dtype.kind not in "iu":
        raise source.fault(
            f"its offsets are of {offsets.dtype} and shape {offsets.shape}; expected whole numbers in one dimension, "
            "where each recording begins and, after them, where the last one ends"
        )
    whole = offsets.astype(np.int64)
    if len(lengths) > 1 or (np.diff(whole) < 0).any() or whole[0] < 0 or lengths != {(int(whole[-1]),)}:
        raise source.fault(f"it has columns of shapes {lengths} that its offsets do not divide; copy it again")
    return whole


def _for_each(
    source: Source, arrays: dict[str, npt.NDArray[Any]], name: str, recordings: int
) -> npt.NDArray[Any] | None:
    """Return an array that has one entry for each recording, `None` if it is not there."""
    if name not in arrays or arrays[name].shape == (recordings,):
        return arrays.get(name)
    raise source.fault(
        f"it has {recordings} recordings and an array {name!r} of shape {arrays[name].shape}; expected one entry each: "
        f"write the array {name!r} anew"
    )


def _class_names(source: Source, arrays: dict[str, npt.NDArray[Any]]) -> list[str] | None:
    if "class_names" not in arrays:
        return None
    names = arrays["class_names"]
    if names.ndim != 1:
        raise source.fault(f"its class_names have the shape {names.shape}; expected a text for each class")
    return [as_text(name) for name in names]


def as_text(name: object) -> str:
    """Return a name as text, whether it was stored as that or as bytes."""
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _open(kind: type[EventArchive], path: Path, sensor_size: tuple[int, int]) -> EventArchive:
    archive = kind.__new__(kind)
    EventArchive.__init__(archive, path, sensor_size=sensor_size)
    return archive


def _content_state(path: Path) -> list[str]:
    """Return what changes with a file's content: its size, time and number, not that of a change of permissions."""
    size, changed, _, number = file_state(path)
    return [size, changed, number]
