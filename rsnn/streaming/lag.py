"""How far events come behind the time at which they happened, as those that came so far tell."""

from __future__ import annotations

RECENT_US = 1_000_000
LEAST_WAIT_US = 20_000  # for what the machine itself delays


class Lag:
    """Tells in a silence what time it is on the events' clock, for steps to end without overtaking events on their way.

    An event's delay is our time at its arrival less its timestamp: from an unknown zero, so only differences say
    something. Events that a sender collects and sends in one go differ by as much as it collected. The time is that of
    an event which comes now with the longest delay of late, less twice the difference between the longest and the
    shortest. Before a window's time has passed little is known of a sender, and the time is a window less.

    Args:
        window_us: duration of a window. The time is at most one window after the newest event: a source that was only
            paused loses no more.

    """

    def __init__(self, window_us: int) -> None:
        self._window_us = window_us
        self._stretch_us = max(window_us, RECENT_US)
        self._first_us: int | None = None  # by our clock, as all but `_newest_us`
        self._stretch_from_us = 0
        self._newest_us = 0
        # Shortest and longest delay of the stretch that began last, and of the one before it.
        self._stretches: list[tuple[int, int]] = []

    def add(self, now_us: int, oldest_us: int, newest_us: int) -> None:
        """Learn from a chunk of events that has just arrived, the oldest and newest of them of these times."""
        if self._first_us is None:
            self._first_us, self._newest_us = now_us, newest_us
        if not self._stretches or now_us - self._stretch_from_us >= self._stretch_us:
            self._stretch_from_us = now_us
            self._stretches = [*self._stretches[-1:], (now_us - newest_us, now_us - newest_us)]
        # Far older ones are lost anyway, and no measure of those to come.
        oldest_us = max(oldest_us, self._newest_us - self._window_us)
        self._newest_us = max(newest_us, self._newest_us)
        shortest, longest = self._stretches[-1]
        self._stretches[-1] = min(shortest, now_us - newest_us), max(longest, now_us - oldest_us)

    def time_us(self, now_us: int) -> int:
        """Return the time on the events' clock that no event will come from before, 0 where none has come yet."""
        if self._first_us is None:
            return 0
        shortest = min(stretch[0] for stretch in self._stretches)
        longest = max(stretch[1] for stretch in self._stretches)
        wait_us = min(self._window_us, max(LEAST_WAIT_US, 2 * (longest - shortest)))
        if now_us - self._first_us < self._window_us:
            wait_us = self._window_us
        return min(now_us - longest - wait_us, self._newest_us + self._window_us)
