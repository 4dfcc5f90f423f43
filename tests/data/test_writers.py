from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import random_events, recordings
from oracles import same_rows, slow_aedat20, slow_aedat31, slow_es, spikingjelly_cifar10dvs, spikingjelly_utils

from rsnn.data import Events, iter_events, read_events, write_events
from rsnn.data.writers import FORMAT_OF_SUFFIX, WRITERS, hdf5
from rsnn.errors import InputError, MissingDependencyError, RecordingError

SUFFIX = {name: suffix for suffix, name in FORMAT_OF_SUFFIX.items()} | {"aedat-2.0": ".aedat"}
KEEP_THE_SENSOR = set(WRITERS) - {"nmnist"}


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=20)
@given(recordings(sensor_size=(128, 128), max_time=2**25), st.integers(1, 30))
def test_round_trip(tmp_path, name, events, piece_events):
    """All at once and in pieces give the same file, and the reader of that name gives the events back."""
    path = write_events(tmp_path / f"clip{SUFFIX[name]}", events, format=name)
    again = read_events(path, sensor_size=(128, 128))
    assert again == events
    whole = path.read_bytes()
    write_events(path, (events[i : i + piece_events] for i in range(0, len(events), piece_events)), format=name)
    if name in ("aedat-3.1", "hdf5"):  # their packets and chunks depend on the pieces
        assert read_events(path, sensor_size=(128, 128)) == events
    else:
        assert path.read_bytes() == whole


@pytest.mark.parametrize("name", WRITERS)
def test_the_sensor_and_the_format_are_found_again(tmp_path, rng, name):
    size = (100, 90) if name in KEEP_THE_SENSOR else (128, 128)
    events = random_events(rng, 3000, size)
    path = write_events(tmp_path / f"clip{SUFFIX[name]}", events, format=name)
    assert read_events(path) == events
    assert read_events(path, format=name) == events
    assert [path.name] == [file.name for file in tmp_path.iterdir()]


def test_cameras_with_a_name(tmp_path):
    """The header of AEDAT names the camera that has this sensor, and says the sensor itself only if there is none."""
    for size in [(240, 180), (346, 260), (640, 480)]:
        events = Events(t=[1], x=[2], y=[3], p=[1], sensor_size=size)
        path = write_events(tmp_path / "clip.aedat", events)
        assert b"geometry" not in path.read_bytes()
        assert read_events(path).sensor_size == size
    for name, camera in (("aedat-3.1", b"#Source 1: DVS128\r\n"), ("aedat-2.0", b"# AEChip: DVS128\r\n")):
        path = write_events(tmp_path / "clip", Events([1], [2], [3], [1], (128, 128)), format=name)
        assert camera in path.read_bytes()
        assert b"geometry" not in path.read_bytes()
        write_events(path, Events([1], [2], [3], [1], (65_536, 34)), format=name)
        assert path.read_bytes().count(b"geometry 65536x34\r\n") == 1


def test_other_readers_take_the_sensor_for_a_comment(tmp_path, rng):
    """SpikingJelly's of AEDAT 3.1 and of AEDAT 2.0, which turns images as those of CIFAR10-DVS have to be turned."""
    events = random_events(rng, 3000, (100, 90))
    path = write_events(tmp_path / "clip.aedat", events)
    assert b"#geometry 100x90" in path.read_bytes()
    theirs = spikingjelly_utils().load_aedat_v3(path)
    assert all(np.array_equal(getattr(events, name), theirs[name]) for name in "txyp")
    path = write_events(tmp_path / "old.aedat", events, format="aedat-2.0")
    assert b"# geometry 100x90" in path.read_bytes()
    spikingjelly_cifar10dvs()._read_aedat_save_to_np(path, tmp_path / "old.npz")
    theirs = np.load(tmp_path / "old.npz")
    assert all(np.array_equal(getattr(events, name), theirs[name]) for name in "tp")
    assert np.array_equal(events.x, 127 - theirs["y"])
    assert np.array_equal(events.y, 127 - theirs["x"])


@pytest.mark.parametrize(
    ("name", "slow"), [("aedat-3.1", slow_aedat31), ("aedat-2.0", slow_aedat20), ("event-stream", slow_es)]
)
def test_against_slow_loops(tmp_path, rng, name, slow):
    events = random_events(rng, 3000, last_us=10**7)
    assert same_rows(events, slow(write_events(tmp_path / "clip.x", events, format=name)))


@pytest.mark.parametrize(("suffix", "encoding"), [(".dat", "dat"), (".raw", "evt2")])
def test_against_expelliarmus(tmp_path, rng, suffix, encoding):
    wizard = pytest.importorskip("expelliarmus").Wizard
    events = random_events(rng, 3000, (640, 480), last_us=10**7)
    path = write_events(tmp_path / f"clip{suffix}", events)
    assert Events.from_structured(wizard(encoding=encoding).read(str(path)), (640, 480)) == events


def test_nmnist_against_tonic(tmp_path, rng):
    """Its reader, too, adds up the overflows of long recordings."""
    read_mnist_file = pytest.importorskip("tonic.io").read_mnist_file
    events = random_events(rng, 3000, (34, 34), last_us=10**8)
    path = write_events(tmp_path / "clip.bin", events)
    theirs = read_mnist_file(str(path), dtype=np.dtype([("x", int), ("y", int), ("t", int), ("p", int)]))
    assert Events.from_structured(theirs, (34, 34)) == events


def test_long_times_by_hand(tmp_path):
    """2^31 microseconds and more: the overflow counter of AEDAT 3.1, and its packets, by hand."""
    events = Events(t=[5, 2**31 - 1, 2**31, 2**33 + 7], x=[1] * 4, y=[2] * 4, p=[1, 0, 1, 0], sensor_size=(128, 128))
    path = write_events(tmp_path / "clip.aedat", events)
    assert read_events(path) == events
    body = np.frombuffer(path.read_bytes().split(b"#!END-HEADER\r\n")[1], dtype="<u4")
    assert body[:7].tolist() == [1 << 16 | 1, 8, 4, 0, 2, 2, 2]
    assert body[7:11].tolist() == [1 << 17 | 2 << 2 | 3, 5, 1 << 17 | 2 << 2 | 1, 2**31 - 1]
    assert body[11:18].tolist() == [1 << 16 | 1, 8, 4, 1, 1, 1, 1]
    assert body[20:27].tolist() == [1 << 16 | 1, 8, 4, 4, 1, 1, 1]


@pytest.mark.parametrize(
    ("name", "column", "value", "room"),
    [
        ("aedat-2.0", "x", 128, "0 <= x < 128"),
        ("aedat-2.0", "t", 2**32, "0 <= t < 4294967296"),
        ("aedat-3.1", "y", 2**15, "0 <= y < 32768"),
        ("nmnist", "x", 256, "0 <= x < 256"),
        ("nmnist", "y", 240, "0 <= y < 240"),
        ("nmnist", "t", 2**32, "0 <= t < 4294967296"),
        ("prophesee-dat", "x", 2**14, "0 <= x < 16384"),
        ("prophesee-dat", "t", 2**32, "0 <= t < 4294967296"),
        ("prophesee-raw", "y", 2**11, "0 <= y < 2048"),
        ("prophesee-raw", "t", 2**33, "0 <= t < 8589934592"),
        ("event-stream", "t", 2**32, "0 <= t < 4294967296"),
        ("event-stream", "t", -1, "0 <= t < 4294967296"),
    ],
)
def test_values_that_a_format_has_no_room_for(tmp_path, name, column, value, room):
    columns = {"t": [-1, 9], "x": [1, 2], "y": [1, 2], "p": [0, 1]} if value < 0 else None
    columns = columns or {"t": [0, 9], "x": [1, 2], "y": [1, 2], "p": [0, 1]}
    index = 0 if value < 0 else 1
    columns[column][index] = value
    path = tmp_path / "clip.x"
    path.write_text("before")
    with pytest.raises(RecordingError, match=rf"clip\.x was not written: event {index} has {column} = {value}.*{room}"):
        write_events(path, Events(**columns, sensor_size=((1 << 16) - 1,) * 2), format=name)
    assert path.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1
    columns[column][index] = {-1: 0}.get(value, value - 1)
    largest = Events(**columns, sensor_size=((1 << 16) - 1,) * 2)
    if name != "event-stream":  # its pauses would take 2^32 / 127 bytes
        assert same_rows(read_events(write_events(path, largest, format=name), format=name), rows_of(largest))


def test_a_sensor_wider_than_event_streams_say(tmp_path):
    wide = Events(t=[1], x=[2], y=[3], p=[1], sensor_size=(1 << 16, 10))
    with pytest.raises(InputError, match="expected sides up to 65535"):
        write_events(tmp_path / "clip.es", wide)
    assert not list(tmp_path.iterdir())


def rows_of(events):
    return [tuple(row) for row in events.to_structured().tolist()]


def test_streams_of_a_file(tmp_path, rng):
    events = random_events(rng, 5000)
    write_events(tmp_path / "a.aedat", events)
    write_events(tmp_path / "b.es", iter_events(tmp_path / "a.aedat", duration_us=50_000))
    assert read_events(tmp_path / "b.es") == events


def test_pieces_that_do_not_fit_together(tmp_path):
    one = Events(t=[5], x=[0], y=[0], p=[1], sensor_size=(34, 34))
    with pytest.raises(RecordingError, match=r"a piece begins at 4 microseconds and the one before it ends at 5"):
        write_events(tmp_path / "a.npz", [one, Events(t=[4], x=[0], y=[0], p=[1], sensor_size=(34, 34))])
    with pytest.raises(RecordingError, match=r"sensors of \(34, 34\) and \(5, 5\)"):
        write_events(tmp_path / "a.npz", [one, Events(t=[9], x=[0], y=[0], p=[1], sensor_size=(5, 5))])
    for nothing in (Events.empty((34, 34)), [], [Events.empty((34, 34))]):
        with pytest.raises(RecordingError, match="there are no events to write to"):
            write_events(tmp_path / "a.npz", nothing)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("events", ["a", 3, np.zeros((2, 4)), [[1, 2, 3, 1]], {"t": [1]}])
def test_what_is_no_events(tmp_path, events):
    with pytest.raises(InputError, match=r"write_events got a \w+; expected rsnn.Events"):
        write_events(tmp_path / "a.npz", events)
    assert not list(tmp_path.iterdir())


def test_wrong_names(tmp_path):
    events = Events(t=[5], x=[0], y=[0], p=[1], sensor_size=(34, 34))
    with pytest.raises(InputError, match=r"has the suffix '\.mp3'; expected one of \.aedat, "):
        write_events(tmp_path / "a.mp3", events)
    with pytest.raises(InputError, match=r"format is 'npz'; expected one of aedat-3.1"):
        write_events(tmp_path / "a.npz", events, format="npz")
    with pytest.raises(InputError, match=r"path is Events\(1 events.*expected the path of a file"):
        write_events(events, tmp_path / "a.npz")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_events(tmp_path / "file" / "a.npz", events)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(InputError, match=r"folder\.npz cannot be written"):
        write_events(tmp_path / "folder.npz", events)


def test_a_link_stays_and_a_pipe_too(tmp_path):
    events = Events(t=[5], x=[0], y=[0], p=[1], sensor_size=(34, 34))
    (tmp_path / "link.npz").symlink_to("files/real.npz")
    for _ in range(2):  # where the link's file is missing, and where it is there
        write_events(tmp_path / "link.npz", events)
    assert (tmp_path / "link.npz").is_symlink()
    assert read_events(tmp_path / "files" / "real.npz") == events
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(InputError, match=r"pipe\.npz cannot be written \(it is a pipe or device\)"):
        write_events(tmp_path / "pipe.npz", events)
    with pytest.raises(RecordingError, match=r"pipe\.npz cannot be read \(it is a pipe or device"):
        read_events(tmp_path / "pipe.npz")


def test_hdf5_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'rsnn\[formats\]'"):
        write_events(tmp_path / "a.h5", Events(t=[5], x=[0], y=[0], p=[1], sensor_size=(34, 34)))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="limits of files are those of POSIX")
@pytest.mark.parametrize("name", [name for name in WRITERS if name != "hdf5"])
def test_a_full_disk(tmp_path, rng, name):
    import resource

    events = random_events(rng, 50_000, (128, 128))
    path = write_events(tmp_path / "clip", events[:10], format=name)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(
            InputError, match=r"clip cannot be written \(.*File too large\); expected .* room on its disk"
        ):
            write_events(path, events, format=name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_two_writers_of_one_file(tmp_path, rng):
    """Whoever comes last, the file is always one of theirs and whole."""
    both = [random_events(rng, n, (34, 34)) for n in (2000, 3000)]
    path = write_events(tmp_path / "clip.npz", both[0])
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(write_events, [path] * 20, both * 10)) == [path] * 20
    assert read_events(path) in both
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_while_hdf5_is_written(tmp_path, rng, monkeypatch):
    """The library never meets the end of the disk, at which it would crash."""
    pytest.importorskip("h5py")
    events = random_events(rng, 3000)
    monkeypatch.setattr(hdf5, "EVENTS_AT_ONCE", 1000)
    room = iter([1 << 30, 1 << 30, hdf5.KEPT_BYTES + 13_000, hdf5.KEPT_BYTES + 12_999])
    monkeypatch.setattr(hdf5.shutil, "disk_usage", lambda _: SimpleNamespace(free=next(room)))
    with pytest.raises(InputError, match=r"clip\.h5 cannot be written \(.*No space left on device\)"):
        write_events(tmp_path / "clip.h5", events)
    assert not list(tmp_path.iterdir())
    assert not list(room)
    monkeypatch.setattr(hdf5.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 30))
    assert read_events(write_events(tmp_path / "clip.h5", events)) == events


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot try how far a file may grow")
@pytest.mark.parametrize("limit", [1000, 9_000_000])
def test_a_quota_that_fills_while_hdf5_is_written(tmp_path, limit):
    """In a process of its own, which the library would crash; a limit of files stands for a quota."""
    pytest.importorskip("h5py")
    script = f"""
import resource
import numpy as np
from rsnn.data import Events, write_events
from rsnn.errors import InputError
n, rng = 1_500_000, np.random.default_rng(0)
x, y, p = rng.integers(0, 128, n), rng.integers(0, 128, n), rng.integers(0, 2, n)
events = Events(t=rng.integers(0, 1 << 40, n).cumsum(), x=x, y=y, p=p, sensor_size=(128, 128))
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    write_events("clip.h5", (events[k : k + 7000] for k in range(0, n, 7000)))
except InputError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "clip.h5 cannot be written (File too large); expected" in ran.stdout
    assert not list(tmp_path.iterdir())


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "other").write_text("")
    path = write_events(tmp_path / "a.npz", Events(t=[5], x=[0], y=[0], p=[1], sensor_size=(34, 34)))
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_permissions(tmp_path):
    """A new file has those that the user's mask leaves, and one that is replaced keeps its own."""
    before = os.umask(0o027)
    try:
        events = Events(t=[1], x=[2], y=[3], p=[1], sensor_size=(10, 10))
        for mode, name in ((None, "new"), (0o600, "own"), (0o444, "read-only")):
            path = tmp_path / f"{name}.npz"
            if mode is not None:
                path.write_bytes(b"old")
                path.chmod(mode)
            write_events(path, events)
            assert path.stat().st_mode & 0o777 == (0o640 if mode is None else mode)
            assert read_events(path) == events
    finally:
        os.umask(before)
