"""One DVS pixel after another, event by event, in plain Python: written from the papers, slow and simple."""

from __future__ import annotations

import math


def pixel_events(levels, times, *, on, off, refractory_us=0.0, start=0.0, noise=()):
    """Events (t, polarity) of one pixel whose log intensity runs straight between `levels` at `times`.

    `on` and `off` are its thresholds; it starts `start` above its reference. After an event the pixel is dead for
    `refractory_us` and then takes the level at that moment as its reference. A leak of the reference is the same as
    levels that rise. At the times of `noise` it sends an event whatever its level, which is not among those returned.
    """
    events, noise = [], list(noise)
    reference, alive_from = levels[0] - start, times[0]
    for before, after, begin, end in zip(levels, levels[1:], times, times[1:], strict=False):
        slope = (after - before) / (end - begin)
        now = begin
        while True:
            if alive_from > now:
                if alive_from >= end:
                    break
                now = alive_from
                reference = before + slope * (now - begin)
            wanted = reference + on if slope > 0 else reference - off
            crossing = max(begin + (wanted - before) / slope, now) if slope else math.inf
            if noise and noise[0] <= min(crossing, end):
                now = noise.pop(0)
                reference, alive_from = before + slope * (now - begin), now + refractory_us
                continue
            if crossing > end:
                break
            events.append((crossing, int(slope > 0)))
            reference, now = wanted, crossing
            if refractory_us:
                alive_from = crossing + refractory_us
    return events


def low_pass(levels, intensities, times, cutoff_hz):
    """Levels behind one pole at cutoff_hz (0.1 + 0.9 I), by the implicit Euler step."""
    out = [levels[0]]
    for level, intensity, start, end in zip(levels[1:], intensities[1:], times, times[1:], strict=False):
        k = 2 * math.pi * cutoff_hz * (0.1 + 0.9 * intensity) * (end - start) * 1e-6
        out.append((out[-1] + k * level) / (1 + k))
    return out
