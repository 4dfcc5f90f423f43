from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from made import random_events

from rsnn.data import EventArchive
from rsnn.errors import RecordingError


def write(path, recordings, **more):
    columns = {name: np.concatenate([getattr(events, name) for events in recordings]) for name in "txyp"}
    offsets = np.cumsum([0] + [len(events) for events in recordings])
    np.savez(path, **columns, offsets=offsets, **more)


def test_recordings_come_back(tmp_path, rng):
    recordings = [random_events(rng, n, (34, 34)) for n in (5, 0, 9)]
    path = tmp_path / "all.npz"
    write(path, recordings, label=[2, 0, 1], id=[7, 8, 9], class_names=["a", "b", "c"], sensor_size=[34, 34])
    archive = EventArchive(path)
    assert list(archive) == recordings
    assert archive[-1] == recordings[-1]
    assert archive.labels.tolist() == [2, 0, 1]
    assert archive.ids.tolist() == [7, 8, 9]
    assert archive.class_names == ["a", "b", "c"]
    with pytest.raises(IndexError, match="recording 3"):
        archive[3]


def test_real_archive(samples):
    archive = EventArchive(samples / "nmnist_1000.npz")
    assert len(archive) == 1000
    assert archive.sensor_size == (34, 34)
    assert np.bincount(archive.labels).sum() == 1000
    assert sum(len(events) for events in archive) == 4133231


def test_files_that_are_no_archive(tmp_path, rng):
    with pytest.raises(RecordingError, match="does not exist"):
        EventArchive(tmp_path / "none.npz")
    path = tmp_path / "all.npz"
    path.write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(RecordingError, match="truncated or damaged"):
        EventArchive(path)
    np.savez(path, t=[0], x=[0], y=[0], p=[0])
    with pytest.raises(RecordingError, match="has no array 'offsets'"):
        EventArchive(path)
    np.savez(path, t=[0], x=[0], y=[0], p=[0], offsets=[0, 2])
    with pytest.raises(RecordingError, match="offsets do not divide; copy"):
        EventArchive(path)
    np.savez(path, t=[3, 2], x=[0, 0], y=[0, 0], p=[0, 0], offsets=[0, 2])
    with pytest.raises(RecordingError, match="recording 0: event 1: time runs backwards"):
        EventArchive(path)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": np.empty(0, int)}, r"its offsets are of int64 and shape \(0,\); expected whole numbers"),
        ({"offsets": [[0, 5], [5, 9]]}, r"its offsets are of int64 and shape \(2, 2\)"),
        ({"offsets": 9}, r"its offsets are of int64 and shape \(\)"),
        ({"offsets": [0.0, 5.5, 9.0]}, "its offsets are of float64"),
        ({"offsets": np.array([0, 9, 5, 9], np.uint64)}, "its offsets do not divide"),
        ({"offsets": [-1, 5, 9]}, "its offsets do not divide"),
        ({"label": [1]}, r"it has 2 recordings and an array 'label' of shape \(1,\); expected one entry each"),
        ({"label": [[1], [0]]}, r"an array 'label' of shape \(2, 1\)"),
        ({"id": [1, 2, 3]}, r"an array 'id' of shape \(3,\)"),
        ({"class_names": "abc"}, r"its class_names have the shape \(\); expected a text for each class"),
        ({"sensor_size": 34}, r"sensor_size is array\(34\); expected two whole numbers \(width, height\)"),
        ({"sensor_size": [34.5, 34.5]}, "expected two whole numbers"),
        ({"x": np.full(9, np.nan)}, "its array 'x' holds float64 values; expected integers$"),
        ({"y": ["a"] * 9}, "its array 'y' holds <U1 values; expected integers"),
        ({"x": np.zeros(9, [("a", "i4")])}, r"its array 'x' holds \[\('a', '<i4'\)\] values"),
        ({"t": np.linspace(0, 1, 9)}, "its array 't' holds float64 values; expected integers, microseconds"),
    ],
)
def test_arrays_that_contradict_each_other(tmp_path, rng, change, message):
    path = tmp_path / "all.npz"
    write(path, [random_events(rng, n, (34, 34)) for n in (5, 4)], label=[0, 1])
    np.savez(path, **(dict(np.load(path)) | change))
    with pytest.raises(RecordingError, match=rf"all\.npz \(NumPy\): .*{message}"):
        EventArchive(path)


def test_coordinates_that_no_sensor_has(tmp_path, rng):
    path = tmp_path / "all.npz"
    write(path, [random_events(rng, n, (34, 34)) for n in (5, 4)])
    for x, kind in ((70_000, np.int64), (2**63, np.uint64)):
        np.savez(path, **(dict(np.load(path)) | {"x": np.array([0] * 8 + [x], kind)}))
        archive = EventArchive(path)
        assert len(archive[0]) == 5
        with pytest.raises(RecordingError, match=rf"all\.npz: recording 1: event 3: x = {x} lies outside the sensor"):
            archive[1]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_half_written_and_damaged_archives(tmp_path, rng, save):
    """Wherever a file ends, and whichever byte of an array is another one, the file is named, or nothing is lost."""
    path, recordings = tmp_path / "all.npz", [random_events(rng, n, (34, 34), last_us=10_000) for n in (500, 400)]
    columns = {name: np.concatenate([getattr(events, name) for events in recordings]) for name in "txyp"}
    save(path, **columns, offsets=[0, 500, 900], label=[1, 0])
    data = path.read_bytes()
    for place in [*range(1, 60), *rng.integers(60, len(data) - 1, 60).tolist()]:
        for damaged in (data[:place], data[:place] + bytes([data[place] ^ 0x20]) + data[place + 1 :]):
            path.write_bytes(damaged)
            try:
                archive = EventArchive(path)
            except RecordingError as error:
                assert "all.npz" in str(error)  # noqa: PT017 - some bytes mean nothing, such as a date
                continue
            assert len(damaged) == len(data)
            assert list(archive) == recordings
            assert archive.labels is None or archive.labels.tolist() == [1, 0]


def test_a_copy_has_the_labels_that_were_set(tmp_path):
    np.savez(
        tmp_path / "a.npz", t=[1, 2], x=[1, 1], y=[1, 1], p=[1, 0], offsets=[0, 1, 2], label=[0, 1],
        class_names=np.array([b"wave", b"clap"]),
    )  # fmt: skip
    archive = EventArchive(tmp_path / "a.npz")
    assert archive.class_names == ["wave", "clap"]
    archive.labels = 1 - archive.labels
    for other in (copy.deepcopy(archive), pickle.loads(pickle.dumps(archive))):
        assert other.labels.tolist() == [1, 0]
        assert other[1] == archive[1]
