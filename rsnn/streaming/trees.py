"""A model's state, whatever it is made of: its tensors out of it, others into it, several side by side.

A state is a tree of tuples, named tuples, lists and dicts whose leaves are tensors and plain values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


def leaves(tree: Any) -> Iterator[Any]:
    """Yield the leaves, left to right."""
    if isinstance(tree, tuple | list):
        for branch in tree:
            yield from leaves(branch)
    elif isinstance(tree, dict):
        for branch in tree.values():
            yield from leaves(branch)
    else:
        yield tree


def mapped(tree: Any, change: Callable[[Any], Any]) -> Any:
    """Return a tree of the same make whose leaves are `change(leaf)`, left to right."""
    if isinstance(tree, dict):
        return {name: mapped(branch, change) for name, branch in tree.items()}
    if isinstance(tree, tuple | list):
        branches = [mapped(branch, change) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else type(tree)(branches)
    return change(tree)


def signature(tree: Any, batch_axes: list[int | None]) -> tuple[Any, ...]:
    """Return what states must have in common to run side by side: everything but the tensors' numbers."""
    return tuple(
        (tuple(leaf.shape[:axis]), tuple(leaf.shape[axis + 1 :]), leaf.dtype)
        if axis is not None
        else (id(leaf) if isinstance(leaf, Tensor) else leaf)
        for leaf, axis in zip(leaves(tree), batch_axes, strict=True)
    )


def batch_axes(one: Any, two: Any) -> list[int | None]:
    """Return the axis of each leaf that counts the samples, from the states of one and of two samples."""
    return [_batch_axis(a, b) for a, b in zip(leaves(one), leaves(two), strict=True)]


def _batch_axis(one: Any, two: Any) -> int | None:
    if not isinstance(one, Tensor):
        return None
    return next((axis for axis, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)) if a != b), None)


def joined(trees: list[Any], axes: list[int | None]) -> Any:
    """Return the state of all samples side by side, of states with one signature."""
    columns = zip(*(leaves(tree) for tree in trees), strict=True)
    parts = iter(
        [values[0] if axis is None else torch.cat(values, axis) for values, axis in zip(columns, axes, strict=True)]
    )
    return mapped(trees[0], lambda _leaf: next(parts))


def sample(tree: Any, axes: list[int | None], index: int) -> Any:
    """Return the state of one sample."""
    places = iter(axes)

    def cut(leaf: Any) -> Any:
        axis = next(places)
        # A copy: a view would keep the whole batch alive.
        return leaf if axis is None else leaf.narrow(axis, index, 1).clone()

    return mapped(tree, cut)
