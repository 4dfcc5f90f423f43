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

TICKS = 16  # of a microsecond, to sort by


class Readout:
    """The periphery of an H x W sensor, and what still waits in it.

    Args:
        shape: (H, W).
        parameters: of the readout.
        rng: of its chances.

    """

    def __init__(self, shape: tuple[int, int], parameters: DVSParameters, rng: np.random.Generator) -> None:
        self.parameters = parameters
        self.shape = shape
        self._rng = rng
        self._row_phase_us: npt.NDArray[np.float64] | None = None
        self._free_us = -np.inf  # when the bus can take the next event
        self._waiting = join([])  # not on the bus yet
        self._late = join([])  # through the bus, after the end of the last delivery

    def deliver(self, events: PixelEvents, until_us: float) -> PixelEvents:
        """Return what leaves the sensor up to and including a time, in order.

        Args:
            events: of the pixels since the last delivery, in any order.
            until_us: the time; no later delivery brings pixel events from before it.

        """
        events = join([self._waiting, self._add_artefacts(events)])
        ready, self._waiting = _split(_sorted(events), until_us)
        if self.parameters.readout_rate_hz and ready.t.size:
            service_us = 1e6 / self.parameters.readout_rate_hz
            ready = ready._replace(t=_queue(ready.t, service_us, self._free_us))
            self._free_us = float(ready.t[-1]) + service_us
        sent, self._late = _split(join([self._late, ready]), until_us)
        return sent

    def _add_artefacts(self, events: PixelEvents) -> PixelEvents:
        """Return the events with those that they set off, at the times when their rows are granted the bus."""
        parameters, rng = self.parameters, self._rng
        if parameters.row_crosstalk and events.t.size:
            events = join([events, _crosstalk(events, self.shape[1], parameters.row_crosstalk, rng)])
        parts = [events]
        on = np.flatnonzero(events.p == 1)
        if parameters.rebound_probability:
            chosen = on[rng.random(on.size) < parameters.rebound_probability]
            delay = REBOUND_DELAY_US * np.exp(rng.normal(0, REBOUND_SPREAD, chosen.size))
            parts.append(PixelEvents(events.t[chosen] + delay, events.pixel[chosen], np.zeros_like(events.p[chosen])))
        if parameters.repeat_probability:
            chosen = on[rng.random(on.size) < parameters.repeat_probability]
            again = rng.geometric(1 - REPEAT_AGAIN, chosen.size)
            which = np.repeat(chosen, again)
            turn = 1 + np.arange(which.size) - np.repeat(np.cumsum(again) - again, again)
            parts.append(PixelEvents(events.t[which] + turn * REPEAT_GAP_US, events.pixel[which], events.p[which]))
        events = join(parts)
        if parameters.row_jitter_s:
            events = events._replace(t=self._grant_rows(events.t, events.pixel // self.shape[1]))
        return events

    def _grant_rows(self, t: npt.NDArray[np.float64], row: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Delay every event to the next time its row is granted the bus."""
        period_us = self.parameters.row_jitter_s * 1e6
        if self._row_phase_us is None:
            self._row_phase_us = self._rng.random(self.shape[0]) * period_us
        phase = self._row_phase_us[row]
        granted: npt.NDArray[np.float64] = np.ceil((t - phase) / period_us) * period_us + phase
        return granted


def _sorted(events: PixelEvents) -> PixelEvents:
    """Return the events in order of time, to a tick: two passes over 16-bit keys are faster than to sort floats."""
    if not events.t.size:
        return events
    start = float(np.floor(events.t.min()))
    if (float(events.t.max()) - start) * TICKS >= 2**32:
        return events.take(np.argsort(events.t, kind="stable"))
    ticks = ((events.t - start) * TICKS).astype(np.uint32)
    low = (ticks & 0xFFFF).astype(np.uint16)
    events = events.take(np.lexsort((low, (ticks >> 16).astype(np.uint16))))
    # Two events of one tick that came in the wrong order leave together.
    return events._replace(t=np.maximum.accumulate(events.t))


def _split(events: PixelEvents, until_us: float) -> tuple[PixelEvents, PixelEvents]:
    """Return the events up to and including a time, and those after it; they are in order."""
    number = int(np.searchsorted(events.t, until_us, side="right"))
    return events.take(slice(number)), events.take(slice(number, None))


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


def _queue(t: npt.NDArray[np.float64], service_us: float, free_us: float) -> npt.NDArray[np.float64]:
    """Delay sorted times: out[0] = max(t[0], free), out[i] = max(t[i], out[i - 1] + service)."""
    waiting = np.arange(t.size) * service_us
    left: npt.NDArray[np.float64] = np.maximum.accumulate(np.maximum(t - waiting, free_us)) + waiting
    return left
