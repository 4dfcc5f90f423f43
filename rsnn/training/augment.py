"""Random changes of a recording that leave its class what it is: moved, turned, cut, thinned out.

One affine map of the events does what moves them, so a recording costs one pass however many changes are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rsnn.data import Events
from rsnn.errors import ConfigError


@dataclass(frozen=True)
class Augment:
    """How much training changes each recording, each time it is shown; 0 everywhere changes nothing.

    Attributes:
        rotate_degrees: largest turn about the centre, either way.
        scale: largest change of the size, as a share; the two axes apart.
        shear: largest shear, as a share of the height.
        shift: largest shift, as a share of the sensor's sides.
        cut: largest share of the duration that is cut off at the begin, and again at the end.
        drop: largest share of the events that is left out.
        flip: probability of a left-right mirror image; only where that keeps the class.
        invert: probability that darker and brighter change places.

    """

    rotate_degrees: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    cut: float = 0.0
    drop: float = 0.0
    flip: float = 0.0
    invert: float = 0.0

    def __post_init__(self) -> None:
        limits = {"rotate_degrees": 180.0, "scale": 0.9, "shear": 1.0, "shift": 1.0, "cut": 0.49, "drop": 0.99}
        for name in self.__dataclass_fields__:
            value, largest = getattr(self, name), limits.get(name, 1.0)
            if not 0 <= value <= largest:
                raise ConfigError(f"augment.{name} = {value}: expected a number from 0 to {largest:g}")

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        """Return the recording as this draw of `rng` changes it."""
        if not any(getattr(self, name) for name in self.__dataclass_fields__) or not len(events):
            return events
        width, height = events.sensor_size
        matrix, offset = self._affine(width, height, rng)
        places = matrix @ np.stack((events.x + 0.5, events.y + 0.5)) + offset
        x, y = np.floor(places).astype(np.int64)
        start, end = rng.uniform(0, self.cut, 2) * events.duration_us
        since = events.t - events.t[0]
        kept = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        kept &= (since >= start) & (since <= events.duration_us - end)
        kept &= rng.random(len(events)) >= rng.uniform(0, self.drop)
        p = 1 - events.p if rng.random() < self.invert else events.p
        return Events(t=events.t[kept], x=x[kept], y=y[kept], p=p[kept], sensor_size=events.sensor_size)

    def _affine(self, width: int, height: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return the matrix (2, 2) and the offset (2, 1) that take (x, y) to where it moves."""
        angle = np.deg2rad(rng.uniform(-self.rotate_degrees, self.rotate_degrees))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        wider, taller = 1 + rng.uniform(-self.scale, self.scale, 2)
        stretch = np.array([[wider, rng.uniform(-self.shear, self.shear)], [0.0, taller]])
        mirror = np.diag([-1.0 if rng.random() < self.flip else 1.0, 1.0])
        matrix = turn @ stretch @ mirror
        side = np.array([[width], [height]])
        return matrix, side / 2 + rng.uniform(-self.shift, self.shift, (2, 1)) * side - matrix @ (side / 2)
