"""What a performance is made of: two arms, a head and a trunk over time, and what hands do that have nothing to do.

The performer faces the camera, so their right arm is on the left of the image. `out` points away from the body, so
that the right arm's `out` is the image's left and the left arm's its right.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from rsnn.data.simulate.gestures.body import Body
from rsnn.data.simulate.gestures.motion import FloatArray, Tempo, path

RIGHT, LEFT = 0, 1
HAND_POSES = ("open", "spread", "fist", "point", "edge")


@dataclass
class Arm:
    """What one arm does.

    Attributes:
        wrist: its path, (F, 3).
        pole: where the elbow points, (3,) or (F, 3).
        pose: one of HAND_POSES.
        bend: angle between hand and forearm in the image, (F,), radians; positive turns the hand outwards.
        roll: turn of the hand about its own axis, (F,), radians; 0 shows the palm.
        lift: how far the shoulder is pulled up, (F,), metres.
        flex: angle by which the hand leaves the forearm's direction towards the camera, (F,), radians.

    """

    wrist: FloatArray
    pole: FloatArray = field(default_factory=lambda: np.array([0.5, 1.0, -0.3]))
    pose: str = "open"
    bend: FloatArray | float = 0.0
    roll: FloatArray | float = 0.0
    lift: FloatArray | float = 0.0
    flex: FloatArray | float = 0.0


@dataclass
class Performance:
    """What a body does in a clip.

    Attributes:
        arms: [RIGHT, LEFT].
        head: how the head moves beyond the trunk and its sway, (F, 2) metres (right, down).
        trunk: how the trunk moves beyond its sway, (F, 2) metres (right, down).
        twist: how far the shoulders turn about the spine, (F,), radians; positive brings the right one forwards.

    """

    arms: list[Arm]
    head: FloatArray | None = None
    trunk: FloatArray | None = None
    twist: FloatArray | float = 0.0


def draw_pose(tempo: Tempo, *weights: float) -> str:
    """Return one of HAND_POSES, drawn with these weights."""
    return str(tempo.rng.choice(HAND_POSES[: len(weights)], p=np.array(weights) / sum(weights)))


def rest(body: Body, tempo: Tempo) -> Arm:
    """Return an arm at rest: hanging, sometimes bent before the belly or on the hip, moving a little."""
    u, F = tempo.rng.uniform, tempo.t.size
    length = body.upper_arm + body.forearm
    busy = min(tempo.rng.lognormal(-4.9, 0.6), 0.015)
    kind = tempo.rng.choice(3, p=[0.78, 0.13, 0.09])
    place = [
        (u(0.0, 0.14), u(0.86, 0.98), u(-0.05, 0.15)),
        (u(-0.3, -0.05), u(0.45, 0.75), u(0.22, 0.4)),
        (u(0.0, 0.12), u(0.6, 0.75), u(-0.1, 0.1)),
    ][kind]
    out, down, near = (length * part + tempo.wobble(busy, 0.2, 2.5) for part in place)
    wrist = path(out, down, near, F)
    return Arm(wrist, pole=np.array([1.0, 0.3, -0.4]), pose=draw_pose(tempo, 3, 1, 3), roll=u(-1.3, 1.3))


def rocking(tempo: Tempo, phase: FloatArray, most: float = 0.02) -> FloatArray:
    """Return how a trunk moves along with what the arms do, (F, 2) metres: mostly little, sometimes up to `most`."""
    u = tempo.rng.uniform
    beat = most * u(0, 1) ** 4 * np.sin(phase * tempo.rng.choice([0.5, 1.0]) + u(0, 6.3))
    slow = most * u(0, 1) ** 4 * np.sin(tempo.phase(u(0.25, 1.1)))
    sideways = u(-1, 1)
    return np.stack([sideways * beat + slow, 0.6 * (1 - abs(sideways)) * beat + 0.25 * u(-1, 1) * slow], axis=1)


def nodding(tempo: Tempo, phase: FloatArray, chance: float) -> FloatArray:
    """Return how a head goes with the beat, (F, 2) metres: with some chance a nod, else next to nothing."""
    size = 0.022 * tempo.rng.uniform(0.1, 1) if tempo.rng.random() < chance else 0.0
    nod = size * np.sin(phase * tempo.rng.choice([0.5, 1.0]) + tempo.rng.uniform(0, 6.3))
    return np.stack([tempo.wobble(0.003), nod], axis=1)
