"""Filters of recordings, which drop events by what happened near them: nothing in them is random.

Letters: n events; the time at a pixel is kept together with the pixel in one sorted number, so that "the last event at
that pixel before this time" is one binary search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rsnn.data.events import Events
from rsnn.data.transforms.base import Transform, check_range
from rsnn.data.transforms.events import INFINITY, chosen
from rsnn.errors import InputError

NEIGHBOURS = tuple((dx, dy) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dx or dy)


@dataclass(frozen=True)
class Refractory(Transform):
    """Drop what a pixel fires within some time of its last event that was kept.

    Attributes:
        period_us: an event is kept if at least this many microseconds have passed.

    """

    period_us: int

    def __post_init__(self) -> None:
        check_range(self, 0, INFINITY, period_us=self.period_us)

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:  # noqa: ARG002 - nothing is random here
        if len(events) < 2:
            return events
        period = min(int(self.period_us), events.duration_us + 1)
        width, _ = events.sensor_size
        _, pixel = np.unique(events.y.astype(np.int64) * width + events.x, return_inverse=True)
        keys = _keys(events, pixel, events.duration_us + period + 1)
        order = np.argsort(keys, kind="stable")
        # If an event is kept, the next one that is kept is the first at least a period later at this pixel, or the
        # first of the next pixel. An event at the same time comes after it, whatever the period.
        following = np.searchsorted(keys[order], keys[order] + period, side="left")
        following = np.maximum(following, np.arange(1, len(events) + 1)).tolist()
        kept = []
        place = 0
        while place < len(events):
            kept.append(place)
            place = following[place]
        mask = np.zeros(len(events), dtype=bool)
        mask[order[kept]] = True
        return chosen(events, mask)


@dataclass(frozen=True)
class Denoise(Transform):
    """Drop events that none of the eight neighbouring pixels supports by an event shortly before, or at the same time.

    After Delbruck, "Frame-free dynamic digital vision", 2008: noise comes alone, edges do not.

    Attributes:
        window_us: how long before, in microseconds, an event of a neighbour counts.

    """

    window_us: int

    def __post_init__(self) -> None:
        check_range(self, 0, INFINITY, window_us=self.window_us)

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:  # noqa: ARG002 - nothing is random here
        if not len(events):
            return events
        window = min(int(self.window_us), events.duration_us)
        # A border of one pixel around the sensor, where nothing fires, makes all neighbours' numbers valid.
        width = events.sensor_size[0] + 2
        pixel = (events.y.astype(np.int64) + 1) * width + events.x + 1
        spacing = events.duration_us + window + 1
        keys = _keys(events, pixel, spacing)
        known = np.sort(keys)
        supported = np.zeros(len(events), dtype=bool)
        for dx, dy in NEIGHBOURS:
            lonely = np.flatnonzero(~supported)
            wanted = keys[lonely] + (dy * width + dx) * spacing
            last = known[np.maximum(np.searchsorted(known, wanted, side="right") - 1, 0)]
            supported[lonely] = (last <= wanted) & (last >= wanted - window)
        return chosen(events, supported)


def _keys(events: Events, pixel: npt.NDArray[Any], spacing: int) -> npt.NDArray[np.int64]:
    if (int(pixel.max()) + 2) * spacing >= 1 << 62:
        raise InputError(
            f"the recording lasts {events.duration_us} microseconds on {events.sensor_size} pixels, too long to filter "
            "at once; expected at most some days: cut it, as iter_events does"
        )
    return pixel.astype(np.int64) * spacing + (events.t - events.t[0])
