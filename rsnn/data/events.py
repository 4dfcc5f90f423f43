"""The events of one recording (or of a piece of one), checked once and never changed afterwards.

Letters: n events; a sensor is (width, height) in pixels, x runs right from 0, y runs down from 0.
"""

from __future__ import annotations

import operator
import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rsnn.errors import InputError, RecordingError

# Field names, order and meaning as in the structured arrays of tonic and others; 13 bytes an event.
EVENT_DTYPE = np.dtype([("t", np.int64), ("x", np.uint16), ("y", np.uint16), ("p", np.uint8)])

LARGEST_SIDE = 1 << 16  # x and y are kept in 16 bits
LATEST_US = (1 << 63) - 1  # t is kept in 64 bits, of which one is the sign


class Fault(NamedTuple):
    """The first event that breaks a rule: its index, the column, what it has, and what to do about it."""

    event: int
    column: str
    found: str
    remedy: str


def find_fault(
    t: npt.NDArray[Any],
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
    p: npt.NDArray[Any],
    sensor_size: tuple[int, int],
) -> Fault | None:
    """Return the first rule that the columns break and the first event that breaks it, or `None`.

    That times never decrease is the last of the rules.
    """
    width, height = sensor_size
    for name, column, limit, axis in (("x", x, width, "width"), ("y", y, height, "height")):
        if column.size and (int(column.max()) >= limit or int(column.min()) < 0):
            index = int(np.argmax((column >= limit) | (column < 0)))
            return Fault(
                index,
                name,
                f"{name} = {column[index]} lies outside the sensor of {width} x {height} pixels",
                f"expected 0 <= {name} < {limit}; pass sensor_size=(width, height) if the sensor's {axis} is larger",
            )
    if p.size and (int(p.max()) > 1 or int(p.min()) < 0):
        index = int(np.argmax((p > 1) | (p < 0)))
        return Fault(index, "p", f"p = {p[index]}", "expected a polarity of 0 (darker) or 1 (brighter)")
    if t.size > 1 and bool((t[1:] < t[:-1]).any()):
        index = int(np.argmax(t[1:] < t[:-1])) + 1
        return backwards(index, t[index - 1], t[index])
    return None


def backwards(event: int, before_us: int, t_us: int) -> Fault:
    """Return the fault of an event at `t_us` that comes after one at `before_us`."""
    return Fault(
        event,
        "t",
        f"time runs backwards, from {before_us} to {t_us} microseconds",
        "expected times that never decrease; sort the events by time or cut the recording there",
    )


def check_sensor_size(sensor_size: tuple[int, int], name: str = "sensor_size") -> tuple[int, int]:
    """Return `sensor_size`, which the caller knows as `name`, as two plain positive integers.

    Raises:
        InputError: it is not a (width, height) of whole numbers between 1 and 65536.

    """
    try:
        width, height = (operator.index(side) for side in sensor_size)
    except (TypeError, ValueError):
        raise InputError(
            f"{name} is {sensor_size!r}; expected two whole numbers (width, height), such as (128, 128)"
        ) from None
    if not (1 <= width <= LARGEST_SIDE and 1 <= height <= LARGEST_SIDE):
        raise InputError(f"{name} is ({width}, {height}); expected sides between 1 and {LARGEST_SIDE} pixels")
    return width, height


def check_events(events: object, taker: str) -> Events:
    """Return `events`, if that is what they are.

    Args:
        events: what came.
        taker: the function that speaks.

    Raises:
        InputError: they are something else; the message says how to make events of a path or an array.

    """
    if isinstance(events, Events):
        return events
    if isinstance(events, str | os.PathLike):
        remedy = "read the file first, with rsnn.read_events(path)"
    elif set("txyp") <= set(getattr(getattr(events, "dtype", None), "names", None) or ()):
        remedy = "rsnn.Events.from_structured(array, sensor_size=(width, height)) makes them of a structured array"
    else:
        remedy = "make them with rsnn.Events(t=, x=, y=, p=, sensor_size=(width, height))"
    raise InputError(f"{taker} got a {type(events).__name__}; expected rsnn.Events: {remedy}")


def as_integers(name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return a column as an array (n,) of integers.

    Raises:
        InputError: it is no row of integers, or has times that do not fit in 63 bits.

    """
    column = np.asarray(values)
    if column.size == 0 and column.ndim == 1:
        return column.astype(np.int64)
    if column.ndim != 1:
        raise InputError(f"{name} has shape {column.shape}; expected one dimension, one number an event")
    if column.dtype.kind not in "iub":
        raise InputError(
            f"{name} holds {column.dtype} values; expected integers"
            + (": multiply seconds by 1e6 and round them first" if name == "t" else "")
        )
    if name == "t" and column.dtype.kind == "u" and int(column.max()) > LATEST_US:
        raise InputError(f"t reaches {column.max()}; expected microseconds that fit in 63 bits: at most {LATEST_US}")
    return column


@dataclass(frozen=True, eq=False, repr=False)
class Events:
    """Events of an event camera, in the order they happened.

    The columns are checked once, here, and kept as read-only arrays of compact types; arrays that have these types
    already are not copied, so leave them as they are. Events without any event are valid: a piece of a stream may hold
    none.

    Args:
        t: times in microseconds, non-decreasing; kept as int64, shape (n,).
        x: columns, 0 <= x < width; kept as uint16, shape (n,).
        y: rows, 0 <= y < height, row 0 at the top of the image; kept as uint16, shape (n,).
        p: polarities, 1 = brighter, 0 = darker; kept as uint8, shape (n,).
        sensor_size: (width, height) of the sensor in pixels.

    Raises:
        InputError: a column is not a row of integers, the columns differ in length, or a time does not fit in 63 bits.
        RecordingError: an event lies outside the sensor, has another polarity, or is earlier than the one
        before it.

    """

    t: npt.NDArray[np.int64]
    x: npt.NDArray[np.uint16]
    y: npt.NDArray[np.uint16]
    p: npt.NDArray[np.uint8]
    sensor_size: tuple[int, int]

    def __post_init__(self) -> None:
        columns = {name: as_integers(name, getattr(self, name)) for name in "txyp"}
        lengths = {name: column.size for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"the columns have lengths {lengths}; expected one t, x, y and p for each event")
        object.__setattr__(self, "sensor_size", check_sensor_size(self.sensor_size))
        if fault := find_fault(**columns, sensor_size=self.sensor_size):
            raise RecordingError(f"event {fault.event}: {fault.found}; {fault.remedy}")
        for name, column in columns.items():
            kept = column.astype(EVENT_DTYPE[name], copy=False).view()
            kept.flags.writeable = False
            object.__setattr__(self, name, kept)

    @classmethod
    def empty(cls, sensor_size: tuple[int, int]) -> Events:
        """Return no events of a sensor of (width, height) pixels."""
        none: list[int] = []
        return cls(t=none, x=none, y=none, p=none, sensor_size=sensor_size)  # type: ignore[arg-type]

    @classmethod
    def from_structured(cls, array: npt.NDArray[Any], sensor_size: tuple[int, int]) -> Events:
        """Return the events of a structured array with fields t, x, y and p, in any order, as tonic's."""
        fields = getattr(getattr(array, "dtype", None), "names", None)
        if not set("txyp") <= set(fields or ()):
            raise InputError(f"the {type(array).__name__} has the fields {fields}; expected t, x, y and p")
        return cls(t=array["t"], x=array["x"], y=array["y"], p=array["p"], sensor_size=sensor_size)

    def to_structured(self) -> npt.NDArray[np.void]:
        """Return a new structured array of shape (n,) with the fields t, x, y and p of `EVENT_DTYPE`."""
        array = np.empty(len(self), dtype=EVENT_DTYPE)
        for name in "txyp":
            array[name] = getattr(self, name)
        return array

    @property
    def duration_us(self) -> int:
        """Microseconds from the first event to the last; 0 for fewer than two events."""
        return int(self.t[-1]) - int(self.t[0]) if len(self) else 0

    def between(self, start_us: int, end_us: int) -> Events:
        """Return the events with `start_us <= t < end_us`; times stay as they are."""
        first, last = np.searchsorted(self.t, [start_us, end_us], side="left")
        return self[int(first) : int(last)]

    def __len__(self) -> int:
        return int(self.t.size)

    def __getitem__(self, index: slice) -> Events:
        """Return the events of a slice with a positive step, sharing memory with these."""
        if not isinstance(index, slice) or (index.step is not None and index.step <= 0):
            raise InputError(f"Events are cut by slices that run forwards, such as events[10:20]; got {index!r}")
        # A part of valid events is valid: there is nothing to check again.
        piece = object.__new__(Events)
        for name in "txyp":
            object.__setattr__(piece, name, getattr(self, name)[index])
        object.__setattr__(piece, "sensor_size", self.sensor_size)
        return piece

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Be copied or unpickled with columns that are read-only, as they were: NumPy makes writable ones."""
        for name, value in state.items():
            if name in "txyp":
                value.flags.writeable = False
            object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Events):
            return NotImplemented
        return self.sensor_size == other.sensor_size and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in "txyp"
        )

    def __repr__(self) -> str:
        width, height = self.sensor_size
        span = f", t = {self.t[0]} to {self.t[-1]} us" if len(self) else ""
        return f"Events({len(self)} events{span}, {width} x {height} pixels)"
