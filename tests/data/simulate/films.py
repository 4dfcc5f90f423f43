"""Films for the tests: levels of log intensity, and the frames that have them."""

from __future__ import annotations

import numpy as np

from rsnn.data.simulate import DVSParameters

LOG_EPS = 1e-3


def ideal(**changes):
    """Parameters of an ideal pixel with a small dark current."""
    return DVSParameters(**({"log_eps": LOG_EPS} | changes))


def frames_of(levels, times):
    """Pairs of frame and time whose log(intensity + LOG_EPS) are `levels`, (F,) for one pixel or (F, H, W)."""
    levels = np.asarray(levels, dtype=np.float64)
    if levels.ndim == 1:
        levels = levels[:, None, None]
    intensity = np.exp(levels) - LOG_EPS
    return list(zip(intensity.astype(np.float32), times, strict=True))


def still(value, shape, seconds, step_us=5000):
    """A film in which nothing changes."""
    frame = np.full(shape, value, dtype=np.float32)
    return [(frame, number * step_us) for number in range(int(seconds * 1e6 / step_us) + 1)]
