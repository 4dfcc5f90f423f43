"""What is written comes back, at the limits of every format too, or is refused by the name of the limit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import random_events

from rsnn.data import Events, iter_events, read_events, write_events
from rsnn.data.convert import convert
from rsnn.data.writers import FORMAT_OF_SUFFIX, WRITERS
from rsnn.errors import RecordingError, RSNNError

SUFFIX = {name: suffix for suffix, name in FORMAT_OF_SUFFIX.items()} | {"aedat-2.0": ".aedat"}


class Room(NamedTuple):
    """The least and the largest time, and the largest coordinates and sides of a sensor, that a format has bits for."""

    t: tuple[int, int]
    x: int
    y: int
    side: int = 1 << 16

    def holds(self, events: Events) -> bool:
        """Tell whether each number has its bits."""
        t = events.t.tolist()
        return (
            self.t[0] <= t[0]
            and t[-1] <= self.t[1]
            and max(events.x.tolist()) <= self.x
            and max(events.y.tolist()) <= self.y
            and max(events.sensor_size) <= self.side
        )


INT64 = (-(2**63), 2**63 - 1)
# By the formats' descriptions, not by our writers.
ROOM = {
    "aedat-3.1": Room((0, 2**62 - 1), 2**15 - 1, 2**15 - 1),  # two numbers of 31 bits; 15 for each coordinate
    "aedat-2.0": Room((0, 2**32 - 1), 127, 127),
    "prophesee-raw": Room((0, 2**33 - 1), 2**11 - 1, 2**11 - 1),  # 34 bits, but a jump by half of them is a wrap
    "prophesee-dat": Room((0, 2**32 - 1), 2**14 - 1, 2**14 - 1),
    "event-stream": Room((0, 2**32 - 1), 2**16 - 2, 2**16 - 2, 2**16 - 1),
    "hdf5": Room(INT64, 2**16 - 1, 2**16 - 1),
    "numpy": Room(INT64, 2**16 - 1, 2**16 - 1),
    "text": Room(INT64, 2**16 - 1, 2**16 - 1),
    "nmnist": Room((0, 2**32 - 1), 255, 239),  # a row of 240 is the mark of an overflow
}


def test_every_format_has_its_room():
    assert ROOM.keys() == WRITERS.keys()


@st.composite
def at_the_limits(draw: st.DrawFn, room: Room, last_us: int) -> Events:
    """A few events, many at the first and last pixels and times that fit, and at the first ones that do not."""
    sides = st.sampled_from([1, 2, 34, 128, 129, room.x + 1, min(room.x + 2, 1 << 16), room.y + 1, 1 << 16])
    width, height = draw(sides), draw(sides)
    beyond = [t for t in (room.t[0] - 1, room.t[1] + 1) if INT64[0] <= t <= INT64[1]]
    times = st.one_of(st.sampled_from([room.t[0], 0, 1, 127, min(room.t[1], last_us)]), st.integers(0, last_us))
    if beyond and draw(st.integers(0, 3)) == 0:
        times = st.one_of(times, st.sampled_from(beyond))

    def places(side: int, most: int) -> st.SearchStrategy[int]:
        fitting = min(side - 1, most)
        return st.one_of(st.sampled_from([0, fitting, fitting, min(fitting + 1, side - 1)]), st.integers(0, fitting))

    n = draw(st.integers(1, 9))
    return Events(
        t=np.sort(np.array([draw(times) for _ in range(n)], dtype=np.int64)),
        x=np.array([draw(places(width, room.x)) for _ in range(n)]),
        y=np.array([draw(places(height, room.y)) for _ in range(n)]),
        p=np.array([draw(st.integers(0, 1)) for _ in range(n)]),
        sensor_size=(width, height),
    )


@pytest.mark.parametrize("name", WRITERS)
def test_all_comes_back_or_is_refused(tmp_path, name):
    room = ROOM[name]
    path = tmp_path / f"clip{SUFFIX[name]}"

    # A pause of 2^32 microseconds is 34 MB of Event Stream: once is enough, below.
    @settings(max_examples=30)
    @given(at_the_limits(room, 1 << 20 if name == "event-stream" else room.t[1]))
    def check(events):
        if not room.holds(events):
            with pytest.raises(
                RSNNError, match=r"has no room(;| for a sensor).*expected (0 <= [txy] < |sides up to )\d+"
            ):
                write_events(path, events, format=name)
            assert not path.exists()
            return
        write_events(path, events, format=name)
        size = events.sensor_size if name == "nmnist" else None  # which says nothing of it
        assert read_events(path, sensor_size=size) == events
        pieces = list(iter_events(path, duration_us=1000, sensor_size=size))
        assert np.concatenate([piece.t for piece in pieces]).tolist() == events.t.tolist()
        path.unlink()

    check()


@pytest.mark.slow
def test_the_longest_pause_of_an_event_stream(tmp_path):
    events = Events(t=[0, 2**32 - 1], x=[1, 2], y=[3, 4], p=[0, 1], sensor_size=(10, 10))
    path = write_events(tmp_path / "clip.es", events)
    assert path.stat().st_size == 20 + 2 * 5 + (2**32 - 1) // 127
    assert read_events(path) == events


@pytest.mark.parametrize("name", WRITERS)
def test_recordings_without_events_are_refused(tmp_path, name):
    for nothing in (Events.empty((34, 34)), iter([Events.empty((34, 34))] * 2)):
        with pytest.raises(RecordingError, match="there are no events to write to"):
            write_events(tmp_path / "clip", nothing, format=name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("second", WRITERS)
@pytest.mark.parametrize("first", WRITERS)
def test_conversions_there_and_back(tmp_path, rng, first, second):
    """Through both formats' largest times and coordinates, on a sensor that no camera has."""
    rooms = ROOM[first], ROOM[second]
    width, height = (min(100, *(getattr(room, axis) + 1 for room in rooms)) for axis in "xy")
    last_us = min(1 << 24 if "event-stream" in (first, second) else INT64[1], *(room.t[1] for room in rooms))
    some = random_events(rng, 200, (width, height), last_us=2000)
    events = Events(
        t=[0, *some.t, last_us, last_us],
        x=[width - 1, *some.x, 0, width - 1],
        y=[height - 1, *some.y, height - 1, 0],
        p=[0, *some.p, 1, 0],
        sensor_size=(width, height),
    )
    path = write_events(tmp_path / f"0{SUFFIX[first]}", events, format=first)
    for number, (name, to) in enumerate(((first, second), (second, first)), 1):
        target = tmp_path / f"{number}{SUFFIX[to]}"
        path = convert(path, target, target_format=to, sensor_size=events.sensor_size if name == "nmnist" else None)
        assert read_events(path, sensor_size=events.sensor_size if to == "nmnist" else None) == events
    assert len(list(tmp_path.iterdir())) == 3
