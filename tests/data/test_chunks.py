from __future__ import annotations

import numpy as np
import pytest
import writers
from hypothesis import given, settings
from hypothesis import strategies as st
from made import random_events, recordings

from rsnn.data import Events, iter_events, read_events
from rsnn.errors import InputError, RecordingError


@settings(max_examples=40)
@given(recordings(sensor_size=(128, 128)), st.integers(1, 2**41))
def test_windows_hold_every_event_once(tmp_path, events, duration):
    path = tmp_path / "clip.aedat"
    writers.write_aedat31(path, events, packet_events=7)
    windows = list(iter_events(path, duration_us=duration))
    assert all(len(window) for window in windows)
    assert np.array_equal(np.concatenate([window.to_structured() for window in windows]), events.to_structured())
    numbers = [(window.t - events.t[0]) // duration for window in windows]
    assert all(number.min() == number.max() for number in numbers)
    firsts = [int(number[0]) for number in numbers]
    assert firsts == sorted(set(firsts))


def test_windows_across_blocks(tmp_path, rng, monkeypatch):
    monkeypatch.setattr("rsnn.data.readers.common.BLOCK_BYTES", 800)
    events = random_events(rng, 1000, last_us=1000)
    path = tmp_path / "clip.aedat"
    writers.write_aedat20(path, events)
    windows = list(iter_events(path, duration_us=300))
    first = int(events.t[0])
    assert windows == [events.between(first + 300 * k, first + 300 * (k + 1)) for k in range(4)]


def test_a_long_gap_costs_nothing(tmp_path):
    path = tmp_path / "clip.aedat"
    writers.write_aedat31(path, Events(t=[0, 2**60], x=[1, 1], y=[1, 1], p=[0, 0], sensor_size=(128, 128)))
    assert [len(window) for window in iter_events(path, duration_us=1)] == [1, 1]


def test_the_sensor_is_found_before_the_first_window(tmp_path):
    path = tmp_path / "clip.csv"
    path.write_text("0,1,1,0\n100000,200,100,1\n")
    assert [window.sensor_size for window in iter_events(path, duration_us=10)] == [(240, 180)] * 2
    assert next(iter_events(path, duration_us=10, sensor_size=(300, 200))).sensor_size == (300, 200)


@pytest.mark.parametrize("duration", [0, -1, 1.5, None])
def test_wrong_durations(tmp_path, duration):
    with pytest.raises(InputError, match="duration_us is"):
        iter_events(tmp_path / "clip", duration_us=duration)


def test_bad_places_are_reached(tmp_path, rng, monkeypatch):
    monkeypatch.setattr("rsnn.data.readers.common.BLOCK_BYTES", 80)
    path = tmp_path / "clip.aedat"
    events = random_events(rng, 25, last_us=1000)
    writers.write_aedat20(path, events)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    windows = iter_events(path, duration_us=100)
    assert len(next(windows))
    with pytest.raises(RecordingError, match="truncated"):
        list(windows)
    assert sum(len(window) for window in iter_events(path, duration_us=100, truncated="keep")) == 24
    header = len(writers.AEDAT20_HEADER)
    early = data[header : header + 80]
    path.write_bytes(data[: header + 160] + early)  # a block that begins before the one before it ended
    with pytest.raises(RecordingError, match=rf"byte {header + 160}, time runs backwards"):
        list(iter_events(path, duration_us=100))
    path.write_bytes(data[:header])
    with pytest.raises(RecordingError, match="holds no events"):
        list(iter_events(path, duration_us=100))


def test_as_read_events(samples):
    for name in ("sample_nmnist.bin", "dvs.es", "evt2.raw"):
        path = samples / "formats" / name
        whole = read_events(path)
        assert np.array_equal(np.concatenate([window.t for window in iter_events(path, duration_us=10_000)]), whole.t)


@pytest.mark.parametrize("kind", ["columns", "compressed", "seconds", "structured", "table", "fortran", "npy"])
@pytest.mark.parametrize("block", [1, 7, 99, 100, 1000])
def test_numpy_files_in_blocks(tmp_path, rng, monkeypatch, kind, block):
    monkeypatch.setattr("rsnn.data.readers.npz.BLOCK_EVENTS", block)
    events = random_events(rng, 100, (34, 34))
    columns = {name: getattr(events, name) for name in "txyp"}
    table = np.stack([column.astype(np.int64) for column in columns.values()], axis=1)
    path = tmp_path / "clip.npz"
    {
        "columns": lambda: np.savez(path, **columns),
        "compressed": lambda: np.savez_compressed(path, **columns),
        "seconds": lambda: np.savez(path, **columns | {"t": events.t / 1e6}),
        "structured": lambda: np.savez(path, a=np.zeros(3), events=events.to_structured()),
        "table": lambda: np.savez(path, table),
        "fortran": lambda: np.savez(path, np.asfortranarray(table)),
        "npy": lambda: np.save(path.with_suffix(".npy"), events.to_structured()),
    }[kind]()
    path = path.with_suffix(".npy") if kind == "npy" else path
    assert read_events(path) == events
    windows = list(iter_events(path, duration_us=100_000))
    assert np.array_equal(np.concatenate([window.to_structured() for window in windows]), events.to_structured())


def test_places_in_numpy_files(tmp_path, monkeypatch):
    monkeypatch.setattr("rsnn.data.readers.npz.BLOCK_EVENTS", 4)
    path = tmp_path / "clip.npz"
    p = np.zeros(10, dtype=int)
    p[6] = 3
    np.savez(path, t=range(10), x=[0] * 10, y=[0] * 10, p=p)
    with pytest.raises(RecordingError, match="event 6 has the polarity 3"):
        read_events(path)
    np.savez(path, t=[*range(9), 2], x=[0] * 10, y=[0] * 10, p=[0] * 10)
    with pytest.raises(RecordingError, match="event 9, time runs backwards, from 8 to 2"):
        read_events(path)
