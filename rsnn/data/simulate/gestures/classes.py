"""The eleven classes of DVS128 Gesture (Amir et al., CVPR 2017), each as the paths of two hands.

The performer faces the camera, so their right arm is on the left of the image. A turn is clockwise for the performer:
in the image `*_arm_cw` runs top, left, bottom, right. `out` points away from the body, so that the right arm's
`out` is the image's left and the left arm's its right.
"""

from __future__ import annotations

from collections.abc import Callable
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

    """

    wrist: FloatArray
    pole: FloatArray = field(default_factory=lambda: np.array([0.5, 1.0, -0.3]))
    pose: str = "open"
    bend: FloatArray | float = 0.0
    roll: FloatArray | float = 0.0


@dataclass
class Performance:
    """Both arms of a clip, [RIGHT, LEFT], and how the head moves beyond its sway, (F, 2) metres (right, down)."""

    arms: list[Arm]
    head: FloatArray | None = None


def perform(label: int, body: Body, tempo: Tempo) -> Performance:
    """Return how a performer carries out class `label` this time."""
    return _PERFORMERS[label](body, tempo)


def _pose(tempo: Tempo, *weights: float) -> str:
    return str(tempo.rng.choice(HAND_POSES[: len(weights)], p=np.array(weights) / sum(weights)))


def _rest(body: Body, tempo: Tempo) -> Arm:
    """Return an arm at rest: hanging, sometimes bent before the belly or on the hip, moving a little."""
    u, F = tempo.rng.uniform, tempo.t.size
    length = body.upper_arm + body.forearm
    busy = tempo.rng.lognormal(-4.9, 0.6)
    kind = tempo.rng.choice(3, p=[0.8, 0.12, 0.08])
    place = [
        (u(0.02, 0.12), u(0.88, 0.98), u(0.0, 0.12)),
        (u(-0.25, -0.05), u(0.5, 0.75), u(0.25, 0.4)),
        (u(0.0, 0.1), u(0.62, 0.75), u(-0.1, 0.1)),
    ][kind]
    out, down, near = (length * part + tempo.wobble(busy, 0.2, 2.5) for part in place)
    wrist = path(out, down, near, F)
    return Arm(wrist, pole=np.array([1.0, 0.3, -0.4]), pose=_pose(tempo, 3, 1, 3), roll=u(-1.3, 1.3))


def _with_rest(side: int, moving: Arm, body: Body, tempo: Tempo) -> Performance:
    arms = [_rest(body, tempo), _rest(body, tempo)]
    arms[side] = moving
    return Performance(arms)


def _hand_clap(body: Body, tempo: Tempo) -> Performance:
    u, F = tempo.rng.uniform, tempo.t.size
    phase = tempo.phase(body.tempo * u(1.6, 4.0))
    half = body.shoulder_width / 2
    gap = body.reach * u(0.05, 0.2) * tempo.factor(0.12)
    opening = (0.5 + 0.5 * np.cos(phase)) ** u(0.7, 1.4)
    touch = u(0.02, 0.04)
    down, near = u(0.05, 0.32) + tempo.wobble(0.015), u(0.22, 0.4) + tempo.wobble(0.015)
    tilt, lift = u(-0.05, 0.05), u(-0.06, 0.06)
    shift = u(-0.06, 0.06) + tempo.wobble(0.012)
    still = u(0.3, 1.0) if tempo.rng.random() < 0.2 else 1.0  # one hand claps against a quieter one
    quieter = tempo.rng.integers(2)
    arms = []
    for side, inward in ((RIGHT, -1.0), (LEFT, 1.0)):
        part = opening * gap * (still if side == quieter else 1) + touch
        # The middle of the chest is -half in `out`; a shift to the image's right is inwards for the right arm.
        wrist = path(-half + part + inward * shift, down + lift * opening + inward * tilt, near, F)
        bend = u(-0.9, -0.2) - 0.25 * opening
        arms.append(Arm(wrist, np.array([0.8, 1.0, -0.1]), _pose(tempo, 6, 2, 0, 0, 3), bend, u(0.6, 1.5)))
    return Performance(arms)


def _wave(side: int) -> Callable[[Body, Tempo], Performance]:
    def perform_wave(body: Body, tempo: Tempo) -> Performance:
        u, F = tempo.rng.uniform, tempo.t.size
        phase = tempo.phase(body.tempo * u(1.2, 3.6))
        raised = tempo.rng.random()
        # The forearm swings about an elbow that hardly moves; the hand trails behind.
        elbow_out, elbow_down = (u(0.1, 0.24), u(-0.05, 0.22)) if raised < 0.75 else (u(0.12, 0.26), u(-0.2, -0.05))
        lean = u(-0.25, 0.5) + tempo.wobble(0.05)
        swing = np.clip(body.reach * u(0.25, 0.8), 0.2, 0.9) * tempo.factor(0.15)
        angle = lean + swing * np.sin(phase)
        tipped = u(0.0, 0.6)
        upright = np.cos(tipped)
        wrist = path(
            elbow_out + 0.25 * swing * 0.15 * np.sin(phase) + body.forearm * np.sin(angle) * upright,
            elbow_down - body.forearm * np.cos(angle) * upright + tempo.wobble(0.01),
            u(0.05, 0.2) + body.forearm * np.sin(tipped),
            F,
        )
        bend = u(0.0, 0.6) * np.sin(phase - u(0.3, 1.1)) + u(-0.2, 0.2)
        arm = Arm(wrist, np.array([0.5, 1.0, 0.0]), _pose(tempo, 5, 5, 0.5, 0.5), bend, u(-0.5, 0.5))
        return _with_rest(side, arm, body, tempo)

    return perform_wave


def _circle(side: int, clockwise: bool) -> Callable[[Body, Tempo], Performance]:
    def perform_circle(body: Body, tempo: Tempo) -> Performance:
        u, F = tempo.rng.uniform, tempo.t.size
        length = body.upper_arm + body.forearm
        turn = tempo.phase(body.tempo * u(0.6, 1.7))
        # Clockwise for the performer is top, left, bottom, right in the image: outwards first for the right arm.
        outwards_first = clockwise == (side == RIGHT)
        angle = turn if outwards_first else -turn
        if tempo.rng.random() < 0.75:  # a stretched arm about the shoulder
            radius, centre = np.clip(body.reach * u(0.72, 1.0), 0.6, 1.05), (u(-0.02, 0.12), u(-0.1, 0.12))
            near, tilt = u(0.1, 0.45), u(-0.2, 0.25)
        else:  # a bent arm that draws a circle beside or before the body
            radius, centre = u(0.28, 0.55), (u(0.1, 0.45), u(-0.25, 0.45))
            near, tilt = u(0.3, 0.65), u(-0.1, 0.15)
        wide, high = radius * u(0.85, 1.15), radius * u(0.85, 1.15)
        skew = u(-0.25, 0.25)
        size = length * tempo.factor(0.07)
        inner = np.maximum(-np.sin(angle), 0)  # on the body's side the arm bends and comes forward
        wrist = path(
            size * (centre[0] + wide * np.sin(angle + skew) * (1 - u(0, 0.35) * inner)) + tempo.wobble(0.01),
            size * (centre[1] - high * np.cos(angle)) + tempo.wobble(0.01),
            length * (near + tilt * np.cos(angle) + 0.3 * inner),
            F,
        )
        pole = np.stack([0.4 + 0.3 * np.cos(angle), 0.6 - 0.2 * np.sin(angle), np.full(F, -0.5)], axis=1)
        bend = u(-0.3, 0.3) + u(0, 0.3) * np.sin(angle + u(0, 6.3))
        arm = Arm(wrist, pole, _pose(tempo, 4, 2, 3, 1.5, 1), bend, u(-1, 1) + 0.5 * np.sin(angle))
        return _with_rest(side, arm, body, tempo)

    return perform_circle


def _arm_roll(body: Body, tempo: Tempo) -> Performance:
    u, F = tempo.rng.uniform, tempo.t.size
    turn = tempo.phase(body.tempo * u(1.0, 3.0)) * tempo.rng.choice([-1, 1])
    half = body.shoulder_width / 2
    size = body.reach * u(0.05, 0.13) * tempo.factor(0.12)
    down, near = u(0.12, 0.34) + tempo.wobble(0.012), u(0.2, 0.32)
    depth, across = u(0.6, 1.3), u(-0.05, 0.06)
    slope = u(-0.06, 0.06)
    arms = []
    for side, offset in ((RIGHT, 0.0), (LEFT, np.pi + u(-0.35, 0.35))):
        angle = turn + offset
        # Forearms lie across the body, past the middle, one before the other in turn.
        wrist = path(
            -half - across + 0.03 * np.sin(angle + u(0, 6.3)) + tempo.wobble(0.006),
            down + size * np.sin(angle) + (slope if side == RIGHT else -slope),
            near + size * depth * np.cos(angle),
            F,
        )
        pole = np.array([u(0.9, 1.3), u(0.4, 1.1), u(-0.1, 0.3)])
        arms.append(Arm(wrist, pole, _pose(tempo, 3, 0, 6, 1, 2), u(-0.3, 0.3), u(-1.2, 1.2)))
    return Performance(arms)


def _air_drums(body: Body, tempo: Tempo) -> Performance:
    u, F = tempo.rng.uniform, tempo.t.size
    hz = body.tempo * u(1.4, 4.2)
    phase = tempo.phase(hz)
    together = tempo.rng.random() > 0.8  # rather than one after the other
    lag = (u(-0.4, 0.4) if together else np.pi) + tempo.wobble(0.3)
    half = body.shoulder_width / 2
    size = body.reach * u(0.045, 0.14)
    down, near = u(0.08, 0.36), u(0.22, 0.38)
    strike = u(1.0, 2.2)
    arms = []
    for side in (RIGHT, LEFT):
        beat = phase + (lag if side == LEFT else 0)
        stroke = (0.5 + 0.5 * np.sin(beat)) ** strike
        roam = tempo.wobble(0.03, 0.2, 1.2)  # from drum to drum
        out = -half + u(0.09, 0.26) + roam
        height = size * tempo.factor(0.25)
        wrist = path(
            out + 0.1 * height * np.cos(beat),
            down - height * stroke + tempo.wobble(0.015),
            near + 0.3 * height * np.cos(beat) + tempo.wobble(0.02),
            F,
        )
        bend = u(-0.9, -0.1) + u(0.0, 0.5) * np.sin(beat - u(0.2, 0.9))
        pole = np.array([u(0.7, 1.2), 1.0, u(-0.4, 0.0)])
        arms.append(Arm(wrist, pole, _pose(tempo, 1, 0, 8, 2, 1), bend, u(-1.2, 1.2)))
    nod = 0.012 * u(0, 1.5) * np.sin(phase / 2) if tempo.rng.random() < 0.4 else np.zeros(F)
    return Performance(arms, np.stack([tempo.wobble(0.003), nod], axis=1))


def _air_guitar(body: Body, tempo: Tempo) -> Performance:
    u, F = tempo.rng.uniform, tempo.t.size
    strum = LEFT if body.left_handed else RIGHT
    phase = tempo.phase(body.tempo * u(1.8, 4.5))
    half = body.shoulder_width / 2
    size = body.reach * u(0.05, 0.14) * tempo.factor(0.25)
    lean, down = u(-0.35, 0.6), u(0.27, 0.43)
    wrist = path(
        -half + u(0.02, 0.22) + size * np.sin(lean) * np.sin(phase) + tempo.wobble(0.01),
        down + size * np.cos(lean) * np.sin(phase) + tempo.wobble(0.012),
        u(0.14, 0.28) + 0.2 * size * np.cos(phase),
        F,
    )
    bend = u(-0.8, 0.1) + u(0.1, 0.6) * np.sin(phase - u(0.2, 1.0))
    strumming = Arm(wrist, np.array([1.2, 0.4, -0.4]), _pose(tempo, 3, 1, 5, 2, 2), bend, u(-1.3, 1.3))
    slide = u(0.0, 0.05) * np.sin(tempo.phase(u(0.2, 0.9))) + tempo.wobble(0.012, 0.2, 2.0)
    neck = u(-0.25, 0.75)
    along = u(0.2, 0.42) + slide
    fretting = Arm(
        path(along * np.cos(neck), 0.30 - along * np.sin(neck) + tempo.wobble(0.012), u(0.12, 0.3), F),
        np.array([0.5, 1.0, -0.3]),
        _pose(tempo, 2, 1, 4, 1, 1),
        u(-0.4, 0.8) + 0.15 * np.sin(tempo.phase(u(2, 5))),
        u(-1.2, 1.2),
    )
    arms = [strumming, fretting] if strum == RIGHT else [fretting, strumming]
    nod = 0.015 * u(0, 1.5) * np.sin(phase / 2) if tempo.rng.random() < 0.35 else np.zeros(F)
    return Performance(arms, np.stack([tempo.wobble(0.004), nod], axis=1))


def _other(body: Body, tempo: Tempo) -> Performance:
    """Return a motion that is none of the ten."""
    u, rng, F = tempo.rng.uniform, tempo.rng, tempo.t.size
    phase = tempo.phase(body.tempo * u(0.6, 2.4))
    half = body.shoulder_width / 2
    length = body.upper_arm + body.forearm
    size = body.reach * tempo.factor(0.15)
    side = int(rng.integers(2))
    arms = [_rest(body, tempo), _rest(body, tempo)]
    head = None
    sine = np.sin(phase)
    kind = str(rng.choice(_OTHER_KINDS))
    both = (RIGHT, LEFT)
    if kind == "both_wave":  # both hands overhead or at the sides
        for arm in both:
            swing = u(0.3, 0.7) * size * np.sin(phase + (0 if arm == RIGHT else rng.choice([0, np.pi])))
            arms[arm] = Arm(
                path(
                    u(0.15, 0.25) + body.forearm * np.sin(swing),
                    u(-0.15, 0.1) - body.forearm * np.cos(swing),
                    u(0.05, 0.25),
                    F,
                ),
                pose=_pose(tempo, 5, 5),
                bend=0.2 * sine,
            )
    elif kind == "flap":  # straight arms rise and fall at the sides
        for arm in both:
            angle = u(0.9, 1.4) + u(0.3, 0.8) * size * sine
            arms[arm] = Arm(
                path(length * np.sin(angle), length * np.cos(angle), u(0, 0.15), F), pose=_pose(tempo, 5, 2)
            )
    elif kind == "punch":  # towards the camera, one after the other
        for arm in both:
            out = (0.5 + 0.5 * np.sin(phase + arm * np.pi)) ** 2
            arms[arm] = Arm(
                path(-half * 0.5 + u(0, 0.08), u(0.0, 0.15) - 0.05 * out, 0.12 + 0.36 * size * out, F), pose="fist"
            )
    elif kind == "push":  # both palms away and back
        for arm in both:
            arms[arm] = Arm(path(u(-0.05, 0.05), u(0.0, 0.15), 0.25 + 0.18 * size * sine, F), pose="spread")
    elif kind == "swim":  # breast stroke
        for arm in both:
            arms[arm] = Arm(
                path(-half * 0.6 + 0.22 * size * (1 + np.cos(phase)), 0.1 + 0.08 * sine, 0.3 + 0.12 * sine, F)
            )
    elif kind == "both_circles":  # two arms turn at once
        spin = float(rng.choice([-1, 1]))
        for arm in both:
            angle = phase if arm == RIGHT else spin * phase + u(-0.4, 0.4)
            arms[arm] = Arm(
                path(0.05 + 0.8 * length * np.sin(angle), -0.8 * length * np.cos(angle), 0.25 + 0.1 * np.cos(angle), F),
                pose=_pose(tempo, 4, 2, 3),
            )
    elif kind == "salute":
        lift = 0.5 + 0.5 * np.tanh(3 * sine)
        arms[side] = Arm(
            path(0.1 - 0.12 * lift, 0.4 - 0.62 * lift, 0.1 + 0.12 * lift, F), np.array([1, 0.2, -0.2]), "open"
        )
    elif kind == "lift":  # raise one straight arm sideways or forward and lower it
        angle = u(0.6, 1.2) + u(0.5, 1.0) * size * np.sin(phase * 0.6)
        front = u(0, 1.2)
        arms[side] = Arm(
            path(
                length * np.sin(angle) * np.cos(front),
                length * np.cos(angle),
                length * np.sin(angle) * np.sin(front),
                F,
            ),
            pose=_pose(tempo, 4, 1, 2, 2),
        )
    elif kind == "beckon":
        arms[side] = Arm(path(u(0, 0.2), u(-0.1, 0.15), 0.3 + 0.07 * size * sine, F), bend=0.8 * sine, pose="spread")
    elif kind == "swipe":  # across the body and back
        arms[side] = Arm(
            path(0.02 + 0.27 * size * np.tanh(2 * sine), u(-0.05, 0.25) + 0.03 * np.cos(phase), 0.35, F),
            pose=_pose(tempo, 5, 2, 1, 2),
            bend=0.3 * np.cos(phase),
        )
    elif kind == "chop":
        arms[side] = Arm(
            path(u(-0.1, 0.15), u(0.0, 0.2) + 0.17 * size * sine, 0.3, F), pose="edge", bend=0.3 * np.cos(phase)
        )
    elif kind == "eight":  # a lying or standing eight
        a, b = (1, 2) if rng.random() < 0.5 else (2, 1)
        arms[side] = Arm(
            path(u(0, 0.2) + 0.2 * size * np.sin(a * phase), u(-0.1, 0.2) + 0.2 * size * np.sin(b * phase), 0.3, F),
            pose=_pose(tempo, 3, 1, 2, 3),
        )
    elif kind == "pull":  # hand over hand on a rope
        for arm in both:
            beat = phase + arm * np.pi
            arms[arm] = Arm(
                path(-half + u(0.0, 0.06), 0.05 + 0.22 * size * np.sin(beat), 0.28 + 0.05 * np.cos(beat), F),
                pose="fist",
            )
    elif kind == "march":  # arms swing forward and back
        for arm in both:
            angle = 0.8 * size * np.sin(phase + arm * np.pi)
            arms[arm] = Arm(path(0.05, length * 0.95 * np.cos(angle), length * 0.9 * np.sin(angle), F), pose="fist")
    elif kind == "shrug":
        for arm in both:
            up = 0.5 + 0.5 * sine
            arms[arm] = Arm(
                path(0.1 + 0.08 * up, 0.25 - 0.08 * size * up, 0.2, F), np.array([0.2, 1.0, -0.2]), "open", 0.6
            )
    elif kind == "nod":
        head = np.stack([0.03 * size * sine * u(0, 1), 0.03 * size * np.sin(phase * u(0.8, 1.2)) * u(0.3, 1)], axis=1)
    elif kind == "scratch":
        arms[side] = Arm(
            path(-0.05 + 0.03 * sine, -0.2 + 0.03 * np.sin(2 * phase), 0.15, F), np.array([1, 0.2, 0]), "fist"
        )
    else:  # "wander": hands go where they like
        for arm in both if rng.random() < 0.5 else (side,):
            arms[arm] = Arm(
                path(
                    0.05 + tempo.wobble(0.16, 0.3, 1.8),
                    0.15 + tempo.wobble(0.18, 0.3, 1.8),
                    0.28 + tempo.wobble(0.07, 0.3, 1.5),
                    F,
                ),
                pose=_pose(tempo, 3, 2, 3, 2, 1),
                bend=tempo.wobble(0.4, 0.5, 2),
            )
    return Performance(arms, head)


_OTHER_KINDS = (
    "both_wave", "flap", "punch", "push", "swim", "both_circles", "salute", "lift", "beckon", "swipe", "chop", "eight",
    "pull", "march", "shrug", "nod", "scratch", "wander", "wander", "wander",
)  # fmt: skip

_PERFORMERS: tuple[Callable[[Body, Tempo], Performance], ...] = (
    _hand_clap,
    _wave(RIGHT),
    _wave(LEFT),
    _circle(RIGHT, True),
    _circle(RIGHT, False),
    _circle(LEFT, True),
    _circle(LEFT, False),
    _arm_roll,
    _air_drums,
    _air_guitar,
    _other,
)
