"""How sequences lie in memory.

Shapes: T steps, N batch, C channels, H height, W width.
"""

from __future__ import annotations

from torch import Tensor


def steps_are_dense(x: Tensor) -> bool:
    """Tell whether the steps of `x` follow one another, each without gaps or overlaps, all in one order."""
    expected = 1
    for size, stride in sorted(zip(x.shape[1:], x.stride()[1:], strict=True), key=lambda axis: axis[1]):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return x.shape[0] == 1 or x.stride(0) == expected


def channels_last(x: Tensor) -> Tensor:
    """Return `x` (..., C, H, W) with its channels next to each other in memory, itself where they are."""
    order = x.movedim(-3, -1)
    return x if order.is_contiguous() else order.contiguous().movedim(-1, -3)
