"""What a number is, for all checks of the numbers that users give: Python's, NumPy's and fractions alike."""

from __future__ import annotations

import math
import operator
from numbers import Integral, Real
from typing import Any

from rsnn.errors import InputError, shown


def is_whole(value: object) -> bool:
    """Tell whether a value is a whole number; a truth value is none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Tell whether a value is a real number; a truth value is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Tell whether a value is a real number that a float can hold, neither NaN nor infinite."""
    try:
        return is_number(value) and math.isfinite(value)
    except OverflowError:
        return False


def as_float(value: float) -> float:
    """Return a number of any kind as Python computes with it; Python's own stay what they are."""
    return value if isinstance(value, int | float) else float(value)


def check_whole(name: str, value: Any, least: int) -> int:
    """Return a whole number as a plain int.

    Raises:
        InputError: it is none, or below `least`.

    """
    try:
        if isinstance(value, bool) or (number := operator.index(value)) < least:
            raise TypeError
    except TypeError:
        raise InputError(f"{name} is {shown(value)}; expected a whole number of at least {least}") from None
    return number
