"""Film a performance: joints over time to pixels, and pixels to frames at the moments that need one.

Letters: F instants of the fine clock (STEP_US apart), J joints of an arm (shoulder, elbow, wrist, finger tips).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rsnn.data.simulate.gestures.arms import LEFT, RIGHT, Performance
from rsnn.data.simulate.gestures.body import Body, limb_textures
from rsnn.data.simulate.gestures.draw import draw_hand, draw_limb, draw_shadow, hand_sprite
from rsnn.data.simulate.gestures.motion import Tempo, reach
from rsnn.data.simulate.gestures.scene import SIDE, Layer, Scene, head_layer, shifted, torso_layer

FloatArray = npt.NDArray[np.float64]

STEP_US = 2000  # of the clock that movements are computed on; frames fall on its ticks
MOST_PIXELS = 2.0  # that a joint moves from one frame to the next
LONGEST_US = 10_000  # from one frame to the next,
LONGEST_FLICKER_US = 3_000  # and where the light flickers
SLOW_PIXELS = 0.35  # an arm whose joints move less from frame to frame belongs to the still picture
STILL_EVERY = 4  # frames between two drawings of torso, head and background; between them they are blended


@dataclass
class ArmTrack:
    """Where an arm is in the image.

    Attributes:
        joints: pixels of shoulder, elbow, wrist and finger tips, (F, 4, 2).
        radii: pixels at shoulder, elbow and wrist, (F, 3).
        near: how near the wrist is, (F,); what is nearer is drawn later.
        hand: (length, width) in pixels, (F, 2).
        direction: unit vector of the hand in the image, (F, 2).

    """

    joints: FloatArray
    radii: FloatArray
    near: FloatArray
    hand: FloatArray
    direction: FloatArray


def track_arms(performance: Performance, body: Body, scene: Scene, torso: FloatArray) -> list[ArmTrack]:
    """Return both arms in the image.

    Args:
        performance: paths of the wrists, and how the shoulders turn.
        body: lengths.
        scene: the camera.
        torso: how far the shoulders have moved, (F, 2) metres (right, down).

    """
    tracks = []
    for side, outwards in ((RIGHT, -1.0), (LEFT, 1.0)):
        arm = performance.arms[side]
        elbow, wrist = reach(arm.wrist, body, np.asarray(arm.pole, dtype=np.float64))
        F = len(wrist)
        forearm = (wrist - elbow) / body.forearm
        bend = np.broadcast_to(np.asarray(arm.bend, dtype=np.float64), (F,))
        hand = np.stack(
            [
                forearm[:, 0] * np.cos(bend) - forearm[:, 1] * np.sin(bend),
                forearm[:, 1] * np.cos(bend) + forearm[:, 0] * np.sin(bend),
                forearm[:, 2],
            ],
            axis=1,
        )
        flex = np.broadcast_to(np.asarray(arm.flex, dtype=np.float64), (F,))[:, None]
        towards = np.array([0.0, 0.0, 1.0]) - hand[:, 2:] * hand
        towards /= np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-3)
        hand = np.cos(flex) * hand + np.sin(flex) * towards
        # A raised arm lifts its shoulder.
        lift = 0.035 * np.clip(-wrist[:, 1] / (body.upper_arm + body.forearm) + 0.3, 0, 1) + arm.lift
        twist = np.broadcast_to(np.asarray(performance.twist, dtype=np.float64), (F,))
        half = body.shoulder_width / 2
        shoulder = np.stack([half * np.cos(twist), 0.06 - lift, -outwards * half * np.sin(twist)], axis=1)
        points = np.stack([np.zeros_like(wrist), elbow, wrist, wrist + body.hand * hand], axis=1) + shoulder[:, None]
        points[..., 0] = points[..., 0] * outwards + torso[:, None, 0]
        points[..., 1] += torso[:, None, 1]
        joints, gain = _project(points, scene)
        across = joints[:, 3] - joints[:, 2]
        length = np.linalg.norm(across, axis=1)
        # A hand that points at the camera still shows its palm's width.
        width = body.hand * scene.scale * gain[:, 3]
        roll = np.broadcast_to(np.asarray(arm.roll, dtype=np.float64), (F,))
        turned = np.cos(roll) * outwards
        turned = np.where(turned < 0, -1, 1) * (0.4 + 0.6 * np.abs(turned))
        tracks.append(
            ArmTrack(
                joints,
                np.array([body.upper_radius, body.elbow_radius, body.wrist_radius]) * scene.scale * gain[:, :3],
                points[:, 2, 2],
                np.stack([np.maximum(length, 0.4 * width), width * turned], axis=1),
                across / np.maximum(length, 1e-6)[:, None],
            )
        )
    return tracks


def _project(points: FloatArray, scene: Scene) -> tuple[FloatArray, FloatArray]:
    """Return pixels (F, J, 2) and magnification (F, J) of points (F, J, 3) about the neck, in metres."""
    gain = scene.distance / (scene.distance - np.minimum(points[..., 2], scene.distance - 0.5))
    centre = np.array([SIDE / 2, SIDE / 2])
    flat = np.array(scene.neck) + scene.scale * np.stack(
        [points[..., 0], points[..., 1] + scene.pitch * points[..., 2]], axis=-1
    )
    return centre + (flat - centre) * gain[..., None], gain


def choose_ticks(tracks: list[ArmTrack], longest_us: int) -> npt.NDArray[np.int64]:
    """Return the ticks of the fine clock at which to draw: closer together where a joint is fast."""
    fastest = np.zeros(len(tracks[0].joints))
    for track in tracks:
        moved = np.linalg.norm(np.diff(track.joints, axis=0, prepend=track.joints[:1]), axis=2)
        fastest = np.maximum(fastest, moved.max(1))
    due = np.floor(np.cumsum(np.maximum(fastest / MOST_PIXELS, STEP_US / longest_us)))
    ticks = np.flatnonzero(np.diff(due, prepend=-1) > 0)
    return np.unique(np.append(ticks, len(due) - 1))


class Film:
    """Frames of one clip.

    Args:
        body: of the performer.
        scene: the place.
        performance: what the arms do.
        tempo: the clip's clock and chances, for sway and shake.
        rng: of the textures of this clip.

    Attributes:
        scene: the place.
        ticks: of the fine clock at which there are frames, (frames,).
        tracks: both arms at these ticks, [RIGHT, LEFT].
        slow: the arms that belong to the still picture.
        shake, torso_shift, head_shift: how far background, torso and head have moved, (frames, 2) pixels.
        torso, head: still layers.
        limbs: textures of (upper arm, forearm) of both arms.
        hands: sprites of both.

    """

    def __init__(
        self, body: Body, scene: Scene, performance: Performance, tempo: Tempo, rng: np.random.Generator
    ) -> None:
        self.scene = scene
        sway = 0.004 * body.sway
        drift = np.stack([tempo.wobble(1.4 * sway, 0.1, 1.2), tempo.wobble(0.7 * sway, 0.1, 1.5)], axis=1)
        if performance.trunk is not None:
            drift += performance.trunk
        # The torso answers the arms: it moves against them a little.
        pull = 0.05 * rng.uniform() ** 2
        for side, outwards in ((RIGHT, -1.0), (LEFT, 1.0)):
            wrist = performance.arms[side].wrist
            drift[:, 0] -= pull * outwards * (wrist[:, 0] - wrist[:, 0].mean())
            drift[:, 1] += 0.4 * pull * (wrist[:, 1] - wrist[:, 1].mean())
        tracks = track_arms(performance, body, scene, drift)
        shake = np.stack([tempo.wobble(scene.shake, 0.5, 6), tempo.wobble(scene.shake, 0.5, 6)], axis=1)
        for track in tracks:
            track.joints += shake[:, None]
        longest = LONGEST_FLICKER_US if scene.flicker[0] else LONGEST_US
        self.ticks = choose_ticks(tracks, longest)
        self.tracks = [
            ArmTrack(
                t.joints[self.ticks],
                t.radii[self.ticks],
                t.near[self.ticks],
                t.hand[self.ticks],
                t.direction[self.ticks],
            )
            for t in tracks
        ]
        moved = [np.abs(np.diff(t.joints, axis=0, prepend=t.joints[:1])).max() for t in self.tracks]
        self.slow = [side for side in (RIGHT, LEFT) if moved[side] < SLOW_PIXELS]
        self.shake = shake[self.ticks]
        self.torso_shift = self.shake + scene.scale * drift[self.ticks]
        nod = np.stack([tempo.wobble(0.5 * sway, 0.2, 1.5), tempo.wobble(0.5 * sway, 0.2, 1.5)], axis=1)
        if performance.head is not None:
            nod = nod + performance.head
        self.head_shift = self.torso_shift + scene.scale * nod[self.ticks]
        self.torso: Layer = torso_layer(body, scene, np.random.default_rng((body.seed, 2)))
        self.head: Layer = head_layer(body, scene, np.random.default_rng((body.seed, 3)))
        self.limbs = limb_textures(body)
        self.hands = [
            hand_sprite(body, performance.arms[side].pose, scene.scale, scene.blur, rng) for side in (RIGHT, LEFT)
        ]

    def frames(self) -> Iterator[tuple[npt.NDArray[np.float32], int]]:
        """Yield (intensity (SIDE, SIDE), microseconds); an image is overwritten by the next one."""
        times, lamp = self.ticks * STEP_US, self.lamp()
        image = np.empty_like(self.scene.light)
        before = after = self._still(0)
        last = len(times) - 1
        for number in range(len(times)):
            place = number % STILL_EVERY
            if place == 0:
                before, after = after, self._still(min(number + STILL_EVERY, last))
                step = (after - before) / STILL_EVERY
                still = before.copy()
            else:
                still += step
            np.copyto(image, still)
            if self.scene.shadow[2]:
                self._draw_shadows(image, number)
            self._draw_arms(image, number, slow=False)
            image *= self.scene.light
            if self.scene.flicker[0]:
                image *= np.float32(lamp[number])
            yield image, int(times[number])

    def lamp(self) -> FloatArray:
        """Return the light of the lamp in every frame, 1 at most."""
        size, hz, phase = self.scene.flicker
        return 1 - size * (0.5 + 0.5 * np.sin(2 * np.pi * hz * (self.ticks * STEP_US) * 1e-6 + phase))

    def first_arm(self) -> npt.NDArray[np.int64]:
        """Return which arm is drawn first in every frame: the one that is further away."""
        right, left = self.tracks
        return np.where(right.near <= left.near, RIGHT, LEFT)

    def _still(self, number: int) -> npt.NDArray[np.float32]:
        image = shifted(self.scene.background, *self.shake[number].tolist())
        for layer, shift in ((self.torso, self.torso_shift), (self.head, self.head_shift)):
            dx, dy = shift[number].tolist()
            image += (shifted(layer.intensity, dx, dy) - image) * shifted(layer.opacity, dx, dy)
        self._draw_arms(image, number, slow=True)
        return image

    def _draw_shadows(self, image: npt.NDArray[np.float32], number: int) -> None:
        right, down, depth = self.scene.shadow
        for side in (RIGHT, LEFT):
            if side not in self.slow:
                joints = self.tracks[side].joints[number] + (right, down)
                (_, elbow, _, tip), radius = joints.tolist(), float(self.tracks[side].radii[number, 1])
                draw_shadow(image, elbow, tip, radius, 2 * radius, depth)

    def _draw_arms(self, image: npt.NDArray[np.float32], number: int, *, slow: bool) -> None:
        right, left = self.tracks
        order = (RIGHT, LEFT) if right.near[number] <= left.near[number] else (LEFT, RIGHT)
        for side in order:
            if (side in self.slow) != slow:
                continue
            track = self.tracks[side]
            shoulder, elbow, wrist, _ = (tuple(point) for point in track.joints[number].tolist())
            upper, middle, lower = track.radii[number].tolist()
            draw_limb(image, shoulder, elbow, (upper, middle), self.limbs[side][0], self.scene.blur)
            draw_limb(image, elbow, wrist, (middle, lower), self.limbs[side][1], self.scene.blur)
            length, width = track.hand[number].tolist()
            draw_hand(image, wrist, tuple(track.direction[number].tolist()), length, width, self.hands[side])
