"""A stream that never ends: bounded memory, and work in proportion to its events."""

from __future__ import annotations

import gc
import pickle
import time
import tracemalloc

import numpy as np
from stream_models import SIZE, random_events, small_model

import rsnn

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
    began = time.perf_counter()
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
    assert time.perf_counter() - began < 20


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


def test_ten_million_events_a_second_are_cut_in_time():
    """One second at that rate, in chunks of a millisecond, on a 128 x 128 sensor: cutting takes well under a second."""
    generator = np.random.default_rng(0)
    n = 10_000
    x, y, p = (generator.integers(0, high, n) for high in (128, 128, 2))
    t = np.arange(n) // 10
    chunks = [rsnn.Events(t=t + 1000 * k, x=x, y=y, p=p, sensor_size=(128, 128)) for k in range(1000)]
    preprocessing = rsnn.Preprocessing(num_frames=20)
    from rsnn.streaming import Slicer, Timing

    slicer = Slicer(preprocessing, Timing.of(20, 1_000_000, None, 1))
    began = time.perf_counter()
    total = sum(s.events for chunk in chunks for s in slicer.add(chunk)) + slicer.events
    took = time.perf_counter() - began
    assert total == 10_000_000
    assert took < 1.0, f"{took:.2f} s"
