"""The eleven classes of DVS128 Gesture (Amir et al., CVPR 2017), each as the paths of two hands.

A turn is clockwise for the performer: in the image `*_arm_cw` runs top, left, bottom, right.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rsnn.data.simulate.gestures.arms import LEFT, RIGHT, Arm, Performance, draw_pose, nodding, rest, rocking
from rsnn.data.simulate.gestures.body import Body
from rsnn.data.simulate.gestures.motion import FloatArray, Tempo, path
from rsnn.data.simulate.gestures.others import invent


def perform(label: int, body: Body, tempo: Tempo) -> Performance:
    """Return how a performer carries out class `label` this time."""
    return _PERFORMERS[label](body, tempo)


def _one_handed(side: int, moving: Arm, body: Body, tempo: Tempo, phase: FloatArray) -> Performance:
    arms = [rest(body, tempo), rest(body, tempo)]
    arms[side] = moving
    return Performance(arms, nodding(tempo, phase, 0.15), rocking(tempo, phase))


def _hand_clap(body: Body, tempo: Tempo) -> Performance:
    u, rng, F = tempo.rng.uniform, tempo.rng, tempo.t.size
    phase = tempo.phase(body.tempo * tempo.between(1.2, 4.2))
    half = body.shoulder_width / 2
    gap = body.reach * tempo.between(0.045, 0.32) * tempo.factor(u(0.05, 0.25))
    opening = (0.5 + 0.5 * np.cos(phase)) ** u(0.6, 1.8)
    touch = u(0.015, 0.045)
    overhead = rng.random() < 0.07
    down = (u(-0.38, -0.15) if overhead else u(-0.08, 0.38)) + tempo.wobble(0.015)
    near = u(0.15, 0.42) + tempo.wobble(0.015)
    # Hands meet sideways, or one comes from above.
    slant = u(-0.25, 0.25) if rng.random() < 0.8 else u(0.25, 1.1) * rng.choice([-1, 1])
    lift, pull = u(-0.08, 0.08), u(-0.08, 0.04)
    shift = u(-0.08, 0.08) + tempo.wobble(0.012)
    still = u(0.15, 1.0) if rng.random() < 0.25 else 1.0  # one hand claps against a quieter one
    quieter = rng.integers(2)
    fingers, turned = u(-0.9, 0.3), u(0.5, 1.5)
    arms = []
    for side, inward in ((RIGHT, -1.0), (LEFT, 1.0)):
        part = opening * gap * (still if side == quieter else 1) + touch
        # The middle of the chest is -half in `out`; a shift to the image's right is inwards for the right arm.
        wrist = path(
            -half + part * np.cos(slant) + inward * shift,
            down + lift * opening + inward * part * np.sin(slant),
            near + pull * opening,
            F,
        )
        bend = fingers + u(-0.2, 0.2) - u(0, 0.4) * opening
        pole = np.array([u(0.6, 1.1), 1.0, u(-0.3, 0.1)])
        arms.append(Arm(wrist, pole, draw_pose(tempo, 6, 2, 0, 0, 3), bend, turned + u(-0.2, 0.2)))
    return Performance(arms, nodding(tempo, phase, 0.2), rocking(tempo, phase))


def _wave(side: int) -> Callable[[Body, Tempo], Performance]:
    def perform_wave(body: Body, tempo: Tempo) -> Performance:
        u, rng, F = tempo.rng.uniform, tempo.rng, tempo.t.size
        phase = tempo.phase(body.tempo * tempo.between(1.0, 4.0))
        sine = np.sin(phase)
        size = body.reach * tempo.factor(u(0.05, 0.3))
        plane = u(-0.7, 0.7)  # the swing's plane is turned about the vertical
        flap, lag, tilt = u(0.0, 0.6), u(0.2, 1.3), u(-0.4, 1.2)
        kind = rng.choice(["metronome", "compact", "elbow", "whole arm", "hand"], p=[0.4, 0.25, 0.13, 0.13, 0.09])
        if kind == "whole arm":  # a raised arm swings about the shoulder
            angle = u(0.05, 0.7) + tempo.wobble(0.05) + np.clip(size * tempo.between(0.17, 0.65), 0.12, 0.8) * sine
            tipped = u(0.1, 0.75)
            length = (body.upper_arm + body.forearm) * u(0.72, 0.97)
            across = length * np.cos(tipped) * np.sin(angle)
            wrist = path(across, -length * np.cos(tipped) * np.cos(angle), length * np.sin(tipped), F)
            pole: FloatArray = np.array([0.9, u(-0.2, 0.8), u(-0.3, 0.3)])
        else:
            # The forearm swings like a metronome about an elbow that hardly moves, or goes along; tipped towards the
            # camera it looks short.
            tipped = 1.2 * u(0, 1)
            upright = body.forearm * np.cos(tipped)
            swing, follow = np.clip(size * tempo.between(0.17, 0.95), 0.12, 1.0), u(0.0, 0.03)
            if kind == "compact":  # the elbow low, forearm and hand towards the camera: little but the hand moves
                tipped, tilt = u(0.5, 1.2), u(0.2, 1.2)
                upright = body.forearm * np.cos(tipped)
                swing, follow = np.clip(size * tempo.between(0.2, 0.7), 0.15, 0.8), u(0.0, 0.01)
            elif kind == "elbow":
                follow = u(0.03, 0.11)
            elif kind == "hand":  # moves at the wrist, the forearm a little
                swing, flap = np.clip(size * u(0.08, 0.25), 0.06, 0.3), u(0.45, 0.95)
            tilt = min(tilt, 1.45 - tipped)  # fingers point up or at the camera, not down
            elbow_out = u(-0.01, 0.24) + follow * np.sin(phase - u(-0.4, 0.6)) + tempo.wobble(u(0.003, 0.015))
            lowest = min(0.26, 0.06 + 0.85 * upright)
            elbow_down = u(-0.14, lowest) + u(-0.03, 0.03) * np.sin(phase * rng.choice([1, 2])) + tempo.wobble(0.008)
            before = np.sqrt(np.maximum(body.upper_arm**2 - elbow_out**2 - elbow_down**2, 1e-4))
            # The elbow itself as the pole: an upper arm's length away, that is where `reach` puts it.
            pole = path(elbow_out, elbow_down, before if rng.random() < 0.8 else -0.5 * before, F)
            angle = u(-0.45, 0.45) + tempo.wobble(0.05) + swing * sine
            across = upright * np.sin(angle)
            wrist = pole + path(
                across * np.cos(plane),
                -upright * np.cos(angle),
                body.forearm * np.sin(tipped) + across * np.sin(plane),
                F,
            )
        bend = flap * np.sin(phase - lag) + u(-0.3, 0.3)
        roll = u(-0.7, 0.7) + u(0, 0.5) * np.sin(phase + u(0, 6.3))
        flex = tilt + u(0, 0.3) * np.sin(phase + u(0, 6.3))
        arm = Arm(wrist, pole, draw_pose(tempo, 5, 5, 0.4, 0.4, 0.4), bend, roll, flex=flex)
        return _one_handed(side, arm, body, tempo, phase)

    return perform_wave


def _circle(side: int, clockwise: bool) -> Callable[[Body, Tempo], Performance]:
    def perform_circle(body: Body, tempo: Tempo) -> Performance:
        u, F = tempo.rng.uniform, tempo.t.size
        length = body.upper_arm + body.forearm
        turn = tempo.phase(body.tempo * tempo.between(0.55, 1.9))
        # Clockwise for the performer is top, left, bottom, right in the image: outwards first for the right arm.
        outwards_first = clockwise == (side == RIGHT)
        angle = turn if outwards_first else -turn
        kind = tempo.rng.choice(3, p=[0.68, 0.22, 0.1])
        if kind == 0:  # a stretched arm about the shoulder
            radius, centre = np.clip(body.reach * u(0.68, 1.02), 0.55, 1.05), (u(-0.05, 0.14), u(-0.14, 0.16))
            near, tilt = u(0.05, 0.5), u(-0.25, 0.3)
        elif kind == 1:  # a bent arm that draws a circle beside or before the body
            radius, centre = u(0.26, 0.58), (u(0.0, 0.5), u(-0.3, 0.45))
            near, tilt = u(0.25, 0.65), u(-0.15, 0.2)
        else:  # an arm stretched forwards, before its shoulder or the chest
            radius, centre = u(0.3, 0.6), (u(-0.15, 0.3), u(-0.15, 0.3))
            near, tilt = u(0.6, 0.85), u(-0.1, 0.1)
        wide, high = radius * u(0.8, 1.2), radius * u(0.8, 1.2)
        skew = u(-0.3, 0.3)
        size = length * tempo.factor(u(0.03, 0.14))
        inner = np.maximum(-np.sin(angle), 0)  # on the body's side the arm bends and comes forward
        dent, when = u(0, 0.09), u(0, 6.3)  # no circle is perfect
        turned = u(-0.45, 0.45)  # about the vertical
        across = wide * np.sin(angle + skew) * (1 - u(0, 0.35) * inner) + radius * dent * np.sin(2 * angle + when)
        wrist = path(
            size * (centre[0] + across * np.cos(turned)) + tempo.wobble(u(0.005, 0.025)),
            size * (centre[1] - high * np.cos(angle)) + tempo.wobble(u(0.005, 0.025)),
            length * (near + tilt * np.cos(angle) + across * np.sin(turned) + u(0.15, 0.4) * inner),
            F,
        )
        pole = np.stack([0.4 + 0.3 * np.cos(angle), 0.6 - 0.2 * np.sin(angle), np.full(F, -0.5)], axis=1)
        bend = u(-0.3, 0.3) + u(0, 0.3) * np.sin(angle + u(0, 6.3))
        roll = u(-1, 1) + 0.5 * np.sin(angle)
        arm = Arm(wrist, pole, draw_pose(tempo, 4, 2, 3, 1.5, 1), bend, roll, flex=u(-0.6, 0.6))
        performance = _one_handed(side, arm, body, tempo, turn)
        performance.twist = (1 if side == RIGHT else -1) * u(0, 0.25) * inner
        return performance

    return perform_circle


def _arm_roll(body: Body, tempo: Tempo) -> Performance:
    u, rng, F = tempo.rng.uniform, tempo.rng, tempo.t.size
    turn = tempo.phase(body.tempo * tempo.between(0.8, 3.3)) * rng.choice([-1, 1])
    if rng.random() < 0.05:  # turns back once
        turn = np.abs(turn - turn[int(rng.integers(F))])
    half = body.shoulder_width / 2
    size = body.reach * tempo.between(0.045, 0.16) * tempo.factor(u(0.05, 0.2))
    down, near = u(0.04, 0.34) + tempo.wobble(0.012), u(0.2, 0.36) + tempo.wobble(0.01)
    depth, across = u(0.5, 1.4), u(-0.09, 0.08)
    slope, shift = u(-0.07, 0.07), u(-0.05, 0.05)
    arms = []
    for side, offset in ((RIGHT, 0.0), (LEFT, np.pi + u(-0.4, 0.4))):
        inward = -1.0 if side == RIGHT else 1.0
        angle = turn + offset
        # Forearms lie across the body, past the middle, one before the other in turn.
        wrist = path(
            -half - across + inward * shift + u(0.0, 0.05) * np.sin(angle + u(0, 6.3)) + tempo.wobble(0.006),
            down + size * u(0.85, 1.15) * np.sin(angle) - inward * slope,
            near + size * depth * np.cos(angle),
            F,
        )
        pole = np.array([u(0.8, 1.3), u(0.3, 1.2), u(-0.2, 0.3)])
        pose = draw_pose(tempo, 3, 0, 6, 1, 2)
        arms.append(Arm(wrist, pole, pose, u(-0.4, 0.4), u(-1.2, 1.2), flex=u(-0.5, 0.5)))
    return Performance(arms, nodding(tempo, turn, 0.35), rocking(tempo, turn))


def _air_drums(body: Body, tempo: Tempo) -> Performance:
    u, rng, F = tempo.rng.uniform, tempo.rng, tempo.t.size
    phase = tempo.phase(body.tempo * tempo.between(1.1, 4.0))
    together = rng.random() < 0.15  # rather than one after the other
    lag = (u(-0.4, 0.4) if together else np.pi + u(-0.3, 0.3)) + tempo.wobble(0.3)
    double = int(rng.integers(2)) if rng.random() < 0.12 else None  # the hand that strikes twice as often
    half = body.shoulder_width / 2
    size = body.reach * tempo.between(0.05, 0.2)
    down, near = u(0.02, 0.38), u(0.18, 0.4)
    strike = u(0.8, 2.6)
    from_wrist = u(0.0, 0.9)
    roaming = u(0.05, 0.12) if rng.random() < 0.35 else 0.0
    around = np.tanh(3 * np.sin(tempo.phase(u(0.25, 0.9)))) * roaming  # both hands go from drum to drum and back
    arms = []
    for side in (RIGHT, LEFT):
        inward = -1.0 if side == RIGHT else 1.0
        beat = (phase + (lag if side == LEFT else 0)) * (2 if side == double else 1)
        stroke = (0.5 + 0.5 * np.sin(beat)) ** strike
        out = -half + u(0.06, 0.28) + tempo.wobble(u(0.01, 0.04), 0.2, 1.2) + inward * around
        height = size * u(0.75, 1.25) * tempo.factor(u(0.1, 0.35)) * (0.7 if side == double else 1)
        wrist = path(
            out + u(-0.25, 0.35) * height * stroke,
            down + u(-0.05, 0.05) - height * stroke + tempo.wobble(0.015),
            near + u(0.1, 0.5) * height * np.cos(beat) + tempo.wobble(0.02),
            F,
        )
        bend = u(-0.9, 0.0) + from_wrist * u(0.6, 1.0) * np.sin(beat - u(0.2, 0.9))
        pole = np.array([u(0.6, 1.2), 1.0, u(-0.5, 0.1)])
        arms.append(Arm(wrist, pole, draw_pose(tempo, 1, 0, 8, 2, 1), bend, u(-1.2, 1.2), flex=u(-0.4, 0.8)))
    return Performance(arms, nodding(tempo, phase, 0.4), rocking(tempo, phase, 0.025), u(0, 0.15) * np.sin(phase))


def _air_guitar(body: Body, tempo: Tempo) -> Performance:
    u, rng, F = tempo.rng.uniform, tempo.rng, tempo.t.size
    usual = LEFT if body.left_handed else RIGHT
    strum = usual if rng.random() < 0.88 else 1 - usual
    phase = tempo.phase(body.tempo * tempo.between(1.4, 4.8))
    half = body.shoulder_width / 2
    size = body.reach * tempo.between(0.04, 0.19) * tempo.factor(u(0.1, 0.35))
    if rng.random() < 0.55:  # the elbow stands off the body and stays; the forearm swings about it
        elbow_out, elbow_down = u(0.03, 0.2) + tempo.wobble(0.006), u(0.08, 0.25) + tempo.wobble(0.006)
        behind = np.sqrt(np.maximum(body.upper_arm**2 - elbow_out**2 - elbow_down**2, 1e-4))
        pole = path(elbow_out, elbow_down, u(-1.0, 0.5) * behind, F)
        angle = u(0.1, 1.2) + tempo.wobble(0.05) + size / body.forearm * np.sin(phase)  # inwards from straight down
        tipped = u(0.1, 0.8) + tempo.wobble(0.03)
        upright = body.forearm * np.cos(tipped)
        wrist = pole + path(-upright * np.sin(angle), upright * np.cos(angle), body.forearm * np.sin(tipped), F)
    else:  # the whole arm goes along
        lean, down = u(-0.5, 0.8), u(0.22, 0.44)
        wrist = path(
            -half + u(-0.02, 0.25) + size * np.sin(lean) * np.sin(phase) + tempo.wobble(0.012),
            down + size * np.cos(lean) * np.sin(phase) + tempo.wobble(0.012),
            u(0.12, 0.3) + u(-0.3, 0.3) * size * np.cos(phase),
            F,
        )
        pole = np.array([u(0.8, 1.3), u(0.0, 0.8), u(-0.6, 0.0)])
    flap = u(0.1, 0.6) if rng.random() < 0.6 else u(0.5, 1.2)
    bend = u(-0.8, 0.4) + flap * np.sin(phase - u(0.0, 1.2))
    roll = u(-1.3, 1.3) + u(0, 0.6) * np.sin(phase + u(0, 6.3))
    strumming = Arm(wrist, pole, draw_pose(tempo, 4, 2, 4, 1.5, 2), bend, roll, flex=u(-0.4, 0.9))
    far = u(0.04, 0.12) if rng.random() < 0.3 else u(0.0, 0.03)  # the other hand slides along the neck, or stays
    along = u(0.18, 0.5) + far * np.sin(tempo.phase(u(0.2, 1.1))) + tempo.wobble(u(0.002, 0.014), 0.2, 2.0)
    neck = u(-0.3, 0.8) + tempo.wobble(0.08 * u(0, 1) ** 2)
    fretting = Arm(
        path(
            along * np.cos(neck), u(0.2, 0.34) - along * np.sin(neck) + tempo.wobble(u(0.002, 0.014)), u(0.08, 0.32), F
        ),
        np.array([0.5, 1.0, -0.3]),
        draw_pose(tempo, 2, 1, 4, 1, 1),
        u(-0.4, 0.8) + u(0.0, 0.2) * np.sin(tempo.phase(u(2, 5))),
        u(-1.2, 1.2),
    )
    arms = [strumming, fretting] if strum == RIGHT else [fretting, strumming]
    return Performance(arms, nodding(tempo, phase, 0.3), rocking(tempo, phase, 0.03))


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
    invent,
)
