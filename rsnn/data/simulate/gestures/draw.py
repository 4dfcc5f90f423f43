"""Draw the moving parts of an arm into an image: tapered limbs with a texture, and hands.

Only the pixels around a part are touched. Coordinates are pixels, (x, y), pixel centres at whole numbers.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rsnn.data.simulate.gestures.body import LIMB_TEXTURE, Body, smooth_noise
from rsnn.data.simulate.gestures.scene import SIDE, Layer

FloatArray = npt.NDArray[np.float32]

HAND_SPRITE = (40, 56)  # (across, along)
HAND_REACH = (-0.12, 1.05)  # the sprite's extent along the hand, in lengths of the hand from the wrist
_ROWS = np.arange(SIDE, dtype=np.float32)[:, None]
_COLUMNS = np.arange(SIDE, dtype=np.float32)[None, :]


def _window(
    image: FloatArray, left: float, top: float, right: float, bottom: float
) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """Return the part of the image in a box and its columns and rows, or None if the box lies outside."""
    x0, y0 = max(math.floor(left), 0), max(math.floor(top), 0)
    x1, y1 = min(math.ceil(right) + 1, image.shape[1]), min(math.ceil(bottom) + 1, image.shape[0])
    if x0 >= x1 or y0 >= y1:
        return None
    return image[y0:y1, x0:x1], _COLUMNS[:, x0:x1], _ROWS[y0:y1]


def draw_limb(
    image: FloatArray,
    start: tuple[float, float],
    end: tuple[float, float],
    radii: tuple[float, float],
    texture: FloatArray,
    blur: float,
) -> None:
    """Draw a capsule from start to end whose radius changes from radii[0] to radii[1].

    Args:
        image: drawn into, (SIDE, SIDE).
        start: middle of the upper end.
        end: middle of the lower end.
        radii: at both ends.
        texture: intensities, LIMB_TEXTURE = (across, along).
        blur: width of the edge.

    """
    wide = max(radii) + blur
    window = _window(
        image, min(start[0], end[0]) - wide, min(start[1], end[1]) - wide,
        max(start[0], end[0]) + wide, max(start[1], end[1]) + wide,
    )  # fmt: skip
    if window is None:
        return
    part, columns, rows = window
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = max(math.hypot(dx, dy), 1e-3)
    ux, uy = dx / length, dy / length
    x, y = columns - np.float32(start[0]), rows - np.float32(start[1])
    along = x * np.float32(ux) + y * np.float32(uy)
    across = x * np.float32(-uy) + y * np.float32(ux)
    beyond = np.minimum(along, np.float32(length))  # minimum and maximum cost half of what np.clip does
    np.maximum(beyond, 0, out=beyond)
    np.subtract(along, beyond, out=beyond)
    along -= beyond
    along *= np.float32(1 / length)
    radius = along * np.float32(radii[1] - radii[0])
    radius += np.float32(radii[0])
    np.square(beyond, out=beyond)
    beyond += np.square(across)
    np.sqrt(beyond, out=beyond)
    opacity = radius - beyond
    opacity *= np.float32(1 / blur)
    opacity += np.float32(0.5)
    np.minimum(opacity, 1, out=opacity)
    np.maximum(opacity, 0, out=opacity)
    across /= radius
    np.minimum(across, 1, out=across)
    np.maximum(across, -1, out=across)
    across += 1
    across *= np.float32((LIMB_TEXTURE[0] - 1) / 2)
    along *= np.float32(LIMB_TEXTURE[1] - 1)
    index = across.astype(np.int32)
    index *= LIMB_TEXTURE[1]
    index += along.astype(np.int32)
    value = texture.ravel()[index]
    value -= part
    value *= opacity
    part += value


def draw_shadow(
    image: FloatArray, start: tuple[float, float], end: tuple[float, float], radius: float, blur: float, depth: float
) -> None:
    """Take up to `depth` of the light around the line from start to end, with an edge as wide as `blur`."""
    wide = radius + blur
    window = _window(
        image, min(start[0], end[0]) - wide, min(start[1], end[1]) - wide,
        max(start[0], end[0]) + wide, max(start[1], end[1]) + wide,
    )  # fmt: skip
    if window is None:
        return
    part, columns, rows = window
    dx, dy = end[0] - start[0], end[1] - start[1]
    per_length = 1 / max(dx * dx + dy * dy, 1e-3)
    x, y = columns - np.float32(start[0]), rows - np.float32(start[1])
    place = x * np.float32(dx * per_length) + y * np.float32(dy * per_length)
    np.minimum(place, 1, out=place)
    np.maximum(place, 0, out=place)
    dark = np.sqrt(np.square(x - place * np.float32(dx)) + np.square(y - place * np.float32(dy)))
    dark *= np.float32(-depth / blur)
    dark += np.float32(depth * (radius / blur + 0.5))
    np.minimum(dark, np.float32(depth), out=dark)
    np.maximum(dark, 0, out=dark)
    part *= 1 - dark


def draw_hand(
    image: FloatArray,
    wrist: tuple[float, float],
    direction: tuple[float, float],
    length: float,
    width: float,
    sprite: Layer,
) -> None:
    """Draw a hand from its wrist along a direction (a unit vector); `width` of either sign is the sprite's height."""
    far = 1.06 * math.hypot(length, width / 2)
    window = _window(image, wrist[0] - far, wrist[1] - far, wrist[0] + far, wrist[1] + far)
    if window is None:
        return
    part, columns, rows = window
    x, y = columns - np.float32(wrist[0]), rows - np.float32(wrist[1])
    per_length = (HAND_SPRITE[1] - 1) / (HAND_REACH[1] - HAND_REACH[0])
    ux, uy = direction[0] * per_length / length, direction[1] * per_length / length
    vx, vy = (
        -direction[1] * (HAND_SPRITE[0] - 1) / width,
        direction[0] * (HAND_SPRITE[0] - 1) / width,
    )
    along = (x * np.float32(ux) + y * np.float32(uy)) - np.float32(HAND_REACH[0] * per_length)
    across = (x * np.float32(vx) + y * np.float32(vy)) + np.float32((HAND_SPRITE[0] - 1) / 2)
    # The sprite's outermost texels are clear: what lies outside reads them.
    np.minimum(along, HAND_SPRITE[1] - 1, out=along)
    np.maximum(along, 0, out=along)
    np.minimum(across, HAND_SPRITE[0] - 1, out=across)
    np.maximum(across, 0, out=across)
    index = across.astype(np.int32)
    index *= HAND_SPRITE[1]
    index += along.astype(np.int32)
    value = sprite.intensity.ravel()[index]
    value -= part
    value *= sprite.opacity.ravel()[index]
    part += value


def hand_sprite(body: Body, pose: str, scale: float, blur: float, rng: np.random.Generator) -> Layer:
    """Return a hand in one of the poses, pointing along the second axis, thumb towards row 0.

    Args:
        body: of the performer.
        pose: one of `arms.HAND_POSES`.
        scale: pixels a metre, which says how wide the blur is on the hand.
        blur: width of an edge in pixels.
        rng: of the fingers.

    """
    along = np.linspace(*HAND_REACH, HAND_SPRITE[1])[None]
    across = np.linspace(-0.5, 0.5, HAND_SPRITE[0])[:, None]  # in lengths of the hand: the sprite is as wide as long
    fan = {"spread": rng.uniform(0.18, 0.3), "open": rng.uniform(0.0, 0.08)}.get(pose, 0.0)
    parts = [((0.0, 0.0), (0.3, 0.0), 0.17), ((-0.1, 0.0), (0.2, 0.0), 0.14)]  # palm and wrist
    if pose == "fist":
        parts += [((0.28, -0.08), (0.36, 0.1), 0.14), ((0.2, -0.12), (0.38, -0.1), 0.07)]
    elif pose == "edge":
        parts = [((-0.1, 0.0), (0.85, 0.0), 0.08), ((0.1, -0.05), (0.4, -0.12), 0.05)]
    else:
        straight = (0, 1, 2, 3) if pose != "point" else (0,)
        for finger in range(4):
            base = -0.125 + 0.085 * finger
            reach = (0.55, 0.62, 0.58, 0.46)[finger] * rng.uniform(0.92, 1.03) if finger in straight else 0.12
            angle = fan * (finger - 1.5) * 1.3
            tip = (0.38 + reach * math.cos(angle), base + reach * math.sin(angle))
            parts.append(((0.36, base), tip, 0.042))
        spread = rng.uniform(0.5, 1.0) if pose == "spread" else rng.uniform(0.1, 0.5)
        parts.append(((0.08, -0.12), (0.08 + 0.4 * math.cos(spread), -0.12 - 0.34 * math.sin(spread)), 0.05))
    inside = np.full(HAND_SPRITE, -1.0)
    gaps = np.zeros(HAND_SPRITE)
    for (ax, ay), (bx, by), radius in parts:
        dx, dy = bx - ax, by - ay
        place = np.clip(((along - ax) * dx + (across - ay) * dy) / (dx * dx + dy * dy), 0, 1)
        depth = radius - np.hypot(along - ax - place * dx, across - ay - place * dy)
        gaps = np.where(depth > inside, np.clip(depth / radius, 0, 1), gaps)
        inside = np.maximum(inside, depth)
    opacity = np.clip(inside * body.hand * scale / blur + 0.5, 0, 1)
    opacity[[0, -1]] = 0
    opacity[:, [0, -1]] = 0
    light = 1 + rng.uniform(-0.5, 0.5) * across
    skin = body.skin * light * (0.62 + 0.5 * gaps**0.5) * np.exp(0.1 * smooth_noise(rng, HAND_SPRITE, 6))
    return Layer(opacity.astype(np.float32), np.clip(skin, 0.02, 1).astype(np.float32))
