from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import recordings

from rsnn.data import EVENT_DTYPE, Events
from rsnn.errors import InputError, RecordingError

SMALL = {"t": [5, 5, 9], "x": [0, 3, 1], "y": [1, 0, 2], "p": [1, 0, 1], "sensor_size": (4, 3)}


def test_columns_are_compact_and_read_only():
    events = Events(**SMALL)
    assert (events.t.dtype, events.x.dtype, events.y.dtype, events.p.dtype) == (
        "int64",
        "uint16",
        "uint16",
        "uint8",
    )
    assert len(events) == 3
    assert events.duration_us == 4
    assert repr(events) == "Events(3 events, t = 5 to 9 us, 4 x 3 pixels)"
    with pytest.raises(ValueError, match="read-only"):
        events.t[0] = 0
    with pytest.raises(AttributeError):
        events.sensor_size = (9, 9)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda events: pickle.loads(pickle.dumps(events))])
def test_copies_are_read_only_too(again):
    """As are those that the worker processes of a `DataLoader` send."""
    events = again(Events(**SMALL))
    assert events == Events(**SMALL)
    assert not any(getattr(events, name).flags.writeable for name in "txyp")


def test_times_of_all_64_bits():
    last = (1 << 63) - 1
    events = Events(t=[-last, last], x=[0, 0], y=[0, 0], p=[0, 0], sensor_size=(1, 1))
    assert events.duration_us == 2 * last
    for t in ([1, last + 6], [last + 2, last + 6]):
        with pytest.raises(InputError, match=f"t reaches {last + 6}; expected microseconds that fit in 63 bits"):
            Events(t=np.array(t, np.uint64), x=[0, 0], y=[0, 0], p=[0, 0], sensor_size=(1, 1))


def test_the_callers_array_stays_writable():
    t = np.array([1, 2, 3])
    Events(t=t, x=[0, 0, 0], y=[0, 0, 0], p=[0, 0, 0], sensor_size=(1, 1))
    t[0] = 0
    assert t[0] == 0


def test_no_events_are_events():
    events = Events.empty((34, 34))
    assert len(events) == 0
    assert events.duration_us == 0
    assert events == Events(t=[], x=[], y=[], p=[], sensor_size=(34, 34))
    assert len(events.between(0, 10)) == 0


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"x": [0, 4, 1]}, RecordingError, r"event 1: x = 4 lies outside the sensor of 4 x 3 pixels"),
        ({"x": [0, -1, 1]}, RecordingError, r"event 1: x = -1 lies outside"),
        ({"y": [3, 0, 2]}, RecordingError, r"event 0: y = 3 lies outside .* expected 0 <= y < 3"),
        ({"p": [1, 2, 1]}, RecordingError, r"event 1: p = 2; expected a polarity of 0"),
        ({"p": [1, -1, 1]}, RecordingError, r"event 1: p = -1"),
        ({"t": [5, 4, 9]}, RecordingError, r"event 1: time runs backwards, from 5 to 4"),
        ({"t": [5, 9]}, InputError, r"lengths \{'t': 2, 'x': 3, 'y': 3, 'p': 3\}"),
        (
            {"t": [0.5, 1.0, 2.0]},
            InputError,
            r"t holds float64 values; expected integers: multiply seconds by 1e6",
        ),
        ({"x": [[0, 3, 1]]}, InputError, r"x has shape \(1, 3\)"),
        ({"y": ["a", "b", "c"]}, InputError, r"y holds <U1 values"),
        ({"sensor_size": (4,)}, InputError, r"sensor_size is \(4,\); expected two whole numbers"),
        ({"sensor_size": (4.0, 3.0)}, InputError, r"expected two whole numbers"),
        ({"sensor_size": 4}, InputError, r"expected two whole numbers"),
        ({"sensor_size": (0, 3)}, InputError, r"expected sides between 1 and 65536"),
    ],
)
def test_wrong_columns(change, kind, message):
    with pytest.raises(kind, match=message):
        Events(**(SMALL | change))


def test_unsigned_times_that_run_backwards():
    with pytest.raises(RecordingError, match="backwards"):
        Events(t=np.array([5, 4], dtype=np.uint64), x=[0, 0], y=[0, 0], p=[0, 0], sensor_size=(1, 1))


@settings(max_examples=40)
@given(recordings(), st.integers(0, 60), st.integers(0, 60))
def test_between_is_half_open(events, start, end):
    piece = events.between(start, end)
    wanted = (events.t >= start) & (events.t < end)
    assert np.array_equal(piece.to_structured(), events.to_structured()[wanted])


@settings(max_examples=40)
@given(recordings(), st.slices(60).filter(lambda s: s.step is None or s.step > 0))
def test_slices_are_valid_events(events, part):
    piece = events[part]
    assert piece == Events.from_structured(events.to_structured()[part], events.sensor_size)


@pytest.mark.parametrize("index", [0, slice(None, None, -1), "a"])
def test_other_indices(index):
    with pytest.raises(InputError, match="slices that run forwards"):
        Events(**SMALL)[index]


@settings(max_examples=40)
@given(recordings())
def test_structured_arrays_round_trip(events):
    array = events.to_structured()
    assert array.dtype == EVENT_DTYPE
    assert Events.from_structured(array, events.sensor_size) == events
    reordered = np.dtype([("x", np.int16), ("y", np.int16), ("t", np.int64), ("p", bool)])  # tonic's
    other = np.empty(len(array), dtype=reordered)
    for name in "txyp":
        other[name] = array[name]
    assert Events.from_structured(other, events.sensor_size) == events
    assert pickle.loads(pickle.dumps(events)) == events


def test_structured_array_without_a_field():
    with pytest.raises(InputError, match=r"fields \('t', 'x'\); expected t, x, y and p"):
        Events.from_structured(np.zeros(2, dtype=[("t", int), ("x", int)]), (2, 2))
    with pytest.raises(InputError, match=r"the list has the fields None; expected t, x, y and p"):
        Events.from_structured([(1, 0, 0, 1)], (2, 2))


def test_equality():
    events = Events(**SMALL)
    assert events == Events(**SMALL)
    assert events != Events(**(SMALL | {"sensor_size": (5, 3)}))
    assert events != Events(**(SMALL | {"p": [1, 0, 0]}))
    assert events != "events"
