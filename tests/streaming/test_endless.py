"""A stream that never ends: bounded memory, and work in proportion to its events."""

from __future__ import annotations

import gc
import pickle
import tracemalloc

import numpy as np
import pytest
from stream_models import SIZE, random_events, small_model

import rsnn
from rsnn.streaming import Slicer, Timing
from rsnn.streaming.slicer import as_array

HOUR_US = 3_600_000_000


def sparse_hour(bursts: int, seed: int = 0):
    """Bursts of 20 events in 50 ms, `bursts` in an hour, one chunk each."""
    generator = np.random.default_rng(seed)
    for start in np.sort(generator.integers(0, HOUR_US - 60_000, bursts)):
        t = start + np.sort(generator.integers(0, 50_000, 20))
        columns = {name: generator.integers(0, side, 20) for name, side in (("x", SIZE[1]), ("y", SIZE[0]), ("p", 2))}
        yield rsnn.Events(t=t, **columns, sensor_size=(SIZE[1], SIZE[0]))


def test_an_hour_of_events_in_bounded_memory():
    """100 bursts an hour and 36,000 steps of 100 ms: what a stream holds after an hour is what it held at first."""
    stream = small_model().stream(window_us=600_000, decay=0.5)
    predictions, snapshots, memory = 0, [], []
    tracemalloc.start()
    for number, chunk in enumerate(sparse_hour(100)):
        new = stream.push(chunk)
        assert len(new) <= 12, "a silence of any length is not a list of that length"
        predictions += len(new)
        if number % 20 == 10:
            snapshots.append(len(pickle.dumps(stream.snapshot())))
            gc.collect()
            memory.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    predictions += len(stream.advance_to(HOUR_US))
    assert stream.slicer.step == (HOUR_US - stream.slicer.origin_us) // 100_000
    assert 100 < predictions < 1_200
    assert max(snapshots) < 10_000
    assert max(memory) < min(memory) + 100_000


@pytest.mark.slow
def test_an_hour_without_a_pause_in_bounded_memory():
    """36,000 steps of 100 ms with 50 events each, none of which is skipped, across the clock's run-over at 71.6 min."""
    stream = small_model("mean").stream(window_us=600_000, decay=0.5)
    generator = np.random.default_rng(0)
    start, seconds, each = (1 << 32) - HOUR_US // 2, 60, 30_000
    predictions, snapshots, memory, last = 0, [], [], None
    tracemalloc.start()
    for minute in range(60):
        t = start + 1_000_000 * seconds * minute + np.sort(generator.integers(0, 1_000_000 * seconds, each))
        columns = {name: generator.integers(0, side, each) for name, side in (("x", SIZE[1]), ("y", SIZE[0]), ("p", 2))}
        new = stream.push(as_array(t % (1 << 32), **columns))  # 32 bits, as a camera counts
        predictions += len(new)
        assert last is None or new[0][0] > last
        last = new[-1][0]
        if minute % 10 == 5:
            snapshots.append(len(pickle.dumps(stream.snapshot())))
            gc.collect()
            memory.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert predictions == 36_000 - 1
    assert stream.late == 0
    assert max(snapshots) < 10_000
    assert max(memory) < min(memory) + 100_000


def test_a_chunk_of_many_steps_is_not_kept():
    """One chunk that completes 2,000 steps: their frames exist one at a time."""
    events = random_events(4_000, 20_000_000)
    slicer = small_model().stream(window_us=60_000).slicer
    frame_bytes = 2 * SIZE[0] * SIZE[1] * 4
    list_of_one = iter(slicer.add(events))
    next(list_of_one)
    tracemalloc.start()
    steps = sum(1 for _ in list_of_one)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert steps > 1_500
    assert peak < 500 * frame_bytes


def test_ten_million_events_are_all_cut():
    """A second's worth at 10 million a second, in chunks of a millisecond; `scripts/stream_latency.py` times it."""
    generator = np.random.default_rng(0)
    n = 10_000
    x, y, p = (generator.integers(0, high, n) for high in (128, 128, 2))
    t = np.arange(n) // 10
    chunks = (rsnn.Events(t=t + 1000 * k, x=x, y=y, p=p, sensor_size=(128, 128)) for k in range(1000))
    slicer = Slicer(rsnn.Preprocessing(num_frames=20), Timing.of(20, 1_000_000, None, 1))
    frames = [s.events for chunk in chunks for s in slicer.add(chunk)]
    assert frames == [500_000] * 19
    assert slicer.events == 500_000
