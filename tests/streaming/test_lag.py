"""What time it is in a silence: behind events on their way, and moving."""

from __future__ import annotations

import pytest

from rsnn.streaming.lag import LEAST_WAIT_US, RECENT_US, Lag

WINDOW_US = 500_000


def fed(arrivals, *, skew_us=0):
    """Return a lag that has seen chunks of (arrival, oldest, newest) by true time; our clock is ahead by `skew_us`."""
    lag = Lag(WINDOW_US)
    for now_us, oldest_us, newest_us in arrivals:
        lag.add(now_us + skew_us, oldest_us, newest_us)
    return lag


def bursts(period_us, until_us):
    return [(end, end - period_us, end) for end in range(period_us, until_us + 1, period_us)]


@pytest.mark.parametrize("skew_us", [0, 10**12, -(10**12)])
def test_bursts_of_33_ms_by_hand(skew_us):
    """Delays from 0 to 33 ms: the time is 33 + 2 x 33 = 99 ms behind ours."""
    lag = fed(bursts(33_000, 3_300_000), skew_us=skew_us)
    assert lag.time_us(3_400_000 + skew_us) == 3_400_000 - 99_000


def test_events_that_come_at_once_wait_for_the_machine_alone():
    lag = fed([(t, t, t) for t in range(0, 2_000_000, 5_000)])
    assert lag.time_us(2_100_000) == 2_100_000 - LEAST_WAIT_US


@pytest.mark.parametrize("period_us", [1_000, 33_000, 100_000, 200_000, 700_000])
def test_no_event_of_a_steady_sender_is_overtaken(period_us):
    lag = Lag(WINDOW_US)
    for end in range(period_us, 20 * period_us + 1, period_us):
        if end > 2 * period_us or period_us <= WINDOW_US:  # of bursts longer than a window the second is too late
            assert lag.time_us(end) <= end - period_us
        # As a port gives them: in several chunks, a moment apart.
        for k in range(4):
            piece = period_us // 4
            lag.add(end + k, end - period_us + k * piece, end - period_us + (k + 1) * piece)


def test_time_goes_on_for_one_window():
    lag = fed(bursts(33_000, 990_000))
    times = [lag.time_us(990_000 + passed) for passed in range(0, 3_000_000, 20_000)]
    assert times == sorted(times)
    assert times[-1] == 990_000 + WINDOW_US


def test_before_a_window_has_passed_time_is_a_window_behind():
    lag = fed([(0, -1_000, 0)])
    assert lag.time_us(30_000) == 30_000 - 1_000 - WINDOW_US
    assert lag.time_us(WINDOW_US) == WINDOW_US - 1_000 - LEAST_WAIT_US
    assert Lag(WINDOW_US).time_us(10**9) == 0


def test_what_was_long_ago_is_forgotten():
    """A second with delays up to 0.1 s, then two with none."""
    calm = [(t, t, t) for t in range(1_000_001, 1_000_001 + 3 * RECENT_US, 10_000)]
    lag = fed([*bursts(100_000, 1_000_000), *calm])
    assert lag.time_us(5_000_000) == min(5_000_000 - LEAST_WAIT_US, calm[-1][2] + WINDOW_US)


def test_a_stray_old_event_is_no_measure():
    lag = fed([*bursts(10_000, 2_000_000), (2_000_000, -(10**10), 2_000_000)])
    assert lag.time_us(10**7) == 2_000_000 + WINDOW_US
