from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import random_events, recordings
from oracles import slow_crop, slow_frames, spikingjelly_utils

from rsnn.data import Events, to_frames
from rsnn.data.frames import crop_to_shape, memory_bytes
from rsnn.data.transforms import ToFrames
from rsnn.errors import InputError


def of_any_length(sensor_size, longest=2**40, min_events=1):
    """Recordings of which many last no time, or some microseconds, so that frames begin between two of them."""
    durations = st.sampled_from([0, 10, 50, longest])
    return durations.flatmap(lambda last: recordings(sensor_size=sensor_size, max_time=last, min_events=min_events))


def at(times, sensor_size=(2, 1), x=None, p=None):
    n = len(times)
    return Events(t=times, x=x or [0] * n, y=[0] * n, p=p or [1] * n, sensor_size=sensor_size)


def test_equal_durations_by_hand():
    # D = 10 and T = 4: the frames begin at 0, 2.5, 5 and 7.5
    frames = to_frames(at([0, 2, 3, 4, 5, 7, 8, 10]), 4)
    assert frames.shape == (4, 2, 1, 2)
    assert frames.dtype == np.uint16
    assert frames[:, 1, 0, 0].tolist() == [2, 2, 2, 2]
    assert frames[:, 0].sum() == 0


def test_equal_numbers_by_hand():
    # 7 events in 3 frames: 2, 2 and the remaining 3
    frames = to_frames(at([0, 1, 2, 3, 4, 5, 100], x=[0, 1, 0, 0, 1, 1, 0], p=[1, 0, 1, 1, 0, 0, 0]), 3, "number")
    assert frames.tolist() == [[[[0, 1]], [[1, 0]]], [[[0, 0]], [[2, 0]]], [[[1, 2]], [[0, 0]]]]


def test_empty_bins_are_zeros():
    assert to_frames(at([0, 100]), 5)[:, 1, 0, 0].tolist() == [1, 0, 0, 0, 1]
    assert to_frames(at([0, 1]), 5, "number")[:, 1, 0, 0].tolist() == [0, 0, 0, 0, 2]
    assert to_frames(at([7, 7, 7]), 3)[:, 1, 0, 0].tolist() == [3, 0, 0]
    assert not to_frames(Events.empty((4, 3)), 2).any()
    assert not to_frames(Events.empty((4, 3)), 2, "number").any()


def test_span_divides_a_given_window():
    events = at([10, 14, 15, 19])
    assert to_frames(events, 2, span_us=(10, 20))[:, 1, 0, 0].tolist() == [2, 2]
    assert to_frames(events, 4, span_us=(0, 20))[:, 1, 0, 0].tolist() == [0, 0, 2, 2]
    with pytest.raises(InputError, match=r"span 10 to 19 us and span_us is \(12, 20\)"):
        to_frames(events, 2, span_us=(12, 20))
    with pytest.raises(InputError, match="split_by='time'"):
        to_frames(events, 2, "number", span_us=(10, 20))
    with pytest.raises(InputError, match="two whole numbers"):
        to_frames(events, 2, span_us=3)


def test_size_adds_into_the_coarser_grid():
    events = Events(t=[0, 1, 2, 3], x=[0, 1, 2, 3], y=[0, 1, 2, 2], p=[1, 1, 1, 1], sensor_size=(4, 3))
    # rows 0, 1, 2 of 3 go to 0, 0, 1 of 2; columns 0, 1, 2, 3 of 4 to 0, 0, 1, 1 of 2
    assert to_frames(events, 1, size=(2, 2))[0, 1].tolist() == [[2, 0], [0, 2]]


@settings(max_examples=100)
@given(
    of_any_length((7, 5), min_events=0),
    st.integers(1, 25),
    st.sampled_from(["time", "number"]),
    st.integers(1, 5),
    st.integers(1, 7),
    st.sampled_from(["uint8", "uint16", "uint32", "float32"]),
)
def test_every_event_is_counted_once_where_it_belongs(events, T, split_by, H, W, dtype):
    frames = to_frames(events, T, split_by, size=(H, W), dtype=dtype)
    assert frames.shape == (T, 2, H, W)
    assert frames.dtype == dtype
    assert frames.sum() == len(events)
    assert np.array_equal(frames, slow_frames(events, T, split_by, (H, W)))


@settings(max_examples=40)
@given(
    of_any_length((3, 2), 2**61),
    st.one_of(st.just(0), st.integers(-(2**61), 2**61)),
    st.integers(1, 90),
    st.one_of(st.integers(0, 60), st.integers(0, 2**61)),
    st.one_of(st.integers(0, 60), st.integers(0, 2**61)),
)
def test_windows_of_a_stream_against_a_loop(events, shift, T, before, after):
    """Windows that are longer than what happens in them, at times that a double has not the digits for."""
    events = Events(t=events.t + shift, x=events.x, y=events.y, p=events.p, sensor_size=(3, 2))
    span = (int(events.t[0]) - before, int(events.t[-1]) + after)
    frames = to_frames(events, T, span_us=span)
    assert frames.sum() == len(events)
    assert np.array_equal(frames, slow_frames(events, T, "time", (2, 3), span))


@settings(max_examples=60)
@given(
    of_any_length((13, 9)),
    st.integers(1, 9),
    st.integers(1, 13),
    st.integers(1, 70),
    st.sampled_from(["time", "number"]),
)
def test_frames_of_another_shape_against_a_loop(events, H, W, T, split_by):
    """`ToFrames` takes the largest centred crop of the frames' shape, and adds pixels up where that is larger."""
    inside = slow_crop(events, (H, W))
    assert inside.sensor_size[0] == 13 or inside.sensor_size[1] == 9
    assert inside.sensor_size[0] >= W
    assert inside.sensor_size[1] >= H
    assert crop_to_shape(events, H, W) == inside
    frames = ToFrames(T, split_by, (H, W))(events, np.random.default_rng()).numpy()
    assert frames.sum() == len(inside)
    assert np.array_equal(frames, slow_frames(inside, T, split_by, (H, W)))


@pytest.mark.parametrize("split_by", ["time", "number"])
def test_spikingjelly_agrees(rng, split_by):
    events = random_events(rng, 20_000, last_us=10**6)
    # SpikingJelly rounds the duration of a frame down to whole microseconds: compare where there is nothing
    # to round.
    t = events.t.copy()
    t[0], t[-1] = 0, 10**6
    events = Events(t=t, x=events.x, y=events.y, p=events.p, sensor_size=(128, 128))
    columns = {name: getattr(events, name) for name in "txyp"}
    theirs = spikingjelly_utils().integrate_events_by_fixed_frames_number(columns, split_by, 20, 128, 128)
    assert np.array_equal(to_frames(events, 20, split_by), theirs)


def test_frames_that_take_more_memory_than_there_is(monkeypatch):
    """2 x 2 pixels of two bytes are 8 bytes a frame: an operating system may promise more than it has."""
    monkeypatch.setattr("rsnn.data.frames.memory_bytes", lambda: 100)
    assert len(to_frames(at([0, 1]), 12)) == 12
    with pytest.raises(InputError, match=r"13 frames of 2 x 1 pixels take 104 bytes as uint16, more than there are"):
        to_frames(at([0, 1]), 13)
    assert len(to_frames(at([0, 1]), 13, dtype="uint8")) == 13
    monkeypatch.setattr("rsnn.data.frames.memory_bytes", lambda: None)
    assert len(to_frames(at([0, 1]), 13)) == 13


def test_the_machine_says_its_memory():
    there = memory_bytes()
    assert there is None or 1 << 28 < there < 1 << 50


def test_counts_that_do_not_fit():
    events = at([0] * 300)
    with pytest.raises(InputError, match=r"frame 0 counts 300 events at one pixel and uint8 holds at most 255"):
        to_frames(events, 1, dtype="uint8")
    assert to_frames(events, 1, dtype="uint16").max() == 300
    many = at([0] * 70_000)
    with pytest.raises(InputError, match="uint16 holds at most 65535"):
        to_frames(many, 1)
    assert to_frames(many, 1, dtype="float32").max() == 70_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 0}, "num_frames is 0; expected a whole number, at least 1"),
        ({"num_frames": 2.0}, "num_frames is 2.0"),
        ({"split_by": "count"}, "split_by is 'count'; expected 'time' or 'number'"),
        ({"split_by": None}, "split_by is None"),
        ({"size": (3, 2)}, r"size is \(3, 2\); expected .* the sensor's \(1, 2\)"),
        ({"size": (0, 1)}, r"size is \(0, 1\)"),
        ({"size": 4}, "two whole numbers"),
        (
            {"num_frames": 1 << 62},
            r"4611686018427387904 frames of 2 x 1 pixels take [\d,]+ bytes as uint16, .*smaller ones: size=",
        ),
        ({"dtype": "int8"}, "dtype is 'int8'; expected one of uint8, uint16, uint32, float32"),
        ({"dtype": "nonsense"}, "dtype is 'nonsense'"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        to_frames(at([0, 1]), **arguments)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ("clip.aedat", r"a str; expected rsnn.Events: read the file first, with rsnn.read_events\(path\)"),
        (at([0, 1]).to_structured(), r"a ndarray; .* rsnn.Events.from_structured\(array, sensor_size="),
        (np.zeros((5, 4)), r"a ndarray; .* rsnn.Events\(t=, x=, y=, p=, sensor_size="),
        (None, "a NoneType"),
    ],
)
def test_what_is_no_events(events, message):
    with pytest.raises(InputError, match=f"to_frames got {message}"):
        to_frames(events)
