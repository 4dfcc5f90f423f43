"""Checks of the numbers that users give: Python's, NumPy's and fractions alike."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Sequence
from typing import Any

from rsnn.errors import InputError, shown


def is_number(value: object) -> bool:
    """Tell whether a value is a real number; a truth value is none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


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


def check_seed(seed: int | Sequence[int]) -> int | tuple[int, ...]:
    """Return a seed as plain whole numbers.

    Raises:
        InputError: it is none, or below 0.

    """
    if isinstance(seed, tuple | list):
        return tuple(check_whole("seed", part, 0) for part in seed)
    return check_whole("seed", seed, 0)
