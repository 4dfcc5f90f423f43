"""How a performer moves: smooth random functions of time, and arms that follow their hands.

Letters: F instants. Positions of an arm are relative to its shoulder as (out, down, near): away from the body,
downwards, towards the camera; metres.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rsnn.data.simulate.gestures.body import Body

FloatArray = npt.NDArray[np.float64]


class Tempo:
    """Random functions of time of one clip; every call draws a new one.

    Args:
        t: instants in seconds, shape (F,).
        rng: of the clip.

    """

    def __init__(self, t: FloatArray, rng: np.random.Generator) -> None:
        self.t = t
        self.rng = rng

    def wobble(self, size: float, slowest_hz: float = 0.1, fastest_hz: float = 0.8) -> FloatArray:
        """Return a slow random function, shape (F,), of standard deviation about `size`."""
        hz = np.exp(self.rng.uniform(np.log(slowest_hz), np.log(fastest_hz), 4))
        phase = self.rng.uniform(0, 2 * np.pi, 4)
        weight = self.rng.normal(0, size / np.sqrt(2), 4)
        return np.asarray((np.sin(2 * np.pi * hz * self.t[:, None] + phase) * weight).sum(1))

    def factor(self, size: float) -> FloatArray:
        """Return a slow random function around 1."""
        return np.exp(self.wobble(size))

    def between(self, least: float, most: float) -> float:
        """Return a number whose logarithm is uniform between two."""
        return float(np.exp(self.rng.uniform(np.log(least), np.log(most))))

    def phase(self, hz: float) -> FloatArray:
        """Return the phase in radians, shape (F,), of a movement of about `hz` that hurries, lingers, or pauses."""
        step = np.gradient(self.t) if self.t.size > 1 else np.zeros(1)
        pace = hz * self.factor(self.rng.uniform(0.04, 0.22))
        if self.rng.random() < 0.1:
            pace *= self._pauses()
        turned = 2 * np.pi * np.cumsum(pace * step) + self.rng.uniform(0, 2 * np.pi)
        # Part of each turn is faster than the rest, as a falling arm is.
        return np.asarray(turned + self.rng.uniform(0, 0.4) * np.sin(turned + self.rng.uniform(0, 2 * np.pi)))

    def _pauses(self) -> FloatArray:
        """Return 1 while moving and nearly 0 in a rest every few seconds, shape (F,)."""
        every_s, share = self.rng.uniform(1.4, 4.0), self.rng.uniform(0.1, 0.3)
        place = np.cos(2 * np.pi * self.t / every_s + self.rng.uniform(0, 2 * np.pi))
        return np.clip(0.5 + 6 * (np.cos(np.pi * share) - place), 0.03, 1)


def path(out: object, down: object, near: object, F: int) -> FloatArray:
    """Return (F, 3) from three functions of time or constants."""
    return np.stack([np.broadcast_to(np.asarray(part, dtype=np.float64), (F,)) for part in (out, down, near)], axis=1)


def reach(wrist: FloatArray, body: Body, pole: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return elbow and wrist, each (F, 3), of an arm whose wrist goes where it should or as near as it can.

    Two-segment inverse kinematics: the elbow lies on the circle that both segments allow, on the side of `pole`.

    Args:
        wrist: where the wrist should be, (F, 3).
        body: lengths of the arm.
        pole: direction that the elbow points to, (3,) or (F, 3).

    """
    a, b = body.upper_arm, body.forearm
    distance = np.linalg.norm(wrist, axis=1, keepdims=True)
    direction = wrist / np.maximum(distance, 1e-6)
    # A soft limit: an arm that is pulled straight slows down before it is.
    longest = 0.985 * (a + b)
    knee = 0.88 * longest
    distance = np.where(
        distance > knee, knee + (longest - knee) * np.tanh((distance - knee) / (longest - knee)), distance
    )
    distance = np.maximum(distance, abs(a - b) + 0.06)
    along = (a**2 - b**2 + distance**2) / (2 * distance)
    height = np.sqrt(np.maximum(a**2 - along**2, 0))
    side = pole - (direction * pole).sum(1, keepdims=True) * direction
    side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-6)
    return direction * along + side * height, direction * distance
