from __future__ import annotations

import numpy as np

from rsnn.training.display import Display

CLASSES = ("left", "right", "top")


def write_archive(path, recordings=24, seed=0, side=16):
    """Write recordings whose class is where their events lie: in the left, right or upper third of 16 x 16 pixels.

    `side` is that of the sensor, of which these are the first.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(recordings) % len(CLASSES)
    columns = {name: [] for name in "txyp"}
    for label in labels:
        n = int(rng.integers(150, 250))
        x, y = rng.integers(16, size=(2, n))
        if label == 0:
            x = x % 5
        elif label == 1:
            x = 15 - x % 5
        else:
            y = y % 5
        values = (np.sort(rng.integers(100_000, size=n)), x, y, rng.integers(2, size=n))
        for name, value in zip("txyp", values, strict=True):
            columns[name].append(value)
    offsets = np.cumsum([0, *map(len, columns["t"])])
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    ids = [f"user{i // 6 + 1:02d}_led:{i}" for i in range(recordings)]
    np.savez(
        path, **arrays, offsets=offsets, label=labels, id=np.array(ids), class_names=CLASSES, sensor_size=(side, side)
    )
    return path


SMALL = (
    "data.kind=archive",
    "data.size=[16, 16]",
    "data.num_frames=4",
    "validation.fraction=0.25",
    "loop.batch_size=4",
    "optimizer.lr=0.01",
)


class Heard(Display):
    """Keeps what a person would see of a training."""

    def __init__(self):
        self.places, self.warnings, self.said = [], [], []

    def update(self, place):
        self.places.append((place.phase, place.epoch, place.update))

    def epoch(self, place, warnings):
        self.warnings += warnings

    def say(self, text):
        self.said.append(text)
