"""`other_gestures`: what a person may invent who is asked for a gesture that is none of the ten.

Every invention is deliberate, kept up for the whole clip, and differs from each of the ten in what its hands do: not
in how large or fast it is alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rsnn.data.simulate.gestures.arms import LEFT, RIGHT, Arm, Performance, draw_pose, nodding, rest, rocking
from rsnn.data.simulate.gestures.body import Body
from rsnn.data.simulate.gestures.motion import FloatArray, Tempo, path

BOTH = (RIGHT, LEFT)


class Invention:
    """What an invention is made from; its function fills in arms and what else moves.

    Attributes:
        arms: [RIGHT, LEFT], at rest to begin with.
        head, trunk, twist: as in `Performance`.
        side: the hand that a one-handed invention takes.
        size: a factor around the performer's reach, (F,).
        length: of the whole arm.
        half: from the spine to a shoulder.

    """

    def __init__(self, body: Body, tempo: Tempo) -> None:
        self.body = body
        self.tempo = tempo
        self.rng = tempo.rng
        self.u = tempo.rng.uniform
        self.arms = [rest(body, tempo), rest(body, tempo)]
        self.head: FloatArray | None = None
        self.trunk: FloatArray | None = None
        self.twist: FloatArray | float = 0.0
        usual = LEFT if body.left_handed else RIGHT
        self.side = usual if self.rng.random() < 0.65 else 1 - usual
        self.size = body.reach * tempo.factor(self.u(0.05, 0.2))
        self.length = body.upper_arm + body.forearm
        self.half = body.shoulder_width / 2
        self.phase = np.zeros(tempo.t.size)

    def beat(self, slowest_hz: float, fastest_hz: float) -> FloatArray:
        """Return the phase, (F,), of the invention's movement, which the trunk and head may follow."""
        self.phase = self.tempo.phase(self.body.tempo * self.tempo.between(slowest_hz, fastest_hz))
        return self.phase

    def move(
        self,
        arm: int,
        out: object,
        down: object,
        near: object,
        pole: tuple[float, float, float] = (0.5, 1.0, -0.3),
        pose: str = "open",
        bend: FloatArray | float = 0.0,
        lift: FloatArray | float = 0.0,
    ) -> None:
        """Let an arm's wrist follow this path."""
        wrist = path(out, down, near, self.tempo.t.size)
        self.arms[arm] = Arm(wrist, np.array(pole), pose, bend, self.u(-1.2, 1.2), lift, self.u(-0.5, 0.6))

    def pose(self, *weights: float) -> str:
        """Return a hand pose, drawn with these weights."""
        return draw_pose(self.tempo, *weights)


def invent(body: Body, tempo: Tempo) -> Performance:
    """Return one of the inventions, each as likely as any other."""
    kind = INVENTIONS[int(tempo.rng.integers(len(INVENTIONS)))]
    return perform_invention(kind, body, tempo)


def perform_invention(kind: Callable[[Invention], None], body: Body, tempo: Tempo) -> Performance:
    """Return how a performer carries out this invention."""
    m = Invention(body, tempo)
    kind(m)
    head = nodding(tempo, m.phase, 0.2) if m.head is None else m.head
    trunk = rocking(tempo, m.phase) if m.trunk is None else m.trunk
    return Performance(m.arms, head, trunk, m.twist)


def _halves(phase: FloatArray, sharpness: float = 3.0) -> FloatArray:
    """Return 0 and 1 in turn, (F,), with a swift move between them."""
    return np.asarray(0.5 + 0.5 * np.tanh(sharpness * np.sin(phase)) / np.tanh(sharpness))


def _wave_both(m: Invention) -> None:
    """Wave both hands alike, overhead or at the sides."""
    phase = m.beat(0.8, 2.6)
    apart, swing, lean = m.rng.choice([0, np.pi]), m.u(0.35, 0.8), m.u(-0.1, 0.4)
    out, down, near = m.u(0.1, 0.25), m.u(-0.2, 0.12), m.u(0.05, 0.25)
    pose = m.pose(5, 5)
    for arm in BOTH:
        angle = lean + swing * m.size * np.sin(phase + arm * apart)
        m.move(
            arm, out + m.body.forearm * np.sin(angle), down - m.body.forearm * np.cos(angle), near,
            pose=pose, bend=0.2 * np.sin(phase + arm * apart),
        )  # fmt: skip


def _flap(m: Invention) -> None:
    """Beat wings: straight arms rise and fall at the sides."""
    phase = m.beat(0.6, 2.2)
    middle, swing, near, pose = m.u(1.1, 1.6), m.u(0.35, 0.8), m.u(0, 0.15), m.pose(5, 2)
    for arm in BOTH:
        angle = middle + swing * m.size * np.sin(phase)
        bend = m.u(0.0, 0.5) * np.sin(phase + 2)
        m.move(arm, m.length * np.sin(angle), m.length * np.cos(angle), near, pose=pose, bend=bend)
    m.trunk = np.stack([m.tempo.wobble(0.003), m.u(0, 0.02) * np.sin(phase)], axis=1)


def _jumping_jack(m: Invention) -> None:
    """Throw both arms from the thighs to over the head and back, with a bounce."""
    phase = m.beat(0.6, 1.6)
    up = 0.5 - 0.5 * np.cos(phase)
    highest, straight = m.u(2.5, 3.0), m.u(0.85, 1.0)
    for arm in BOTH:
        angle = 0.15 + highest * up * np.minimum(m.size, 1.1)
        m.move(arm, straight * m.length * np.sin(angle), straight * m.length * np.cos(angle), m.u(0, 0.1))
    bounce = m.u(0.0, 0.045) * np.sin(2 * phase + m.u(0, 6.3))
    m.trunk = np.stack([m.tempo.wobble(0.004), bounce], axis=1)


def _punch(m: Invention) -> None:
    """Box at the camera, one fist after the other."""
    phase = m.beat(0.7, 2.2)
    out, down, rise = m.u(-0.12, 0.0), m.u(-0.05, 0.15), m.u(-0.08, 0.1)
    for arm in BOTH:
        hit = (0.5 + 0.5 * np.sin(phase + arm * np.pi)) ** m.u(1.5, 3)
        m.move(arm, out, down - rise * hit, 0.12 + 0.36 * m.size * hit, pose="fist")
    m.twist = m.u(0, 0.35) * np.sin(phase)


def _hooks(m: Invention) -> None:
    """Guard before the chin, and a hook or an uppercut of either fist in turn."""
    phase = m.beat(0.6, 1.8)
    upwards = m.rng.random() < 0.4
    for arm in BOTH:
        hit = np.maximum(np.sin(phase + arm * np.pi), 0) ** 1.5
        swing = np.maximum(np.sin(phase + arm * np.pi + 0.9), 0) ** 1.5
        if upwards:
            m.move(arm, -0.08 - 0.08 * hit, 0.05 + 0.25 * swing - 0.3 * m.size * hit, 0.2 + 0.2 * hit, pose="fist")
        else:
            m.move(
                arm, -0.06 + 0.26 * swing - 0.24 * m.size * hit, 0.0, 0.18 + 0.22 * hit, (1.0, 0.4, -0.2), pose="fist"
            )
    m.twist = m.u(0.15, 0.5) * np.sin(phase)


def _push(m: Invention) -> None:
    """Push both palms away and take them back."""
    phase = m.beat(0.5, 1.8)
    out, down, sides = m.u(-0.08, 0.06), m.u(0.0, 0.18), m.u(0.0, 0.12)
    for arm in BOTH:
        away = 0.5 + 0.5 * np.sin(phase)
        m.move(arm, out + sides * (1 - away), down - 0.05 * away, 0.12 + 0.36 * m.size * away, pose=m.pose(1, 3))


def _swim(m: Invention) -> None:
    """Swim breast stroke, or crawl."""
    phase = m.beat(0.5, 1.4)
    crawl = m.rng.random() < 0.35
    for arm in BOTH:
        if crawl:
            angle = phase + arm * np.pi
            m.move(arm, 0.02, -0.08 - 0.3 * m.size * np.cos(angle), 0.24 + 0.2 * np.sin(angle), (1.0, 0.3, -0.2))
        else:
            m.move(
                arm,
                -m.half * 0.6 + 0.24 * m.size * (1 + np.cos(phase)),
                0.1 + 0.08 * np.sin(phase),
                0.3 + 0.14 * np.sin(phase),
            )


def _circle_both(m: Invention) -> None:
    """Turn both arms at once."""
    phase = m.beat(0.6, 1.7)
    spin, radius, pose = float(m.rng.choice([-1, 1])), m.u(0.6, 0.9) * m.length, m.pose(4, 2, 3)
    for arm in BOTH:
        angle = phase if arm == RIGHT else spin * phase + m.u(-0.4, 0.4)
        m.move(arm, 0.05 + radius * np.sin(angle), -radius * np.cos(angle), 0.25 + 0.1 * np.cos(angle), pose=pose)


def _salute(m: Invention) -> None:
    """Lead the hand to the brow, hold it there, and take it down again."""
    up = _halves(m.beat(0.4, 1.1), m.u(2, 5))
    low = m.u(0.35, 0.5)
    m.move(m.side, 0.1 - 0.14 * up, low - (low + 0.22) * up, 0.08 + 0.14 * up, (1.0, 0.3, -0.2), "edge", -0.5 * up)


def _lift(m: Invention) -> None:
    """Lift a straight arm to the side or to the front, hold it, and lower it."""
    up = _halves(m.beat(0.35, 1.0), m.u(1.5, 4))
    angle = 0.15 + m.u(1.2, 2.2) * up * np.minimum(m.size, 1.15)
    front = m.u(0, 1.3)
    sides = BOTH if m.rng.random() < 0.4 else (m.side,)
    for arm in sides:
        m.move(
            arm,
            m.length * np.sin(angle) * np.cos(front),
            m.length * np.cos(angle),
            m.length * np.sin(angle) * np.sin(front),
            pose=m.pose(4, 1, 2, 2),
        )


def _beckon(m: Invention) -> None:
    """Come here: a hand stretched towards the camera draws back to the chest, and the fingers curl."""
    phase = m.beat(0.6, 2.0)
    pull = 0.5 + 0.5 * np.sin(phase)
    m.move(
        m.side, m.u(-0.1, 0.08), m.u(0.1, 0.25) - 0.14 * pull, 0.46 - 0.3 * m.size * pull,
        (0.8, 1.0, -0.3), m.pose(3, 2, 0, 1), -0.9 * pull,
    )  # fmt: skip


def _swipe(m: Invention) -> None:
    """Swipe a hand across the body at the height of the chest, and back."""
    phase = m.beat(0.4, 1.3)
    across = np.tanh(2 * np.sin(phase))
    down, near = m.u(0.05, 0.3), m.u(0.25, 0.4)
    m.move(
        m.side, -0.06 + m.u(0.22, 0.34) * m.size * across, down + 0.03 * np.cos(phase), near + 0.06 * np.cos(phase),
        (0.8, 0.8, -0.2), m.pose(5, 2, 0, 2, 4), -0.4 + 0.3 * np.cos(phase),
    )  # fmt: skip
    m.twist = (1 if m.side == RIGHT else -1) * m.u(0, 0.25) * -across


def _chop(m: Invention) -> None:
    """Chop with the edge of a straight hand, from above the shoulder to the waist."""
    fall = 0.5 + 0.5 * np.sin(m.beat(0.6, 1.8))
    tilt = m.u(-0.15, 0.05)
    m.move(
        m.side, m.u(-0.05, 0.12) + tilt * fall, -0.18 + 0.5 * m.size * fall, 0.22 + 0.14 * np.sin(np.pi * fall),
        pose="edge", bend=0.3 * np.cos(m.phase),
    )  # fmt: skip


def _eight(m: Invention) -> None:
    """Draw a large lying eight."""
    phase = m.beat(0.4, 1.1)
    wide, high = m.u(0.22, 0.32) * m.size, m.u(0.1, 0.2) * m.size
    m.move(
        m.side, m.u(-0.05, 0.12) + wide * np.sin(phase), m.u(0.0, 0.2) + high * np.sin(2 * phase), m.u(0.28, 0.38),
        pose=m.pose(3, 1, 2, 4),
    )  # fmt: skip


def _pull(m: Invention) -> None:
    """Pull a rope down hand over hand, or row."""
    phase = m.beat(0.5, 1.6)
    upright = m.rng.random() < 0.6
    for arm in BOTH:
        beat = phase + arm * np.pi
        out = -m.half + m.u(0.0, 0.06)
        if upright:
            m.move(arm, out, 0.05 + 0.26 * m.size * np.sin(beat), 0.3 + 0.03 * np.cos(beat), pose="fist")
        else:
            m.move(arm, out + 0.1, 0.2 + 0.04 * np.cos(phase), 0.28 + 0.18 * m.size * np.sin(phase), pose="fist")
    m.trunk = np.stack([m.tempo.wobble(0.004), m.u(0, 0.02) * np.sin(phase)], axis=1)


def _march(m: Invention) -> None:
    """March or run on the spot: arms swing forward and back, straight or bent."""
    phase = m.beat(0.7, 2.4)
    bent, swing = m.rng.random() < 0.5, m.u(0.5, 0.95)
    for arm in BOTH:
        angle = swing * m.size * np.sin(phase + arm * np.pi)
        if bent:
            m.move(arm, 0.03, 0.2 - 0.14 * np.sin(angle), 0.2 + 0.22 * np.sin(angle), (0.2, 0.6, -1.0), "fist")
        else:
            m.move(arm, 0.05, m.length * 0.95 * np.cos(angle), m.length * 0.9 * np.sin(angle), pose="fist")
    bounce = m.u(0.0, 0.02) * np.sin(2 * phase)
    m.trunk = np.stack([0.01 * m.u(0, 1) * np.sin(phase), bounce], axis=1)


def _shrug(m: Invention) -> None:
    """Shrug: shoulders up, palms turned out at the sides."""
    up = _halves(m.beat(0.4, 1.3), m.u(1, 3))
    out, raised = m.u(0.04, 0.12), m.u(0.05, 0.14)
    for arm in BOTH:
        m.move(
            arm, out + 0.14 * up, 0.36 - raised * m.size * up, 0.16 + 0.06 * up, (0.1, 1.0, -0.3),
            "spread", 0.3 + 0.5 * up, m.u(0.03, 0.05) * up,
        )  # fmt: skip
    m.head = np.stack([m.u(-0.02, 0.02) * up, m.tempo.wobble(0.003)], axis=1)


def _nod(m: Invention) -> None:
    """Nod, shake the head or roll it, with hands on the hips or hanging."""
    phase = m.beat(0.5, 2.0)
    size = m.size * m.u(0.02, 0.04)
    kind = m.rng.integers(3)
    sideways = size * np.sin(phase) if kind else m.tempo.wobble(0.003)
    downwards = size * (np.sin(phase) if kind == 0 else np.cos(phase)) if kind != 1 else m.tempo.wobble(0.003)
    m.head = np.stack([sideways, downwards], axis=1)
    if m.rng.random() < 0.5:
        for arm in BOTH:
            m.move(arm, 0.02, 0.33 + m.tempo.wobble(0.003), -0.02, (1.0, 0.2, -0.3), "fist")


def _pat_and_rub(m: Invention) -> None:
    """Pat the head with one hand and rub the belly with the other."""
    phase = m.beat(0.8, 2.4)
    rub = m.tempo.phase(m.u(0.5, 1.4))
    m.move(m.side, m.u(-0.16, -0.1), -0.3 - m.u(0.02, 0.06) * np.sin(phase), 0.05, (1.0, 0.0, -0.1), "open", -0.9)
    m.move(
        1 - m.side, -m.half + 0.06 * m.size * np.cos(rub), 0.36 + 0.05 * np.sin(rub), 0.16, (1.0, 0.6, -0.3), bend=-0.4
    )


def _flex(m: Invention) -> None:
    """Flex both biceps: upper arms out, forearms from the side to over the shoulders."""
    fold = _halves(m.beat(0.4, 1.3), m.u(1, 3))
    height, upper = m.u(-0.05, 0.1), m.body.upper_arm
    for arm in BOTH:
        angle = 0.2 + m.u(1.8, 2.3) * fold  # of the forearm, from straight out to over the shoulder
        wrist = 0.98 * upper + m.body.forearm * np.cos(angle)
        m.move(arm, wrist, height - m.body.forearm * np.sin(angle), 0.06, (1.0, 0.4, 0.1), "fist", -0.4 * fold)


def _swing_across(m: Invention) -> None:
    """Swing both arms to one side and to the other together, as with a bat or a broom."""
    phase = m.beat(0.4, 1.4)
    sway = np.sin(phase)
    down, wide, joined = m.u(0.1, 0.42), m.u(0.18, 0.34), m.rng.random() < 0.5
    rise = m.u(0.0, 0.2)
    for arm, inward in ((RIGHT, -1.0), (LEFT, 1.0)):
        middle = -m.half + (0.04 if joined else 0.16)
        m.move(
            arm, middle + inward * wide * m.size * sway, down - rise * sway**2, 0.34 - 0.08 * sway**2,
            pose="fist" if joined else m.pose(3, 1, 2),
        )  # fmt: skip
    m.twist = -m.u(0.1, 0.5) * sway
    m.trunk = np.stack([m.u(0.0, 0.035) * sway, m.tempo.wobble(0.004)], axis=1)


def _steer(m: Invention) -> None:
    """Turn a steering wheel left and right."""
    phase = m.beat(0.35, 1.2)
    turn = m.u(0.5, 1.1) * np.sin(phase) + m.tempo.wobble(0.15)
    radius, down, near = m.u(0.15, 0.22), m.u(0.1, 0.3), m.u(0.28, 0.38)
    for arm, inward in ((RIGHT, -1.0), (LEFT, 1.0)):
        angle = turn * inward * -1.0  # one hand goes up as the other goes down
        m.move(arm, -m.half + radius * np.cos(angle), down + radius * np.sin(angle), near, (0.8, 1.0, 0.0), "fist")


def _bow(m: Invention) -> None:
    """Bow with the palms laid together before the chest."""
    phase = m.beat(0.35, 1.0)
    deep = 0.5 - 0.5 * np.cos(phase)
    down, near = m.u(0.05, 0.2), m.u(0.18, 0.26)
    for arm in BOTH:
        m.move(arm, -m.half + 0.03, down, near + 0.04 * deep, (1.0, 0.8, 0.0), "edge", m.u(-0.9, -0.6))
    size = m.u(0.02, 0.06) * m.size
    m.trunk = np.stack([m.tempo.wobble(0.003), size * deep], axis=1)
    m.head = np.stack([m.tempo.wobble(0.003), m.u(0.03, 0.06) * deep], axis=1)


def _piano(m: Invention) -> None:
    """Play a keyboard or type: hands side by side run left and right, fingers and wrists bob a little and fast."""
    run = m.beat(0.3, 0.9)
    wide, down, near = m.u(0.06, 0.15), m.u(0.28, 0.38), m.u(0.26, 0.36)
    for arm, inward in ((RIGHT, -1.0), (LEFT, 1.0)):
        keys = m.tempo.phase(m.u(3, 6))
        m.move(
            arm,
            -m.half + m.u(0.1, 0.16) + inward * wide * m.size * np.sin(run),
            down + 0.01 * np.sin(keys),
            near,
            (0.6, 1.0, -0.2),
            "spread",
            0.25 * np.sin(keys - 0.8) - 0.3,
        )


def _knock(m: Invention) -> None:
    """Knock at a door: a raised fist, three or four knocks and a pause."""
    group = m.beat(0.4, 0.8)
    knocks = np.maximum(np.sin(group * m.rng.choice([4, 5, 6])), 0) * (np.sin(group) > -0.1)
    m.move(
        m.side, m.u(-0.12, 0.05), m.u(-0.1, 0.06) + 0.02 * knocks, 0.24 + 0.11 * m.size * knocks, pose="fist",
        bend=-0.3 - 0.2 * knocks,
    )  # fmt: skip


def _disco(m: Invention) -> None:
    """Point from the other hip up to the side in the air, and back; the free hand on the hip."""
    up = _halves(m.beat(0.45, 1.2), m.u(1, 3))
    high = m.u(0.22, 0.36)
    m.move(m.side, -0.3 + 0.55 * m.size * up, 0.4 - (0.4 + high) * up, 0.2 - 0.05 * up, (0.7, 0.8, -0.2), "point")
    m.move(1 - m.side, 0.02, 0.33, -0.02, (1.0, 0.2, -0.3), "fist")
    m.trunk = np.stack([m.u(0.01, 0.03) * (2 * up - 1), m.tempo.wobble(0.004)], axis=1)


def _point(m: Invention) -> None:
    """Point at the camera, upwards or aside with one forefinger and then the other."""
    phase = m.beat(0.4, 1.3)
    out, down, near = ((-0.05, -0.02, 0.45), (0.1, -0.45, 0.15), (0.45, -0.1, 0.15))[int(m.rng.integers(3))]
    for arm in BOTH:
        stretched = _halves(phase + arm * np.pi, m.u(1.5, 4))
        m.move(
            arm, 0.0 + out * m.size * stretched, 0.2 + (down - 0.2) * stretched, 0.2 + (near - 0.2) * stretched,
            pose="point",
        )  # fmt: skip


def _thumbs_up(m: Invention) -> None:
    """Bring a fist with its thumb up forwards from the hip, and take it back; one hand or both."""
    shown = _halves(m.beat(0.5, 1.4), m.u(1.5, 4))
    sides = BOTH if m.rng.random() < 0.4 else (m.side,)
    out, down = m.u(-0.1, 0.1), m.u(-0.05, 0.15)
    for arm in sides:
        m.move(arm, out, 0.36 + (down - 0.36) * shown * m.size, 0.08 + 0.3 * shown, pose="fist")


def _shake_hips(m: Invention) -> None:
    """Shake the hips: the trunk goes from side to side, hands on the hips or bent arms swinging along."""
    phase = m.beat(0.5, 1.8)
    sway = np.sin(phase)
    m.trunk = np.stack([m.u(0.025, 0.06) * m.size * sway, m.u(0.0, 0.015) * np.sin(2 * phase)], axis=1)
    dancing = m.rng.random() < 0.5
    for arm, inward in ((RIGHT, -1.0), (LEFT, 1.0)):
        if dancing:
            m.move(arm, -0.08 - inward * 0.1 * sway, 0.22, 0.26, (1.0, 0.8, -0.3), "fist")
        else:
            m.move(arm, 0.02, 0.33, -0.02, (1.0, 0.2, -0.3), "fist")
    m.twist = m.u(0, 0.3) * sway


def _shoot_bow(m: Invention) -> None:
    """Draw a bow: one arm stays stretched to the side, the other hand draws back from it and lets go."""
    phase = m.beat(0.35, 0.9)
    turn = phase / (2 * np.pi)
    drawn = np.clip(1.3 * (turn - np.floor(turn)), 0, 1) * np.clip(12 * (1 - (turn - np.floor(turn))), 0, 1)
    height, reach = m.u(-0.08, 0.05), m.u(0.85, 0.97) * m.length
    m.move(1 - m.side, reach, height + m.tempo.wobble(0.01), 0.12, pose="fist")
    m.move(
        m.side,
        -2 * m.half - 0.22 + (0.34 + 0.12 * m.size) * drawn,
        height,
        0.22 - 0.08 * drawn,
        (1.0, 0.0, 0.2),
        "fist",
    )


def _shake_hands(m: Invention) -> None:
    """Shake the hand of somebody before the camera."""
    phase = m.beat(1.0, 2.6)
    m.move(
        m.side, m.u(-0.12, 0.05), m.u(0.2, 0.32) + m.u(0.04, 0.09) * m.size * np.sin(phase), m.u(0.36, 0.46),
        pose="edge", bend=0.1 * np.sin(phase),
    )  # fmt: skip


def _throw(m: Invention) -> None:
    """Throw something: the hand goes back over the shoulder slowly and forward and down fast."""
    turn = m.beat(0.45, 1.1) / (2 * np.pi)
    part = turn - np.floor(turn)
    away = np.where(part < 0.7, 0.5 + 0.5 * np.cos(np.pi * part / 0.7), 0.5 - 0.5 * np.cos(np.pi * (part - 0.7) / 0.3))
    high = 4 * away * (1 - away)
    m.move(
        m.side, 0.2 - 0.24 * away, -0.16 + 0.36 * m.size * away - 0.14 * high, -0.04 + 0.44 * away,
        (1.0, 0.4, -0.2), m.pose(2, 1, 3),
    )  # fmt: skip
    m.twist = (1 if m.side == RIGHT else -1) * m.u(0.1, 0.4) * (2 * away - 1)


def _robot(m: Invention) -> None:
    """Be a robot: upper arms out, forearms flip up and down by turns, in jerks."""
    phase = m.beat(0.35, 1.0)
    together = m.rng.random() < 0.3
    for arm in BOTH:
        angle = np.pi * (_halves(phase + (0 if together else arm * np.pi), m.u(3, 6)) - 0.5)
        m.move(
            arm, 0.95 * m.body.upper_arm + 0.1 * np.cos(angle), 0.04 - m.body.forearm * np.sin(angle),
            0.05 + 0.2 * np.cos(angle), (1.0, 0.2, -0.3), "edge",
        )  # fmt: skip


def _cross(m: Invention) -> None:
    """Cross the forearms before the chest or overhead and open them wide: stop."""
    crossed = _halves(m.beat(0.4, 1.3), m.u(1, 3))
    down, wide = m.u(-0.4, 0.15), m.u(0.2, 0.4)
    for arm in BOTH:
        inside = m.half + m.u(0.08, 0.14)
        m.move(
            arm, wide * m.size - (inside + wide * m.size) * crossed, down, 0.2 + (0.1 + 0.06 * arm) * crossed,
            (0.8, 1.0, -0.1), m.pose(4, 1, 3, 0, 2),
        )  # fmt: skip


def _cheer(m: Invention) -> None:
    """Pump fists in the air: both, or one."""
    up = 0.5 + 0.5 * np.sin(m.beat(0.7, 2.2))
    sides = BOTH if m.rng.random() < 0.6 else (m.side,)
    out, low = m.u(0.0, 0.15), m.u(-0.15, 0.1)
    for arm in sides:
        m.move(arm, out + 0.03 * up, low - 0.32 * m.size * up, 0.12, (0.9, 0.6, 0.2), "fist")
    m.trunk = np.stack([m.tempo.wobble(0.004), -m.u(0, 0.025) * up], axis=1)


def _wander(m: Invention) -> None:
    """Conduct or dance freely: both hands go where they like."""
    m.beat(0.5, 1.5)
    for arm in BOTH:
        out, down, near = (m.tempo.wobble(m.u(0.1, 0.18), 0.3, 1.6) for _ in range(3))
        m.move(arm, 0.05 + out, 0.12 + down, 0.28 + 0.5 * near, pose=m.pose(3, 2, 3, 2, 1), bend=m.tempo.wobble(0.4))


INVENTIONS: tuple[Callable[[Invention], None], ...] = (
    _wave_both, _flap, _jumping_jack, _punch, _hooks, _push, _swim, _circle_both, _salute, _lift, _beckon, _swipe,
    _chop, _eight, _pull, _march, _shrug, _nod, _pat_and_rub, _flex, _swing_across, _steer, _bow, _piano, _knock,
    _disco, _point, _thumbs_up, _shake_hips, _shoot_bow, _shake_hands, _throw, _robot, _cross, _cheer, _wander,
)  # fmt: skip
