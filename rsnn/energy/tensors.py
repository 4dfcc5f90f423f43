"""Tensors in what modules take and return, and what tells one from another."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def tensors_in(tree: Any) -> list[Tensor]:
    """Return the tensors in nested tuples and lists."""
    if isinstance(tree, Tensor):
        return [tree]
    return [tensor for branch in tree for tensor in tensors_in(branch)] if isinstance(tree, tuple | list) else []


def storage(tensor: Tensor) -> int:
    """Return what all views of a tensor share, and no other tensor has while it lives."""
    return tensor.untyped_storage()._cdata
