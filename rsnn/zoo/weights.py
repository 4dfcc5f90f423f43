"""Published weights, as plain data; the first entry of a name is its default."""

from __future__ import annotations

from rsnn.hub import WeightsEntry

WEIGHTS: tuple[WeightsEntry, ...] = ()
