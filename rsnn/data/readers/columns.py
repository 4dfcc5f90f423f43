"""Columns of numbers that say themselves what they are, for the readers of tables.

- Time: integers are microseconds; floats are seconds if any has a fractional part, else microseconds. A name
  that carries the unit (`t_us`, `t_ms`, `t_s`, `t_ns`) decides.
- Polarity: 1 (or true) is brighter; 0, -1 (or false) is darker. Anything else is an error.
- Coordinates: whole numbers, whatever their type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rsnn.data.readers.common import Block, Source

DEFAULT_ORDER = ("t", "x", "y", "p")

ALIASES = {
    "t": (
        "t",
        "ts",
        "time",
        "times",
        "timestamp",
        "timestamps",
        "t_us",
        "t_ms",
        "t_s",
        "t_ns",
        "timestamp_us",
        "time_us",
    ),
    "x": ("x", "xs", "x_pos", "col", "column"),
    "y": ("y", "ys", "y_pos", "row"),
    "p": ("p", "ps", "pol", "pols", "polarity", "polarities", "on"),
}
MICROSECONDS_OF_SUFFIX = {"_us": 1.0, "_ms": 1e3, "_s": 1e6, "_ns": 1e-3}


def find_columns(names: Iterable[str]) -> dict[str, str] | None:
    """Return which of `names` is t, x, y and p, or `None` if one of them is missing.

    Case does not matter, unless it is all that tells two columns apart: of T and t the latter is the time.
    """
    exact = {name: name for name in names}
    lower = {name.lower(): name for name in reversed(exact)}
    found = {}
    for field, aliases in ALIASES.items():
        match = next((known[alias] for known in (exact, lower) for alias in aliases if alias in known), None)
        if match is None:
            return None
        found[field] = match
    return found


def unit_of_name(name: str) -> float | None:
    """Return the microseconds in one unit of a time column if its name ends with a unit, else `None`."""
    return next((unit for suffix, unit in MICROSECONDS_OF_SUFFIX.items() if name.lower().endswith(suffix)), None)


def block_of(
    source: Source, columns: Mapping[str, npt.NDArray[Any]], unit: float | None, where: Callable[[int], str]
) -> Block:
    """Return columns t, x, y, p as events; `unit` is the microseconds in one unit of t, if known.

    Raises:
        RecordingError: the lengths differ or a value is none that its column can have.

    """
    lengths = {field: columns[field].shape for field in DEFAULT_ORDER}
    if len(set(lengths.values())) > 1 or columns["t"].ndim != 1:
        raise source.fault(f"the columns have shapes {lengths}; expected one dimension and the same length")
    return Block(
        t=_as_microseconds(source, columns["t"], unit, where),
        x=_as_whole(source, "x", columns["x"], where),
        y=_as_whole(source, "y", columns["y"], where),
        p=_as_polarity(source, columns["p"], where),
        where=where,
    )


def _as_microseconds(
    source: Source, t: npt.NDArray[Any], unit: float | None, where: Callable[[int], str]
) -> npt.NDArray[np.int64]:
    _check_numbers(source, "t", t, where)
    if t.dtype.kind in "iu" and unit in (None, 1.0):
        if t.size and int(t.max()) > np.iinfo(np.int64).max:
            index = int(np.argmax(t))
            raise source.fault(f"{where(index)} has the time {t[index]}; expected microseconds that fit in 63 bits")
        return t.astype(np.int64, copy=False)
    if unit is None:
        unit = 1e6 if t.size and bool((t % 1 != 0).any()) else 1.0
    with np.errstate(over="ignore"):  # infinite ones are refused with the others that are too large
        micros = np.rint(t.astype(np.float64) * unit)
    if micros.size and float(np.abs(micros).max()) >= 2.0**63:
        index = int(np.argmax(np.abs(micros)))
        raise source.fault(f"{where(index)} has the time {t[index]}; expected microseconds that fit in 63 bits")
    return micros.astype(np.int64)


def _as_whole(source: Source, name: str, values: npt.NDArray[Any], where: Callable[[int], str]) -> npt.NDArray[Any]:
    _check_numbers(source, name, values, where)
    if values.dtype.kind in "iub":
        return values
    wrong = (values % 1 != 0) | (np.abs(values) >= 2.0**31)
    if wrong.any():
        index = int(np.argmax(wrong))
        raise source.fault(f"{where(index)} has {name} = {values[index]}; expected a whole number of pixels")
    return values.astype(np.int64)


def _as_polarity(source: Source, p: npt.NDArray[Any], where: Callable[[int], str]) -> npt.NDArray[np.uint8]:
    _check_numbers(source, "p", p, where)
    brighter = p == 1
    wrong = ~(brighter | (p == 0) | (p == -1))
    if wrong.any():
        index = int(np.argmax(wrong))
        raise source.fault(
            f"{where(index)} has the polarity {p[index]}; expected 1 for brighter and 0 or -1 for darker: "
            "name the columns if their order is not t, x, y, p"
        )
    return np.asarray(brighter, dtype=np.uint8)


def _check_numbers(source: Source, name: str, values: npt.NDArray[Any], where: Callable[[int], str]) -> None:
    if values.dtype.kind not in "iubf":
        raise source.fault(f"{name} holds values of type {values.dtype}; expected numbers")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        index = int(np.argmax(~np.isfinite(values)))
        raise source.fault(f"{where(index)} has {name} = {values[index]}; expected a finite number")
