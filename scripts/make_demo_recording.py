"""Draw a digit, move it in N-MNIST's three saccades before a simple event pixel, and write the events as a `.bin`.

    python scripts/make_demo_recording.py rsnn/data/samples/digit_3.bin

The result ships with the package, so that its demo has a recording to classify that belongs to the project.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

SIDE = 34
SACCADE_US = 100_000
CORNERS = np.array([[-2.5, -3.0], [0.0, 3.0], [2.5, -3.0], [-2.5, -3.0]])  # of the triangle the digit moves along
THRESHOLD = 0.38  # change of log intensity that makes an event
THRESHOLD_SPREAD = 0.06
NOISE_HZ = 0.4  # background events of a pixel


def arc(centre: tuple[float, float], radius: float, start: float, end: float) -> np.ndarray:
    """Return points (n, 2) of an arc; angles in degrees, 0 to the right, growing downwards."""
    angles = np.deg2rad(np.linspace(start, end, 60))
    return np.stack((centre[0] + radius * np.cos(angles), centre[1] + radius * np.sin(angles)), axis=1)


def digit_3(offset: np.ndarray) -> np.ndarray:
    """Return the light (SIDE, SIDE), 0 to 1, from paper with a 3 in ink, moved by `offset` (x, y) pixels."""
    strokes = np.concatenate([arc((16.5, 12.2), 4.6, -160, 95), arc((16.2, 21.4), 5.2, -95, 160)]) + offset
    y, x = np.mgrid[:SIDE, :SIDE]
    distance = np.sqrt((x[..., None] - strokes[:, 0]) ** 2 + (y[..., None] - strokes[:, 1]) ** 2).min(-1)
    return 1 / (1 + np.exp((1.5 - distance) / 0.35))


def path_at(t_us: int) -> np.ndarray:
    """Return where the digit is at a time: each saccade eases in and out."""
    saccade, since = divmod(min(t_us, 3 * SACCADE_US - 1), SACCADE_US)
    way = np.clip((since / SACCADE_US - 0.1) / 0.8, 0, 1)
    eased = way * way * (3 - 2 * way)
    return CORNERS[saccade] + eased * (CORNERS[saccade + 1] - CORNERS[saccade])


def record(seed: int, step_us: int = 500) -> np.ndarray:
    """Return events (n, 4) as t, x, y, p, in order of time."""
    rng = np.random.default_rng(seed)
    thresholds = np.maximum(rng.normal(THRESHOLD, THRESHOLD_SPREAD, (2, SIDE, SIDE)), 0.05)
    memory = np.log(0.15 + digit_3(path_at(0)))
    events = []
    for t_us in range(step_us, 3 * SACCADE_US, step_us):
        level = np.log(0.15 + digit_3(path_at(t_us)))
        for p, sign in ((0, -1.0), (1, 1.0)):
            crossings = np.maximum(sign * (level - memory) // thresholds[p], 0).astype(int)
            memory += sign * crossings * thresholds[p]
            crossings += rng.random((SIDE, SIDE)) < NOISE_HZ / 2 * step_us * 1e-6
            y, x = np.nonzero(crossings)
            y, x = (np.repeat(axis, crossings[y, x]) for axis in (y, x))
            t = t_us - rng.integers(0, step_us, len(x))
            events.append(np.stack((t, x, y, np.full(len(x), p)), axis=1))
    joined = np.concatenate(events)
    return joined[np.argsort(joined[:, 0], kind="stable")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args()
    t, x, y, p = record(arguments.seed).T
    # N-MNIST's layout: 8 bits x, 8 bits y, 1 bit polarity, 23 bits time.
    columns = (x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255)
    arguments.output.write_bytes(np.stack(columns, axis=1).astype(np.uint8).tobytes())
    print(f"{arguments.output}: {len(t)} events, {p.mean():.0%} brighter, {t[-1] / 1e6:.2f} s")


if __name__ == "__main__":
    main()
