"""Changes of recordings: of their events' places, times and polarities, and which of them there are.

Letters: n events; a sensor is (width, height). Each returns events in the order of time, on a sensor of the same size
unless it says otherwise, and leaves what it was given as it is. There may be no events in what comes back.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rsnn.data.events import LARGEST_SIDE, Events
from rsnn.data.transforms.base import Transform, check_range
from rsnn.errors import InputError

INFINITY = float("inf")
LONGEST_US = 1e15  # thirty years


@dataclass(frozen=True)
class Crop(Transform):
    """Keep a rectangle of the sensor, at a random place; it is the sensor of what comes back.

    Attributes:
        size: (height, width), at most the sensor's.
        centred: take the middle instead.

    """

    size: tuple[int, int]
    centred: bool = False

    def __post_init__(self) -> None:
        check_shape(self, self.size)

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        (height, width), (sensor_width, sensor_height) = self.size, events.sensor_size
        if height > sensor_height or width > sensor_width:
            raise InputError(
                f"Crop: size is ({height}, {width}); expected at most the sensor's ({sensor_height}, {sensor_width})"
            )
        if self.centred:
            left, top = (sensor_width - width) // 2, (sensor_height - height) // 2
        else:
            left, top = int(rng.integers(sensor_width - width + 1)), int(rng.integers(sensor_height - height + 1))
        return placed(events, events.x.astype(np.int64) - left, events.y.astype(np.int64) - top, (width, height))


@dataclass(frozen=True)
class Shift(Transform):
    """Move all events by the same random number of whole pixels; what leaves the sensor is left out.

    Attributes:
        most: the largest shift either way, as a share of the sensor's sides.

    """

    most: float = 0.1

    def __post_init__(self) -> None:
        check_range(self, 0, 1, most=self.most)

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        dx, dy = (rng.integers(-int(self.most * side), int(self.most * side) + 1) for side in events.sensor_size)
        return placed(events, events.x.astype(np.int64) + dx, events.y.astype(np.int64) + dy, events.sensor_size)


@dataclass(frozen=True)
class Flip(Transform):
    """Mirror left and right, or top and bottom, and the class with it.

    Attributes:
        probability: of the mirror image.
        labels: what a class becomes if it is another one in the mirror, such as
            `rsnn.data.datasets.gesture.MIRRORED_LABELS`; classes that are not in it stay.
        vertical: mirror top and bottom instead.

    """

    probability: float = 0.5
    labels: Mapping[int, int] = field(default_factory=dict, hash=False)
    vertical: bool = False

    def __post_init__(self) -> None:
        check_range(self, 0, 1, probability=self.probability)
        check_mirror(self, self.labels)

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        return self.with_label(events, 0, rng)[0]

    def with_label(self, events: Events, label: int, rng: np.random.Generator) -> tuple[Events, int]:
        if rng.random() >= self.probability:
            return events, label
        width, height = events.sensor_size
        x = events.x if self.vertical else width - 1 - events.x
        y = height - 1 - events.y if self.vertical else events.y
        return replaced(events, x=x, y=y), self.labels.get(label, label)


@dataclass(frozen=True)
class TimeJitter(Transform):
    """Move every event in time by a random amount of its own, and put them in order again.

    Attributes:
        sigma_us: standard deviation in microseconds.

    """

    sigma_us: float

    def __post_init__(self) -> None:
        check_range(self, 0, LONGEST_US, sigma_us=self.sigma_us)

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        t = events.t + np.rint(rng.normal(0, self.sigma_us, len(events))).astype(np.int64)
        return ordered(t, events.x, events.y, events.p, events.sensor_size)


@dataclass(frozen=True)
class TimeScale(Transform):
    """Let the recording pass slower or faster from its first event on, by a random factor.

    Attributes:
        lowest: least factor of the duration.
        highest: greatest factor; any between is as likely, on a logarithmic scale.

    """

    lowest: float = 0.8
    highest: float = 1.25

    def __post_init__(self) -> None:
        check_range(self, 1e-3, 1e3, lowest=self.lowest, highest=self.highest)
        check_range(self, self.lowest, 1e3, highest=self.highest)

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        factor = math.exp(rng.uniform(math.log(self.lowest), math.log(self.highest)))
        if not len(events):
            return events
        first = events.t[0]
        return replaced(events, t=first + np.rint((events.t - first) * factor).astype(np.int64))


@dataclass(frozen=True)
class RandomWindow(Transform):
    """Keep the events of a window of time, at a random place; a shorter recording stays whole.

    Attributes:
        duration_us: length of the window in microseconds.

    """

    duration_us: int

    def __post_init__(self) -> None:
        check_range(self, 1, INFINITY, duration_us=self.duration_us)

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        if events.duration_us < self.duration_us:
            return events
        start = int(events.t[0]) + int(rng.integers(events.duration_us - self.duration_us + 2))
        return events.between(start, start + int(self.duration_us))


@dataclass(frozen=True)
class DropEvents(Transform):
    """Leave out every event with the same random probability.

    Attributes:
        most: the largest probability.

    """

    most: float = 0.9

    def __post_init__(self) -> None:
        check_range(self, 0, 1, most=self.most)

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        return chosen(events, rng.random(len(events)) >= rng.uniform(0, self.most))


@dataclass(frozen=True)
class DropArea(Transform):
    """Leave out all events in a random rectangle of the sensor's shape.

    Attributes:
        most: the largest share of the sensor's sides that the rectangle takes.

    """

    most: float = 0.3

    def __post_init__(self) -> None:
        check_range(self, 0, 1, most=self.most)

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        share = rng.uniform(0, self.most)
        inside = np.ones(len(events), dtype=bool)
        for column, side in ((events.x, events.sensor_size[0]), (events.y, events.sensor_size[1])):
            length = round(share * side)
            begin = int(rng.integers(side - length + 1))
            inside &= (column >= begin) & (column < begin + length)
        return chosen(events, ~inside)


@dataclass(frozen=True)
class DropTime(Transform):
    """Leave out all events of a random stretch of time.

    Attributes:
        most: the largest share of the recording's duration.

    """

    most: float = 0.9

    def __post_init__(self) -> None:
        check_range(self, 0, 1, most=self.most)

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        if not len(events):
            return events
        length = rng.uniform(0, self.most) * events.duration_us
        begin = rng.uniform(0, events.duration_us - length)
        since = events.t - events.t[0]
        return chosen(events, ~((since >= begin) & (since < begin + length)))


@dataclass(frozen=True)
class EventDrop(Transform):
    """One of four, each as likely: nothing, `DropEvents`, `DropArea`, `DropTime`.

    After Gu et al., "EventDrop: Data Augmentation for Event-based Learning", IJCAI 2021, with shares drawn from a range
    instead of from ten values.

    Attributes:
        events: largest share of events.
        area: largest share of the sensor's sides.
        time: largest share of the duration.

    """

    events: float = 0.9
    area: float = 0.3
    time: float = 0.9

    def __post_init__(self) -> None:
        check_range(self, 0, 1, events=self.events, area=self.area, time=self.time)

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        drops: tuple[Transform, ...] = (DropEvents(self.events), DropArea(self.area), DropTime(self.time))
        choice = int(rng.integers(len(drops) + 1))
        dropped: Events = events if choice == len(drops) else drops[choice](events, rng)
        return dropped


@dataclass(frozen=True)
class FlipPolarity(Transform):
    """Exchange brighter and darker.

    Attributes:
        probability: that it happens, to the whole recording.

    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        check_range(self, 0, 1, probability=self.probability)

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        return replaced(events, p=1 - events.p) if rng.random() < self.probability else events


@dataclass(frozen=True)
class HotPixels(Transform):
    """Add pixels that fire all the time, each with a polarity of its own.

    Attributes:
        pixels: how many.
        rate_hz: mean rate of each; the times are those of a Poisson process.

    """

    pixels: int = 5
    rate_hz: float = 100.0

    def __post_init__(self) -> None:
        check_range(self, 0, 1 << 32, pixels=self.pixels)
        check_range(self, 0, 1e6, rate_hz=self.rate_hz)

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        width, height = events.sensor_size
        x, y, p = (rng.integers(limit, size=int(self.pixels)) for limit in (width, height, 2))
        counts = rng.poisson(self.rate_hz * 1e-6 * events.duration_us, int(self.pixels))
        pixel = np.repeat(np.arange(int(self.pixels)), counts)
        return _with_noise(events, x[pixel], y[pixel], p[pixel], rng)


@dataclass(frozen=True)
class BackgroundNoise(Transform):
    """Add events at random pixels, times and polarities.

    Attributes:
        rate_hz: mean rate of one pixel.

    """

    rate_hz: float = 0.1

    def __post_init__(self) -> None:
        check_range(self, 0, 1e6, rate_hz=self.rate_hz)

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        width, height = events.sensor_size
        n = int(rng.poisson(self.rate_hz * 1e-6 * events.duration_us * width * height))
        x, y, p = (rng.integers(limit, size=n) for limit in (width, height, 2))
        return _with_noise(events, x, y, p, rng)


def _with_noise(
    events: Events, x: npt.NDArray[Any], y: npt.NDArray[Any], p: npt.NDArray[Any], rng: np.random.Generator
) -> Events:
    if not len(events):
        return events
    t = rng.integers(events.t[0], events.t[-1] + 1, size=len(x))
    columns = ((events.t, t), (events.x, x), (events.y, y), (events.p, p))
    both_t, both_x, both_y, both_p = (np.concatenate(pair) for pair in columns)
    return ordered(both_t, both_x, both_y, both_p, events.sensor_size)


def chosen(events: Events, mask: npt.NDArray[np.bool_]) -> Events:
    """Return the events where `mask` (n,) is true."""
    return Events(events.t[mask], events.x[mask], events.y[mask], events.p[mask], events.sensor_size)


def placed(events: Events, x: npt.NDArray[Any], y: npt.NDArray[Any], sensor_size: tuple[int, int]) -> Events:
    """Return the events at other places, those that fall on the sensor."""
    width, height = sensor_size
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return Events(events.t[inside], x[inside], y[inside], events.p[inside], sensor_size)


def replaced(events: Events, **columns: npt.NDArray[Any]) -> Events:
    """Return the events with some columns replaced."""
    return Events(**({name: getattr(events, name) for name in "txyp"} | columns), sensor_size=events.sensor_size)


def ordered(
    t: npt.NDArray[Any],
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
    p: npt.NDArray[Any],
    sensor_size: tuple[int, int],
) -> Events:
    """Return events in the order of time; those of one time stay in the order in which they are given."""
    order = np.argsort(t, kind="stable")
    return Events(t[order], x[order], y[order], p[order], sensor_size)


def check_shape(what: object, size: object) -> None:
    """Check that `size` is a (height, width) in pixels.

    Raises:
        InputError: it is none.

    """
    try:
        height, width = (operator.index(side) for side in size)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        height = width = 0
    if not (1 <= height <= LARGEST_SIDE and 1 <= width <= LARGEST_SIDE):
        raise InputError(
            f"{type(what).__name__}: size is {size!r}; expected a (height, width) of whole numbers from 1 to "
            f"{LARGEST_SIDE}"
        )


def check_mirror(what: object, labels: Mapping[int, int]) -> None:
    """Check that `labels` exchanges classes: that each of its classes is what one of them becomes.

    Raises:
        InputError: it does not.

    """
    if set(labels) != set(labels.values()):
        raise InputError(
            f"{type(what).__name__}: labels is {dict(labels)}; expected each class in it to become another one of "
            "them, such as {1: 2, 2: 1}"
        )
