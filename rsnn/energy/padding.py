"""Zeros that were put around a tensor, which are not counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Padding:
    """Zeros around a tensor: how many before and after it along each of its last axes, and how those lie in memory."""

    sides: tuple[tuple[int, int], ...]
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    elements: int

    @classmethod
    def of(cls, padded: Tensor, pad: Sequence[int]) -> Padding:
        """Return the padding of `torch.nn.functional.pad`, which names the last axis first."""
        sides = list(zip(pad[-2::-2], pad[::-2], strict=True))
        while sides and sides[0] == (0, 0):
            del sides[0]
        first = padded.ndim - len(sides)
        return cls(tuple(sides), padded.shape[first:], padded.stride()[first:], padded.numel())

    def cut_off(self, x: Tensor, axes: int) -> tuple[Tensor, list[int]]:
        """Return x without the zeros along its last axes, and how many came before it there; x if it lacks some."""
        if not self._is_all_of(x, axes):
            return x, [0] * axes
        for axis, (before, after) in enumerate(self.sides, start=-len(self.sides)):
            x = x.narrow(axis, before, x.shape[axis] - before - after)
        return x, [0] * (axes - len(self.sides)) + [before for before, _ in self.sides]

    def _is_all_of(self, x: Tensor, axes: int) -> bool:
        """Tell whether x is the padded tensor, or a view that leaves the padded axes, at most so many, as they are."""
        first = x.ndim - len(self.sides)
        return (
            len(self.sides) <= axes
            and all(before >= 0 <= after for before, after in self.sides)
            and (x.numel(), x.shape[first:], x.stride()[first:]) == (self.elements, self.shape, self.stride)
        )
