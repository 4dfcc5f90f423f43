"""From the pixels' requests to the events that leave the sensor: repeats, rebounds, crosstalk, rows, the bus."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rsnn.data.simulate.parameters import DVSParameters
from rsnn.data.simulate.pixels import PixelEvents, join

# Measured on the four DVS128 Gesture clips (docs/simulate.md).
REPEAT_GAP_US = 0.65  # between repeats of one ON event
REPEAT_AGAIN = 0.57  # probability that a repeated event is repeated once more
REBOUND_DELAY_US = 400.0  # median time from an ON event to its rebound,
REBOUND_SPREAD = 0.45  # and the standard deviation of its logarithm
CROSSTALK_PIXELS = 22.0  # mean distance along the row
CROSSTALK_DELAY_US = 300.0


def read_out(
    events: PixelEvents, shape: tuple[int, int], parameters: DVSParameters, rng: np.random.Generator
) -> PixelEvents:
    """Return the events as the bus delivers them, in order of time.

    Args:
        events: of the pixels, in any order.
        shape: (H, W).
        parameters: of the readout.
        rng: of its chances.

    """
    if parameters.row_crosstalk and events.t.size:
        events = join([events, _crosstalk(events, shape[1], parameters.row_crosstalk, rng)])
    extra = []
    on = np.flatnonzero(events.p == 1)
    if parameters.rebound_probability:
        chosen = on[rng.random(on.size) < parameters.rebound_probability]
        delay = REBOUND_DELAY_US * np.exp(rng.normal(0, REBOUND_SPREAD, chosen.size))
        extra.append(PixelEvents(events.t[chosen] + delay, events.pixel[chosen], np.zeros_like(events.p[chosen])))
    if parameters.repeat_probability:
        chosen = on[rng.random(on.size) < parameters.repeat_probability]
        again = rng.geometric(1 - REPEAT_AGAIN, chosen.size)
        which = np.repeat(chosen, again)
        turn = 1 + np.arange(which.size) - np.repeat(np.cumsum(again) - again, again)
        extra.append(PixelEvents(events.t[which] + turn * REPEAT_GAP_US, events.pixel[which], events.p[which]))
    if extra:
        events = join([events, *extra])
    t = events.t
    if parameters.row_jitter_s:
        t = _grant_rows(t, events.pixel // shape[1], shape[0], parameters.row_jitter_s * 1e6, rng)
    order = np.argsort(t, kind="stable")
    t = t[order]
    if parameters.readout_rate_hz:
        t = _queue(t, 1e6 / parameters.readout_rate_hz)
    return PixelEvents(t, events.pixel[order], events.p[order])


def _crosstalk(events: PixelEvents, width: int, share: float, rng: np.random.Generator) -> PixelEvents:
    """Return events that others set off along their rows: an exponential fall with distance, either polarity."""
    chosen = np.flatnonzero(rng.random(events.t.size) < share)
    distance = np.rint(1 + rng.exponential(CROSSTALK_PIXELS, chosen.size)).astype(np.int64)
    distance *= np.where(rng.random(chosen.size) < 0.5, 1, -1)
    row, column = np.divmod(events.pixel[chosen], width)
    column += distance
    inside = (column >= 0) & (column < width)
    t = events.t[chosen] + rng.exponential(CROSSTALK_DELAY_US, chosen.size)
    p = (rng.random(chosen.size) < 0.5).astype(np.uint8)
    return PixelEvents(t[inside], (row * width + column)[inside], p[inside])


def _grant_rows(
    t: npt.NDArray[np.float64],
    row: npt.NDArray[np.int64],
    rows: int,
    period_us: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """Delay every event to the next time its row is granted the bus."""
    phase = rng.random(rows)[row] * period_us
    granted: npt.NDArray[np.float64] = np.ceil((t - phase) / period_us) * period_us + phase
    return granted


def _queue(t: npt.NDArray[np.float64], service_us: float) -> npt.NDArray[np.float64]:
    """Delay sorted times so that no two are closer than the service time: out[i] = max(t[i], out[i - 1] + s)."""
    waiting = np.arange(t.size) * service_us
    left: npt.NDArray[np.float64] = np.maximum.accumulate(t - waiting) + waiting
    return left
