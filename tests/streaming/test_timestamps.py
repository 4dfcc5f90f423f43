"""Every timestamp has a rule: late, out of order, equal, run over, far ahead."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stream_models import T, flat, random_events, small_model

import rsnn
from rsnn.streaming.clock import WRAP_US, Clock
from rsnn.streaming.slicer import as_array

WINDOW_US = 60_000  # six steps of 10 ms
MODEL = small_model()


def at(*times, x=1, y=2, p=1):
    """One event at each time."""
    n = len(times)
    return as_array(times, [x] * n, [y] * n, [p] * n)


def slices(stream, *chunks):
    """(step, events, total of the frame) of the steps that the chunks complete."""
    slicer = stream.slicer
    return [
        (s.step, s.events, None if s.frame is None else s.frame.sum())
        for chunk in chunks
        for s in slicer.add(slicer.checked(chunk))
    ]


def stream():
    return MODEL.stream(window_us=WINDOW_US)


def test_edges_belong_to_the_step_they_begin():
    assert slices(stream(), at(500, 10_499), at(10_500), at(20_499, 20_500)) == [(0, 2, 2.0), (1, 2, 2.0)]


def test_an_event_of_a_complete_step_is_late():
    s = stream()
    assert slices(s, at(0, 5_000, 10_000)) == [(0, 2, 2.0)]
    assert slices(s, at(9_999), at(3, 10_000, 12_000), at(20_000)) == [(1, 3, 3.0)]
    assert s.late == 2


def test_an_event_before_the_first_is_late():
    s = stream()
    assert slices(s, at(1_000), at(999, 1_001), at(11_000)) == [(0, 2, 2.0)]
    assert s.late == 1


def test_chunks_may_overlap_within_the_open_step():
    s = stream()
    assert slices(s, at(0, 9_000), at(4_000, 8_000), at(2_000), at(10_000)) == [(0, 5, 5.0)]
    assert s.late == 0


def test_a_chunk_may_be_out_of_order():
    events = random_events(300, 2 * WINDOW_US)
    shuffled = events.to_structured()[np.random.default_rng(0).permutation(len(events))]
    ordered, disordered = stream(), stream()
    assert flat(disordered.push(shuffled)) == flat(ordered.push(events))
    assert disordered.late == 0


def test_equal_events_are_as_many_events():
    assert slices(stream(), at(0, 0, 0), at(0), at(10_000)) == [(0, 4, 4.0)]


def test_an_event_far_ahead_completes_the_open_step_and_the_silence():
    assert slices(stream(), at(0), at(10**15)) == [(0, 1, 1.0), (10**11 - 1, 0, None)]
    got = stream()
    got.push(at(0))
    # One window saw the event; those after it saw nothing, and say nothing, in no time and no memory.
    assert [t_us for t_us, _ in got.push(at(10**15))] == [10_000 * k for k in range(1, T + 1)]


def test_the_clock_runs_over():
    start = WRAP_US - 25_000
    wrapped = [(start + 5_000 * k) % WRAP_US for k in range(13)]
    s = stream()
    got = [out for t in wrapped for out in s.push(at(t))]
    straight = stream()
    assert flat(got) == flat([out for k in range(13) for out in straight.push(at(start + 5_000 * k))])
    assert [t_us for t_us, _ in got] == [start + 10_000 * k for k in range(1, 7)]
    assert s.late == 0


def test_the_clock_runs_over_within_a_chunk():
    s = stream()
    start = WRAP_US - 10_000
    assert slices(s, at(start, start + 9_999, 0, 9_999, 10_000)) == [(0, 2, 2.0), (1, 2, 2.0)]


def test_an_event_from_before_the_clock_ran_over_is_late():
    """It comes after, with a timestamp of nearly 2^32: that is not 71 minutes ahead."""
    s = stream()
    assert slices(s, at(WRAP_US - 5_000), at(6_000), at(WRAP_US - 4_000), at(15_000)) == [(0, 1, 1.0), (1, 1, 1.0)]
    assert s.late == 1


def test_the_clock_runs_over_twice():
    clock, step = Clock(), 3_000_000
    true = np.arange(0, 3 * WRAP_US, step)
    np.testing.assert_array_equal(
        np.concatenate([clock.times(chunk) for chunk in np.array_split(true % WRAP_US, 1000)]), true
    )


@given(
    start=st.integers(0, WRAP_US - 1),
    steps=st.lists(st.integers(-100_000, 10**9), min_size=1, max_size=40),
    chunk=st.integers(1, 7),
)
def test_unwrapping_undoes_wrapping(start, steps, chunk):
    """Any disorder below 36 minutes, in any chunks; a first wrap has to be seen as a step back."""
    true = np.maximum(start + np.cumsum([0, *steps]), start)
    clock = Clock()
    got = np.concatenate([clock.times((true % WRAP_US)[k : k + chunk]) for k in range(0, len(true), chunk)])
    np.testing.assert_array_equal(got, true)


def test_clocks_of_more_bits():
    """A long silence is one; a step back by an hour is no wrap, but late events; until a clock has run over."""
    hour = 3_600_000_000
    np.testing.assert_array_equal(Clock().times(np.array([0, hour, 2 * hour])), [0, hour, 2 * hour])
    epoch = 1_700_000_000_000_000
    np.testing.assert_array_equal(Clock().times(np.array([epoch, epoch - hour])), [epoch, epoch - hour])


@pytest.mark.parametrize("kind", ["events", "array"])
def test_a_snapshot_keeps_the_clock(kind):
    s, other = stream(), stream()
    s.push(at(WRAP_US - 5_000))
    s.push(at(1_000))
    other.restore(s.snapshot())
    chunk = at(6_000) if kind == "array" else rsnn.Events.from_structured(at(6_000), (10, 12))
    assert [t_us for t_us, _ in other.push(chunk)] == [WRAP_US + 5_000]
