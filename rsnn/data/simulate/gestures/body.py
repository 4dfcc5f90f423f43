"""Random performers: the sizes of a body, how it looks, and the habits that its owner moves with.

Lengths are metres; intensities run from 0 (black) to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

LIMB_TEXTURE = (24, 48)  # (across, along)


@dataclass(frozen=True)
class Body:
    """One performer, the same in all of their clips.

    Attributes:
        shoulder_width: from joint to joint.
        upper_arm, forearm, hand: lengths; the hand's to the finger tips.
        upper_radius, elbow_radius, wrist_radius: of the arm with its sleeve.
        head_height, head_width: sizes of the head.
        hip_width: of the torso at its lower end.
        skin, hair, shirt: intensities.
        sleeve: part of the whole arm that is covered, 0 (none) to 1 (to the wrist).
        tempo, reach: factors on the frequency and the size of every movement.
        sway: size of the involuntary movements of the torso.
        left_handed: mirrors gestures that have a leading hand.
        seed: of the textures.

    """

    shoulder_width: float
    upper_arm: float
    forearm: float
    hand: float
    upper_radius: float
    elbow_radius: float
    wrist_radius: float
    head_height: float
    head_width: float
    hip_width: float
    skin: float
    hair: float
    shirt: float
    sleeve: float
    tempo: float
    reach: float
    sway: float
    left_handed: bool
    seed: int


def draw_body(subject: int) -> Body:
    """Return performer number `subject`; different numbers are different people."""
    rng = np.random.default_rng((20_170_721, subject))
    size = rng.normal(1, 0.06)
    stout = rng.lognormal(0, 0.13)
    sleeve = rng.choice([rng.uniform(0.0, 0.15), rng.uniform(0.25, 0.45), rng.uniform(0.85, 1.0)], p=[0.1, 0.4, 0.5])
    loose = 1 + 0.25 * rng.random()
    shirt, spread = (0.22, 0.8) if rng.random() < 0.6 else (0.09, 0.5)  # many wear black
    return Body(
        shoulder_width=0.36 * size * rng.normal(1, 0.05),
        upper_arm=0.29 * size * rng.normal(1, 0.04),
        forearm=0.25 * size * rng.normal(1, 0.04),
        hand=0.18 * size * rng.normal(1, 0.05),
        upper_radius=0.054 * stout * size * loose,
        elbow_radius=0.044 * stout * size * (loose if sleeve > 0.5 else 1),
        wrist_radius=0.032 * stout**0.5 * size * (loose if sleeve > 0.8 else 1),
        head_height=0.24 * size * rng.normal(1, 0.04),
        head_width=0.165 * size * rng.normal(1, 0.05),
        hip_width=0.32 * stout * size,
        skin=float(np.clip(rng.lognormal(np.log(0.42), 0.4), 0.12, 0.85)),
        hair=float(np.clip(rng.lognormal(np.log(0.1), 0.7), 0.03, 0.6)),
        shirt=float(np.clip(rng.lognormal(np.log(shirt), spread), 0.03, 0.9)),
        sleeve=float(sleeve),
        tempo=float(rng.lognormal(0, 0.16)),
        reach=float(np.clip(rng.normal(1, 0.12), 0.7, 1.25)),
        sway=float(rng.lognormal(-0.45, 0.7)),
        left_handed=bool(rng.random() < 0.12),
        seed=subject,
    )


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], grain: float) -> FloatArray:
    """Return noise of mean 0 and standard deviation about 1 whose blobs are `grain` texels wide."""
    coarse = rng.normal(size=(int(shape[0] / grain) + 2, int(shape[1] / grain) + 2))
    rows, columns = (np.linspace(0, side / grain, side) for side in shape)
    top, left = rows.astype(int), columns.astype(int)
    down, right = (rows - top)[:, None], columns - left
    lines = coarse[top] * (1 - down) + coarse[top + 1] * down
    noise = lines[:, left] * (1 - right) + lines[:, left + 1] * right
    return (1.5 * noise).astype(np.float32)


def limb_textures(body: Body) -> list[tuple[FloatArray, FloatArray]]:
    """Return (upper arm, forearm) intensities of the right and the left arm, each of shape LIMB_TEXTURE."""
    rng = np.random.default_rng((body.seed, 1))
    folds, stripes = rng.uniform(0.08, 0.3), rng.random() < 0.25
    stripe = rng.uniform(0.5, 1.8), rng.uniform(4, 12)
    watch = int(rng.integers(4))  # on arm 0 or 1, or on none
    light = rng.uniform(-0.25, 0.25)
    across = np.linspace(-1, 1, LIMB_TEXTURE[0], dtype=np.float32)[:, None]
    shade = 1 - 0.45 * across**2 + light * across
    arms = []
    for arm in range(2):
        # One strip from shoulder to wrist, cut at the elbow.
        along = np.linspace(0, 1, 2 * LIMB_TEXTURE[1])[None]
        cloth = body.shirt * np.exp(folds * smooth_noise(rng, (LIMB_TEXTURE[0], along.size), 5))
        if stripes:
            cloth = cloth * np.where(np.sin(along * 2 * np.pi * stripe[1]) > 0, stripe[0], 1)
        bare = body.skin * np.exp(0.07 * smooth_noise(rng, (LIMB_TEXTURE[0], along.size), 7))
        strip = np.where(along < body.sleeve, cloth, bare)
        hem = np.abs(along - body.sleeve) < 0.012
        strip = np.where(hem, strip * 0.6, strip)
        if watch == arm:
            strip = np.where(np.abs(along - 0.95) < 0.02, 0.06, strip)
        strip = np.clip(strip * shade, 0.02, 1).astype(np.float32)
        arms.append((strip[:, : LIMB_TEXTURE[1]].copy(), strip[:, LIMB_TEXTURE[1] :].copy()))
    return arms
