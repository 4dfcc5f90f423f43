"""From pixels to the bus: each effect alone, with numbers worked by hand or measured over many events."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from films import frames_of, ideal

from rsnn.data.simulate import iter_events, to_events
from rsnn.data.simulate.pixels import PixelEvents
from rsnn.data.simulate.readout import (
    CROSSTALK_PIXELS,
    REBOUND_DELAY_US,
    REBOUND_SPREAD,
    REPEAT_AGAIN,
    REPEAT_GAP_US,
    Readout,
)

SHAPE = (64, 128)


def requests(t, pixel=0, p=1):
    t = np.asarray(t, dtype=np.float64)
    return PixelEvents(
        t, np.broadcast_to(np.int64(pixel), t.shape).copy(), np.broadcast_to(np.uint8(p), t.shape).copy()
    )


def spread_out(rng, number, span_us=1e7):
    """ON events at random times and pixels."""
    return PixelEvents(
        rng.random(number) * span_us, rng.integers(0, SHAPE[0] * SHAPE[1], number), np.ones(number, dtype=np.uint8)
    )


def deliver(events, until_us=1e12, seed=0, **changes):
    return Readout(SHAPE, ideal(**changes), np.random.default_rng(seed)).deliver(events, until_us)


def test_a_bus_without_limits_only_sorts():
    sent = deliver(PixelEvents(np.array([3.0, 1.0, 2.0]), np.array([7, 8, 9]), np.array([1, 0, 1], dtype=np.uint8)))
    assert (sent.t.tolist(), sent.pixel.tolist(), sent.p.tolist()) == ([1, 2, 3], [8, 9, 7], [0, 1, 1])


def test_events_queue_for_the_bus():
    # 2 us an event: three at once leave at 0, 2, 4; those of 5 and 5.5 wait until 6 and 8; the one of 20 does not.
    assert deliver(requests([0, 0, 0, 5, 5.5, 20]), readout_rate_hz=5e5).t.tolist() == [0, 2, 4, 6, 8, 20]


def test_deliveries_in_pieces_are_those_in_one(rng):
    events = spread_out(rng, 3000, 1e5)
    parameters = ideal(readout_rate_hz=2e4)  # 50 us an event, more slowly than they come
    whole = deliver(events, 1e5, readout_rate_hz=2e4)
    readout = Readout(SHAPE, parameters, np.random.default_rng(0))
    pieces = []
    for start in range(0, 100_000, 10_000):
        mine = (events.t >= start) & (events.t < start + 10_000)
        pieces.append(readout.deliver(events.take(mine.nonzero()[0]), start + 10_000))
        assert pieces[-1].t.size == 0 or pieces[-1].t.max() <= start + 10_000
    assert np.array_equal(np.concatenate([piece.t for piece in pieces]), whole.t)
    assert np.array_equal(np.concatenate([piece.pixel for piece in pieces]), whole.pixel)
    assert whole.t.size == pytest.approx(2000, abs=5)


def test_repeats_follow_on_events_of_their_pixel_at_once(rng):
    events = spread_out(rng, 20_000)
    sent = deliver(events, repeat_probability=0.25)
    # A quarter is repeated, 1 / (1 - again) times on average.
    assert sent.t.size - 20_000 == pytest.approx(20_000 * 0.25 / (1 - REPEAT_AGAIN), rel=0.05)
    order = np.lexsort((sent.t, sent.pixel))
    gap = np.diff(sent.t[order])[np.diff(sent.pixel[order]) == 0]
    assert np.count_nonzero(np.isclose(gap, REPEAT_GAP_US, atol=1e-6)) == pytest.approx(sent.t.size - 20_000, abs=20)
    assert sent.p.all()
    assert deliver(events._replace(p=np.zeros_like(events.p)), repeat_probability=0.25).t.size == 20_000


def test_rebounds_are_off_events_after_on_events_of_their_pixel(rng):
    events = PixelEvents(np.arange(8000) * 1e6, rng.integers(0, 8192, 8000), np.ones(8000, dtype=np.uint8))
    sent = deliver(events, rebound_probability=0.3)
    after = np.flatnonzero(sent.p == 0)
    assert after.size == pytest.approx(2400, rel=0.06)
    assert np.array_equal(sent.pixel[after], sent.pixel[after - 1])
    delay = sent.t[after] - sent.t[after - 1]
    assert np.median(delay) == pytest.approx(REBOUND_DELAY_US, rel=0.04)
    assert np.log(delay).std() == pytest.approx(REBOUND_SPREAD, rel=0.06)


def test_crosstalk_stays_in_the_row(rng):
    row, middle = 13, 64
    events = requests(np.arange(20_000) * 1e6, row * 128 + middle)
    sent = deliver(events, row_crosstalk=0.5)
    other = sent.pixel != row * 128 + middle
    assert (sent.pixel // 128 == row).all()
    distance = np.abs(sent.pixel[other] % 128 - middle)
    # Of an exponential with this mean, beginning at 1, what falls off the sensor at 64 is lost.
    expected = 20_000 * 0.5 * (1 - np.exp(-63 / CROSSTALK_PIXELS))
    assert np.count_nonzero(other) == pytest.approx(expected, rel=0.04)
    assert np.median(distance) == pytest.approx(1 + CROSSTALK_PIXELS * np.log(2), rel=0.12)
    assert sent.p[other].mean() == pytest.approx(0.5, abs=0.03)


def test_a_row_hands_over_its_events_together(rng):
    events = spread_out(rng, 5000, 1e5)
    sent = deliver(events, row_jitter_s=1e-3)
    for row in range(SHAPE[0]):
        times = np.unique(sent.t[sent.pixel // 128 == row])
        periods = np.diff(times) / 1000
        assert np.abs(periods - np.rint(periods)).max() < 1e-6
    asked = events.t[np.lexsort((events.t, events.pixel))]
    granted = sent.t[np.lexsort((sent.t, sent.pixel))]
    assert ((granted - asked) >= -1e-6).all()
    assert ((granted - asked) < 1000).all()


def test_what_has_not_left_when_the_film_ends_is_not_recorded():
    # 40 pixels fire at 1000 us; the bus takes one in 100 us and the film ends at 2000 us: 11 get through.
    levels = np.repeat([[-1.0], [-0.8], [-0.8]], 40, axis=1)[:, None, :]
    events = to_events(frames_of(levels, [0, 1000, 2000]), ideal(pos_thres=0.2 - 1e-5, readout_rate_hz=1e4))
    assert len(events) == 11
    assert events.t.max() <= 2000


@pytest.mark.parametrize("piece_us", [1, 7000, 50_000, 1e9])
def test_pieces_of_a_film_hold_the_events_of_the_whole(piece_us, rng):
    frames = [(image, 3000 * k) for k, image in enumerate(rng.random((40, 9, 11), dtype=np.float32))]
    parameters = ideal(
        sigma_thres=0.02, refractory_period_s=5e-4, shot_noise_rate_hz=5.0, leak_rate_hz=1.0, readout_rate_hz=2e4
    )
    whole = to_events(frames, parameters, seed=5)
    pieces = list(iter_events(iter(frames), parameters, seed=5, piece_us=piece_us))
    assert len(pieces) == {1: 39, 7000: 13, 50_000: 3, 1e9: 1}[piece_us]
    for column in "txyp":
        assert np.array_equal(np.concatenate([getattr(piece, column) for piece in pieces]), getattr(whole, column))


def test_pieces_with_chances_of_the_readout_are_alike_in_number(rng):
    frames = [(image, 3000 * k) for k, image in enumerate(rng.random((60, 20, 20), dtype=np.float32))]
    whole = to_events(frames, "dvs128", seed=5)
    pieces = list(iter_events(frames, "dvs128", seed=5, piece_us=10_000))
    assert sum(map(len, pieces)) == pytest.approx(len(whole), rel=0.02)
    assert all(a.t[-1] <= b.t[0] for a, b in itertools.pairwise(pieces))
