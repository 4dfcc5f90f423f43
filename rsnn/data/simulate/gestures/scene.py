"""What stays the same in a clip: where the performer stands, the light, the background, and still layers of the body.

Images are intensities from 0 to 1, float32; layers of torso and head carry a margin of MARGIN pixels on all sides, so
that they can be shifted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rsnn.data.simulate.gestures.body import Body, smooth_noise

FloatArray = npt.NDArray[np.float32]

SIDE = 128  # pixels of the sensor, both ways
MARGIN = 14


class Layer(NamedTuple):
    """A picture with its opacity, on one grid: (SIDE + 2 MARGIN, SIDE + 2 MARGIN), of a hand HAND_SPRITE."""

    opacity: FloatArray
    intensity: FloatArray


@dataclass(frozen=True)
class Scene:
    """Placement and light of one clip.

    Attributes:
        scale: pixels a metre at the performer's chest.
        neck: where the neck meets the shoulders, pixels (x, y).
        distance: from camera to chest, metres: how much nearer things grow.
        pitch: vertical shift of nearer things, metres a metre (the camera looks from below or above).
        blur: width of an edge in pixels.
        light: static gain, (SIDE, SIDE).
        flicker: size of the lamp's intensity ripple (0 = none), its frequency in hertz and phase.
        shake: size of the camera's own movement in pixels.
        shadow: of an arm, on what is behind it: pixels right and down of the arm, and the part of the light that it
            takes (0 = none).
        background: intensities with margin.

    """

    scale: float
    neck: tuple[float, float]
    distance: float
    pitch: float
    blur: float
    light: FloatArray
    flicker: tuple[float, float, float]
    shake: float
    shadow: tuple[float, float, float]
    background: FloatArray


def draw_scene(rng: np.random.Generator) -> Scene:
    """Return a random place and light for a performer."""
    u = rng.uniform
    scale = float(np.clip(rng.normal(112, 14), 80, 148))
    side = np.linspace(-1, 1, SIDE, dtype=np.float32)
    slope = rng.normal(0, 0.18, 2)
    light = np.exp(slope[0] * side[:, None] + slope[1] * side[None] - 0.15 * (side[:, None] ** 2 + side[None] ** 2))
    lamp = rng.choice(3, p=[0.6, 0.25, 0.15])
    flicker = (
        0.0 if lamp == 0 else float(u(0.01, 0.08) if lamp == 1 else u(0.08, 0.2)),
        float(rng.choice([100, 120])),
        u(0, 6.3),
    )
    return Scene(
        scale=scale,
        neck=(u(44, 87), u(47, 80) - 0.1 * (scale - 112)),
        distance=u(1.3, 2.4),
        pitch=u(-0.25, 0.25),
        blur=u(0.9, 2.0),
        light=(light * u(0.6, 1.0) / light.max()).astype(np.float32),
        flicker=flicker,
        shake=float(rng.lognormal(np.log(0.25), 0.7)) if rng.random() < 0.25 else 0.0,
        shadow=(u(-40, 40), u(-8, 30), u(0.05, 0.3) if rng.random() < 0.3 else 0.0),
        background=_background(rng),
    )


def _background(rng: np.random.Generator) -> FloatArray:
    """Return a wall or curtain, sometimes with furniture: boxes and lines."""
    shape = (SIDE + 2 * MARGIN, SIDE + 2 * MARGIN)
    # Many stand before a dark curtain, on which hands and faces are bright and dark clothes are hard to see.
    middle, spread = (0.35, 0.75) if rng.random() < 0.5 else (0.12, 0.6)
    level = np.clip(rng.lognormal(np.log(middle), spread), 0.045, 0.9)
    wall = level * np.exp(rng.uniform(0, 0.15) * smooth_noise(rng, shape, rng.uniform(8, 40)))
    for _ in range(rng.integers(0, 7) if rng.random() < 0.6 else 0):
        x, y = rng.integers(0, shape[0], 2)
        width, height = rng.integers(3, 60, 2)
        wall[y : y + height, x : x + width] *= np.exp(rng.normal(0, 0.6))
    return np.clip(_soften(wall), 0.02, 1).astype(np.float32)


def _soften(image: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Blur by (1, 2, 1) / 4 both ways."""
    for axis in (0, 1):
        image = (np.roll(image, 1, axis) + 2 * image + np.roll(image, -1, axis)) / 4
    return image


def _ramp(distance: npt.NDArray[np.floating], blur: float) -> FloatArray:
    """Return the opacity at a distance (pixels) inside an edge."""
    return np.clip(distance / blur + 0.5, 0, 1).astype(np.float32)


def _grid() -> tuple[FloatArray, FloatArray]:
    side = np.arange(-MARGIN, SIDE + MARGIN, dtype=np.float32)
    return side[None, :], side[:, None]


def torso_layer(body: Body, scene: Scene, rng: np.random.Generator) -> Layer:
    """Return shoulders, chest and neck."""
    x, y = _grid()
    s = scene.scale
    down = (y - scene.neck[1]) / s  # metres below the neck
    right = (x - scene.neck[0]) / s
    neck, shoulder = 0.35 * body.head_width, body.shoulder_width / 2 + 0.035
    slope = np.clip((down + 0.02) / 0.11, 0, 1)
    width = (
        neck + (shoulder - neck) * np.sqrt(slope) + (body.hip_width / 2 - shoulder) * np.clip(down - 0.1, 0, 0.5) / 0.5
    )
    opacity = _ramp((width - np.abs(right)) * s, scene.blur) * _ramp((down + 0.12) * s, scene.blur)
    folds = rng.uniform(0.08, 0.35)
    cloth = body.shirt * np.exp(folds * smooth_noise(rng, opacity.shape, rng.uniform(4, 10)))
    kind = rng.random()
    if kind < 0.15:
        cloth *= np.where(np.sin(down * rng.uniform(60, 160)) > 0, rng.uniform(0.5, 1.8), 1)
    elif kind < 0.3:
        print_ = (np.abs(right) < rng.uniform(0.05, 0.12)) & (np.abs(down - 0.25) < rng.uniform(0.03, 0.1))
        cloth = np.where(print_, cloth * rng.uniform(0.4, 2.5), cloth)
    elif kind < 0.45:
        cloth = np.where(np.abs(right) < 0.012, cloth * rng.uniform(0.4, 0.8), cloth)  # a zip or buttons
    collar = rng.uniform(0.0, 0.09)
    skin = (down < collar - np.abs(right)) | (down < -0.01)
    intensity = np.where(skin, body.skin * 0.85, cloth) * (1 - 0.5 * np.clip(np.abs(right) / width, 0, 1) ** 3)
    return Layer(opacity, np.clip(_soften(intensity), 0.02, 1).astype(np.float32))


def head_layer(body: Body, scene: Scene, rng: np.random.Generator) -> Layer:
    """Return the head with hair and the features of a face."""
    x, y = _grid()
    s = scene.scale
    centre = -0.06 - body.head_height / 2
    v = ((y - scene.neck[1]) / s - centre) / (body.head_height / 2)
    u = (x - scene.neck[0]) / s / (body.head_width / 2) + 0.1 * rng.normal()
    # Narrower towards the chin.
    reach = np.sqrt((u / (1 - 0.18 * np.clip(v, 0, 1))) ** 2 + v**2)
    hair_out = rng.uniform(0.0, 0.12)
    radius = 1 + hair_out * np.clip(-v, 0, 1)
    opacity = _ramp((radius - reach) * s * body.head_width / 2, scene.blur)
    face = body.skin * (1 - 0.3 * u**2) * np.exp(0.06 * smooth_noise(rng, opacity.shape, 3))

    def spot(cx: float, cy: float, wide: float, high: float, gain: float) -> None:
        nonlocal face
        face = face * np.exp(np.log(gain) * np.exp(-(((u - cx) / wide) ** 2) - ((v - cy) / high) ** 2))

    eyes = rng.uniform(0.3, 0.65)
    for cx in (-0.4, 0.4):
        spot(cx, -0.1, 0.2, 0.08, eyes)
        spot(cx, -0.27, 0.25, 0.05, rng.uniform(0.5, 0.9))
    spot(0, 0.25, 0.12, 0.12, 1.15)
    spot(0, 0.3, 0.14, 0.05, 0.75)
    spot(0, 0.55, 0.32, 0.06, rng.uniform(0.5, 0.85))
    if rng.random() < 0.3:  # glasses
        for cx in (-0.4, 0.4):
            ring = np.abs(np.sqrt(((u - cx) / 0.33) ** 2 + ((v + 0.08) / 0.22) ** 2) - 1)
            face = np.where(ring < 0.25, face * 0.4, face)
    if rng.random() < 0.3:  # beard
        face = np.where((v > 0.35) & (reach > 0.45), face * rng.uniform(0.3, 0.7), face)
    line = rng.uniform(-0.65, -0.35)
    long_hair = rng.random() < 0.3
    hairy = (v < line + 0.25 * u**2) | ((np.abs(u) > 0.85) & (v < (0.6 if long_hair else -0.05)))
    hair = body.hair * np.exp(0.25 * smooth_noise(rng, opacity.shape, 2.5))
    return Layer(opacity, np.clip(_soften(np.where(hairy, hair, face)), 0.02, 1).astype(np.float32))


def shifted(image: FloatArray, dx: float, dy: float) -> FloatArray:
    """Return the (SIDE, SIDE) picture seen when a layer moves by (dx, dy) pixels, right and down; bilinear."""
    limit = MARGIN - 2
    x, y = MARGIN - min(max(dx, -limit), limit), MARGIN - min(max(dy, -limit), limit)
    left, top = int(x), int(y)
    right, down = np.float32(x - left), np.float32(y - top)
    rows = image[top : top + SIDE + 1]
    columns = rows[:, left : left + SIDE] * (1 - right)
    columns += rows[:, left + 1 : left + SIDE + 1] * right
    out: FloatArray = columns[:-1] * (1 - down)
    out += columns[1:] * down
    return out
