"""Columns of numbers that say themselves what they are, for the readers of tables.

- Time: integers are microseconds; floats are seconds if any has a fractional part, else microseconds. A name
  that carries the unit (`t_us`, `t_ms`, `t_s`, `t_ns`) decides.
- Polarity: 1 (or true) is brighter; 0, -1 (or false) is darker. Anything else is an error.
- Coordinates: whole numbers, whatever their type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from rsnn.data.events import LATEST_US
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
MICROSECOND, SECOND = Fraction(1), Fraction(10**6)  # in microseconds
UNIT_OF_SUFFIX = {"_us": MICROSECOND, "_ms": Fraction(1000), "_s": SECOND, "_ns": Fraction(1, 1000)}


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


def unit_of_name(name: str) -> Fraction | None:
    """Return the microseconds in one unit of a time column if its name ends with a unit, else `None`."""
    return next((unit for suffix, unit in UNIT_OF_SUFFIX.items() if name.lower().endswith(suffix)), None)


def unit_of_values(t: npt.NDArray[Any]) -> Fraction:
    """Return the microseconds in one unit of a time column without a name: a fraction means seconds."""
    return SECOND if t.dtype.kind == "f" and bool((t != np.floor(t)).any()) else MICROSECOND


def block_of(
    source: Source, columns: Mapping[str, npt.NDArray[Any]], unit: Fraction | None, where: Callable[[int], str]
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
    source: Source, t: npt.NDArray[Any], unit: Fraction | None, where: Callable[[int], str]
) -> npt.NDArray[np.int64]:
    _check_numbers(source, "t", t, where)
    unit = unit or unit_of_values(t)
    if t.dtype.kind == "f":
        with np.errstate(over="ignore"):  # infinite ones are refused with the others that are too large
            micros = np.rint(t.astype(np.result_type(t, np.float64)) * float(unit))
        wrong = np.abs(micros) >= 2.0**63
    else:
        micros = _divided(t if t.dtype == np.uint64 else t.astype(np.int64, copy=False), unit.denominator)
        most, least = LATEST_US // unit.numerator, -((LATEST_US + 1) // unit.numerator)
        wrong = (micros > most) | (micros < least)
        if unit.numerator > 1 and not wrong.any():
            micros = micros.astype(np.int64) * unit.numerator
    if wrong.any():
        index = int(np.argmax(wrong))
        raise source.fault(f"{where(index)} has the time {t[index]}; expected microseconds that fit in 63 bits")
    return micros.astype(np.int64, copy=False)


def _divided(t: npt.NDArray[Any], divisor: int) -> npt.NDArray[Any]:
    """Return whole numbers divided and rounded as `numpy.rint` does, a half to the even number."""
    if divisor == 1:
        return t
    whole, rest = np.divmod(t, divisor)
    return whole + ((2 * rest > divisor) | ((2 * rest == divisor) & (whole % 2 == 1)))


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
