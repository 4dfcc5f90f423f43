"""One time line out of a camera's timestamps.

A camera counts microseconds in 32 bits, which run over after 71.6 minutes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

WRAP_US = 1 << 32
_HALF_US = WRAP_US // 2


class Clock:
    """Turns timestamps that run over at 2^32 microseconds into times that go on.

    The rule: a step back by more than 2^31 us (35.8 minutes), with both timestamps below 2^32, is the clock running
    over. From the first time that happens, every timestamp is taken to be the time nearest to the one before it. Until
    then timestamps are times as they stand, so that a long silence of a clock with more bits is no riddle.
    """

    def __init__(self) -> None:
        self._last_raw: int | None = None
        self._last = 0
        self._wraps = False

    def times(self, raw: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the times (n,) int64 of timestamps (n,) in the order they came."""
        if not raw.size:
            return raw
        last = int(raw[0]) if self._last_raw is None else self._last_raw
        if not self._wraps and max(int(raw.max()), last) - min(int(raw.min()), last) <= _HALF_US:
            self._last_raw = self._last = int(raw[-1])  # no step is large enough to be a clock running over
            return raw
        steps = np.diff(raw, prepend=last)
        if not self._wraps and bool((steps < -_HALF_US).any()):
            largest = max(int(raw.max()), self._last_raw or 0)
            self._wraps = largest < WRAP_US
        if self._wraps:
            start = int(raw[0]) if self._last_raw is None else self._last
            times = start + np.cumsum((steps + _HALF_US) % WRAP_US - _HALF_US)
        else:
            times = raw
        self._last_raw, self._last = int(raw[-1]), int(times[-1])
        return times

    def snapshot(self) -> dict[str, int | bool | None]:
        """Return the state as plain data."""
        return {"last_raw": self._last_raw, "last": self._last, "wraps": self._wraps}

    def restore(self, snapshot: dict[str, int | bool | None]) -> None:
        """Go back to a snapshot."""
        raw = snapshot["last_raw"]
        self._last_raw = None if raw is None else int(raw)
        self._last, self._wraps = int(snapshot["last"] or 0), bool(snapshot["wraps"])
