"""Tensors within tuples, lists and dicts, as functions take and return them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

from torch import Tensor


def leaves(value: Any) -> Iterator[Any]:
    """Yield everything that is no tuple, list or dict."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors, in the order that `leaves` has them."""
    return [leaf for leaf in leaves(value) if isinstance(leaf, Tensor)]


def mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return the same structure with every tensor replaced by `function` of it."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        changed = copy(value)  # of its own kind
        for name, item in value.items():
            changed[name] = mapped(function, item)
        return changed
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(function, item) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(mapped(function, item) for item in value)
    return value
