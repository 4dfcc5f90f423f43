from __future__ import annotations

import dataclasses
import functools
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made import random_events
from torch.utils.data import DataLoader

from rsnn import Preprocessing
from rsnn.data import (
    EventArchive,
    EventFolder,
    Events,
    FrameCache,
    cache,
    fingerprint,
    read_events,
    to_frames,
    transforms,
    write_events,
)
from rsnn.data.datasets.base import EventDataset
from rsnn.errors import InputError, RecordingError


@pytest.fixture
def folder(tmp_path, rng):
    """Twelve recordings of three classes."""
    for index in range(12):
        path = tmp_path / "data" / "abc"[index % 3] / f"{index}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_events(path, random_events(rng, 200 + index, (20, 16)))
    return tmp_path / "data"


def builds(monkeypatch):
    """Count how often a cache is built."""
    calls = []
    build = cache._build
    monkeypatch.setattr(cache, "_build", lambda *args: (calls.append(args), build(*args)))
    return calls


@pytest.mark.parametrize("workers", [None, 0, 2])
@pytest.mark.parametrize("split_by", ["time", "number"])
def test_items_are_the_frames_of_the_recordings(folder, tmp_path, workers, split_by):
    dataset = EventFolder(folder)
    cached = FrameCache(dataset, 5, split_by, size=(8, 10), root=tmp_path / "cache", workers=workers)
    assert len(cached) == 12
    assert cached.frames.dtype == np.uint8
    assert cached.labels.tolist() == dataset.labels.tolist()
    assert cached.ids == dataset.ids
    assert cached.class_names == ("a", "b", "c")
    assert (cached.name, cached.split, cached.split_name) == ("data", "all", "none")
    for index in range(-12, 12):
        frames, label = cached[index]
        assert frames.dtype == torch.uint8
        expected = to_frames(dataset.events(index), 5, split_by, size=(8, 10))
        assert np.array_equal(frames.numpy(), expected)
        assert label == dataset.labels[index]
    with pytest.raises(IndexError, match="recording 12 of data; it has 12"):
        cached[12]


def test_frames_are_those_of_the_preprocessing(tmp_path, rng):
    """Another shape than the sensor's is cropped as for `predict`."""
    (tmp_path / "data" / "a").mkdir(parents=True)
    events = random_events(rng, 5000, (346, 260))
    write_events(tmp_path / "data" / "a" / "clip.npz", events)
    cached = FrameCache(EventFolder(tmp_path / "data"), 4, size=(64, 64), root=tmp_path / "cache")
    assert torch.equal(cached[0][0].float(), Preprocessing((64, 64), 4).frames(events))


def test_it_is_built_once_and_again_when_something_changed(folder, tmp_path, monkeypatch):
    calls, root = builds(monkeypatch), tmp_path / "cache"
    first = FrameCache(EventFolder(folder), 5, root=root)
    again = FrameCache(EventFolder(folder), 5, root=root)
    assert len(calls) == 1
    assert first.folder == again.folder
    assert np.array_equal(first.frames, again.frames)
    for number, parameters in enumerate(({"num_frames": 6}, {"split_by": "number"}, {"size": (8, 8)})):
        other = FrameCache(EventFolder(folder), **{"num_frames": 5, "root": root} | parameters)
        assert other.folder != first.folder
        assert len(calls) == 2 + number
    FrameCache(EventFolder(folder, sensor_size=(32, 32)), 5, size=(16, 20), root=root)
    assert len(calls) == 5
    monkeypatch.setattr(cache, "code_digest", lambda: "another version")
    FrameCache(EventFolder(folder), 5, root=root)
    assert len(calls) == 6


def test_content_names_the_cache_and_time_does_not(folder, tmp_path, rng, monkeypatch):
    calls, root = builds(monkeypatch), tmp_path / "cache"
    before = FrameCache(EventFolder(folder), 5, root=root)
    path = folder / "b" / "1.npz"
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 10**12))
    FrameCache(EventFolder(folder), 5, root=root)
    folder.rename(folder.with_name("moved"))
    moved = EventFolder(folder.with_name("moved"))
    moved.name = "data"
    FrameCache(moved, 5, root=root)
    assert len(calls) == 1
    path = folder.with_name("moved") / "b" / "1.npz"
    size = path.stat().st_size
    changed = random_events(rng, 201, (20, 16))
    write_events(path, changed)
    assert path.stat().st_size == size
    after = FrameCache(moved, 5, root=root)
    assert len(calls) == 2
    assert after.folder != before.folder
    place = after.ids.index("b/1.npz")
    assert np.array_equal(after.frames[place], to_frames(changed, 5))


def test_the_memory_of_digests_holds_settled_files_only(folder, tmp_path, monkeypatch):
    dataset, memory = EventFolder(folder), tmp_path / "cache" / "digests.json"
    os.utime(dataset.files[0], (10**9, 10**9))  # which does not make it an old file
    FrameCache(dataset, 5, root=tmp_path / "cache")
    assert json.loads(memory.read_text()) == {}
    later = max(path.stat().st_ctime_ns for path in dataset.files) + fingerprint.SETTLED_NS + 1
    monkeypatch.setattr(fingerprint.time, "time_ns", lambda: later)
    os.utime(dataset.files[1], ns=(later, later))
    FrameCache(dataset, 5, root=tmp_path / "cache")
    settled = [str(path.resolve()) for path in dataset.files if path != dataset.files[1]]
    assert sorted(json.loads(memory.read_text())) == sorted(settled)
    for nonsense in ("", "[]", '{"a": 1}'):
        memory.write_text(nonsense)
        FrameCache(dataset, 5, root=tmp_path / "cache")
        assert sorted(json.loads(memory.read_text())) == sorted(settled)


def test_a_changed_file_of_the_same_size_and_time_is_noticed(folder, tmp_path, rng, monkeypatch):
    """As `cp -p` and `rsync -t` leave it."""
    monkeypatch.setattr(fingerprint, "SETTLED_NS", -(1 << 62))  # remember all
    dataset = EventFolder(folder)
    before = FrameCache(dataset, 5, root=tmp_path / "cache")
    path, status = dataset.files[0], dataset.files[0].stat()
    changed = path.read_bytes()
    events = read_events(path)
    write_events(path, Events(events.t, events.x, events.y, 1 - events.p, events.sensor_size))
    assert path.read_bytes() != changed
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = FrameCache(dataset, 5, root=tmp_path / "cache")
    assert after.folder != before.folder
    assert np.array_equal(after.frames[0], before.frames[0][:, ::-1])


def test_an_archive_that_changed_since_it_was_opened(tmp_path, rng):
    def save(events):
        columns = {name: getattr(events, name) for name in "txyp"}
        np.savez(tmp_path / "a.npz", **columns, offsets=[0, len(events)], label=[0], sensor_size=[20, 16])

    save(random_events(rng, 100, (20, 16)))
    old = EventArchive(tmp_path / "a.npz")
    new = random_events(rng, 100, (20, 16))
    save(new)
    (tmp_path / "a.npz").chmod(0o640)
    assert EventArchive(tmp_path / "a.npz").fingerprint == ""
    with pytest.raises(RecordingError, match="has changed since it was opened"):
        FrameCache(old, 5, root=tmp_path / "cache")
    with pytest.raises(RecordingError, match="has changed since it was opened"):
        pickle.loads(pickle.dumps(old))
    frames = FrameCache(EventArchive(tmp_path / "a.npz"), 5, root=tmp_path / "cache").frames
    assert np.array_equal(frames[0], to_frames(new, 5))


def first_events(path, number=10):
    return read_events(path)[:number]


HOW_MANY = 0


def test_a_users_own_reader_is_part_of_the_name(folder, tmp_path, monkeypatch):
    plain = EventFolder(folder)

    def read_by(function):
        about = ("name", "split", "split_name", "samples", "class_names", "sensor_size")
        return EventDataset(**{name: getattr(plain, name) for name in about}, read=function)

    reads = (first_events, functools.partial(first_events, number=20), lambda path: read_events(path)[:30])
    caches = [FrameCache(read_by(read), 5, root=tmp_path / "cache") for read in reads]
    assert [int(cache.frames[0].sum()) for cache in caches] == [10, 20, 30]
    for number in (40, 50):
        monkeypatch.setitem(globals(), "HOW_MANY", number)
        cached = FrameCache(read_by(lambda path: read_events(path)[:HOW_MANY]), 5, root=tmp_path / "cache")
        assert int(cached.frames[0].sum()) == number
    settings = [functools.partial(read_events, unsorted=how) for how in ("error", "sort")]
    assert len({FrameCache(read_by(read), 5, root=tmp_path / "cache").folder for read in settings}) == 2

    class Read:
        def __call__(self, path):
            return read_events(path)

    with pytest.raises(InputError, match="which does not say what it does"):
        FrameCache(read_by(Read()), 5, root=tmp_path / "cache")


@pytest.mark.parametrize("workers", [0, 2])
def test_counts_beyond_a_byte(tmp_path, workers):
    """256 events at one pixel: all frames are uint16, and the others' counts stay what they are."""
    (tmp_path / "data" / "a").mkdir(parents=True)
    for name, n in (("1", 255), ("2", 256), ("3", 70)):
        events = Events(t=range(n), x=[1] * n, y=[2] * n, p=[1] * n, sensor_size=(4, 4))
        write_events(tmp_path / "data" / "a" / f"{name}.npz", events)
    dataset = EventFolder(tmp_path / "data")
    cached = FrameCache(dataset, 1, root=tmp_path / "cache", workers=workers)
    assert cached.frames.dtype == np.uint16
    assert cached.frames[:, 0, 1, 2, 1].tolist() == [255, 256, 70]
    assert cached.frames.sum() == 255 + 256 + 70
    assert cached[1][0].dtype == torch.uint16
    assert sorted(path.name for path in cached.folder.iterdir()) == ["frames.bin", "meta.json"]
    assert FrameCache(dataset, 2, root=tmp_path / "cache", workers=workers).frames.dtype == np.uint8


def test_counts_beyond_two_bytes(tmp_path):
    (tmp_path / "data" / "a").mkdir(parents=True)
    n = 1 << 16
    none = np.zeros(n, dtype=int)
    write_events(tmp_path / "data" / "a" / "1.npz", Events(t=none, x=none, y=none, p=none, sensor_size=(4, 4)))
    with pytest.raises(RecordingError, match=r"recording a/1\.npz of data: frame 0 counts 65536 events at one pixel"):
        FrameCache(EventFolder(tmp_path / "data"), 1, root=tmp_path / "cache")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_recording_is_named_and_leaves_nothing(folder, tmp_path, workers):
    dataset = EventFolder(folder)
    path = folder / "b" / "4.npz"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(
        RecordingError, match=r"recording b/4\.npz of data: .*4\.npz \(NumPy\): the file is truncated"
    ) as e:
        FrameCache(dataset, 5, root=tmp_path / "cache", workers=workers)
    assert "Traceback" not in str(e.value)
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


def test_a_cache_that_may_only_be_read(folder, tmp_path, monkeypatch):
    """It is used as it is: only what is missing has to be written."""
    before = FrameCache(EventFolder(folder), 5, root=tmp_path / "cache")

    def refuse(*args, **options):
        raise OSError("Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    after = FrameCache(EventFolder(folder), 5, root=tmp_path / "cache")
    assert after.folder == before.folder
    assert torch.equal(after[3][0], before[3][0])


def test_damaged_caches_are_made_anew(folder, tmp_path, monkeypatch):
    calls = builds(monkeypatch)
    dataset = EventFolder(folder)
    cached = FrameCache(dataset, 5, root=tmp_path / "cache")
    whole = np.array(cached.frames)
    for name, change in (
        ("frames.bin", lambda path: path.write_bytes(path.read_bytes()[:-1])),
        ("frames.bin", lambda path: path.unlink()),
        ("meta.json", lambda path: path.write_text("{")),
        ("meta.json", lambda path: path.unlink()),
        ("meta.json", lambda path: path.write_bytes(b"\xff\xfe")),
        ("meta.json", lambda path: path.write_text("[]")),
        ("meta.json", lambda path: path.write_text(path.read_text().replace('"uint8"', '"int8"'))),
        ("meta.json", lambda path: path.write_text(path.read_text().replace('"uint8"', "[]"))),
    ):
        change(cached.folder / name)
        fresh = pickle.loads(pickle.dumps(cached))
        with pytest.raises(RecordingError, match="gone or damaged"):
            fresh[0]
        assert np.array_equal(FrameCache(dataset, 5, root=tmp_path / "cache").frames, whole)
    assert len(calls) == 9


def test_files_that_change_while_they_are_framed(folder, tmp_path, rng, monkeypatch):
    build = cache._build

    def slow(*args):
        build(*args)
        write_events(folder / "a" / "0.npz", random_events(rng, 9, (20, 16)))

    monkeypatch.setattr(cache, "_build", slow)
    with pytest.raises(RecordingError, match="files of data changed while they were framed"):
        FrameCache(EventFolder(folder), 5, root=tmp_path / "cache")


def test_pickles_are_small_and_loaders_get_the_frames(folder, tmp_path):
    cached = FrameCache(EventFolder(folder), 5, root=tmp_path / "cache")
    assert cached[0][0].sum() == 200
    data = pickle.dumps(cached)
    assert len(data) < 2000
    assert torch.equal(pickle.loads(data)[3][0], cached[3][0])
    for workers in (0, 2):
        batches = list(DataLoader(cached, batch_size=5, num_workers=workers))
        assert torch.equal(torch.cat([frames for frames, _ in batches]), torch.from_numpy(np.array(cached.frames)))
        assert torch.cat([labels for _, labels in batches]).tolist() == cached.labels.tolist()


def test_items_can_be_changed_without_changing_the_cache(folder, tmp_path):
    cached = FrameCache(EventFolder(folder), 5, root=tmp_path / "cache")
    frames, _ = cached[0]
    frames += 1
    assert cached[0][0].sum() == 200
    with pytest.raises(ValueError, match="read-only"):
        cached.frames[0] = 0


def test_archives(tmp_path, rng):
    recordings = [random_events(rng, 50, (34, 34)) for _ in range(4)]
    columns = {name: np.concatenate([getattr(events, name) for events in recordings]) for name in "txyp"}
    np.savez(tmp_path / "a.npz", **columns, offsets=range(0, 201, 50), label=[0, 1, 0, 1], id=[5, 6, 7, 8])
    archive = EventArchive(tmp_path / "a.npz")
    assert list(pickle.loads(pickle.dumps(archive))) == recordings
    assert len(pickle.dumps(archive)) < 1000
    for workers in (0, 2):
        cached = FrameCache(archive, 3, root=tmp_path / f"cache{workers}", workers=workers)
        assert [np.array_equal(cached.frames[i], to_frames(recordings[i], 3)) for i in range(4)] == [True] * 4
        assert cached.ids == ["5", "6", "7", "8"]
        assert (cached.name, cached.split_name) == ("a", "archive")
    np.savez(tmp_path / "b.npz", **columns, offsets=range(0, 201, 50))
    with pytest.raises(InputError, match="has no labels"):
        FrameCache(EventArchive(tmp_path / "b.npz"), 3, root=tmp_path / "cache")


def made_up(rng, **more):
    """Recordings that come from no file."""
    recordings = [random_events(rng, 50, (34, 34)) for _ in range(2)]
    facts = {"name": "made", "split": "all", "split_name": "none", "sensor_size": (34, 34), "class_names": None}

    class MadeUp(SimpleNamespace):
        def __len__(self):
            return len(recordings)

    return MadeUp(**({"labels": [0, 1]} | facts | more), files=[], ids=None, events=recordings.__getitem__)


def test_recordings_without_files(tmp_path, rng):
    with pytest.raises(InputError, match=r"made has no files.*expected files, or an attribute 'fingerprint'"):
        FrameCache(made_up(rng), root=tmp_path)
    one = FrameCache(made_up(rng, fingerprint="seed 1"), root=tmp_path)
    two = FrameCache(made_up(rng, fingerprint="seed 2"), root=tmp_path)
    assert one.folder != two.folder
    assert FrameCache(made_up(rng, fingerprint="seed 1"), root=tmp_path).folder == one.folder


def test_what_is_no_data_set_of_recordings(folder, tmp_path, rng):
    dataset = EventFolder(folder)
    cached = FrameCache(dataset, 5, root=tmp_path / "cache")
    frames = transforms.Transformed(cached, transforms.Cutout())
    for other in (torch.utils.data.Subset(dataset, [0, 1]), cached, frames, [random_events(rng, 9)]):
        with pytest.raises(InputError, match=rf"FrameCache got a {type(other).__name__}, .*dataset\.select\(ids, "):
            FrameCache(other, 5, root=tmp_path / "cache")
    framed = transforms.Transformed(dataset, transforms.ToFrames(5))
    with pytest.raises(RecordingError, match=r"recording a/0\.npz of data: FrameCache got a Tensor; expected rsnn\.Ev"):
        FrameCache(framed, 5, root=tmp_path / "cache")


@pytest.mark.parametrize("labels", [[0], [[0], [1]], [0.5, 1.0], [np.nan, 1.0], ["a", "b"]])
def test_labels_that_are_no_class_indices(tmp_path, rng, labels):
    with pytest.raises(InputError, match=r"made has 2 recordings and labels .*the index of its class, for each"):
        FrameCache(made_up(rng, labels=labels, fingerprint="seed 1"), root=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 0}, "num_frames is 0"),
        ({"split_by": "events"}, "split_by is 'events'; expected 'time' or 'number'"),
        ({"size": (99, 8)}, r"size is \(99, 8\)"),
        ({"size": 8}, "size is 8"),
        ({"workers": -1}, "workers is -1; expected a whole number of processes"),
        ({"workers": 1.5}, r"workers is 1\.5"),
    ],
)
def test_wrong_arguments(folder, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        FrameCache(EventFolder(folder), root=tmp_path, **arguments)


def test_frames_that_take_much_memory(folder, tmp_path, monkeypatch):
    """20 x 16 pixels of four bytes are 2,560 bytes a frame; a batch of 16 recordings of 5 is 204,800."""
    monkeypatch.setattr("rsnn.data.frames.memory_bytes", lambda: 4 * 204_800)
    assert len(FrameCache(EventFolder(folder), 5, root=tmp_path)) == 12
    for _ in range(2):  # where the cache is there, too
        with pytest.warns(UserWarning, match=r"6 frames of 20 x 16 pixels take .* a batch of 16 recordings .* GB"):
            cached = FrameCache(EventFolder(folder), 6, root=tmp_path)
    assert len(cached) == 12
    with pytest.raises(InputError, match=r"321 frames of 20 x 16 pixels take 821,760 bytes as float32, more than"):
        FrameCache(EventFolder(folder), 321, root=tmp_path)


def test_a_full_disk(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match="takes 38,400 bytes and 1,000 are free"):
        FrameCache(EventFolder(folder), 5, root=tmp_path / "cache")


def test_a_folder_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be written .*RSNN_CACHE .*--set data\.cache=false"):
        FrameCache(EventFolder(folder), 5, root=tmp_path / "file")


def test_default_roots(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("RSNN_CACHE", raising=False)
    assert FrameCache(EventFolder(folder), 5).folder.parent == tmp_path / "xdg" / "rsnn" / "frames"
    monkeypatch.setenv("RSNN_CACHE", str(tmp_path / "own"))
    assert FrameCache(EventFolder(folder), 5).folder.parent == tmp_path / "own" / "frames"


BUILD = """
import sys, time
from rsnn.data import EventFolder, FrameCache, cache
frame = cache._Frames._frames
def slow(self, index):
    time.sleep(float(sys.argv[3]))
    return frame(self, index)
cache._Frames._frames = slow
if __name__ == "__main__":
    print("ready", flush=True)
    cached = FrameCache(EventFolder(sys.argv[1]), 5, root=sys.argv[2], workers=int(sys.argv[4]))
    print(cached.folder, int(cached.frames.sum()), flush=True)
"""


def start(folder, root, pause, workers):
    command = [sys.executable, "-c", BUILD, str(folder), str(root), str(pause), str(workers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
def test_two_processes_at_once_and_one_that_was_killed(folder, tmp_path):
    """A build is killed half-way; two processes then build at once, and one of them waits for the other."""
    root, total = tmp_path / "cache", sum(200 + index for index in range(12))
    for workers in (0, 2):
        killed = start(folder, root, 0.5, workers)
        until(lambda: any(path.name.startswith(".data") and path.is_dir() for path in root.glob(".*")))
        time.sleep(0.7)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.communicate()
    assert [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")] == []
    both = [start(folder, root, 0.2, 0) for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert said[0] == said[1]
    assert said[0].split()[-1] == str(total)
    (made,) = [path for path in root.iterdir() if path.is_dir()]
    assert sorted(path.name for path in made.iterdir()) == ["frames.bin", "meta.json"]


def until(happened, seconds=60):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_long_builds_get_processes(folder, tmp_path, monkeypatch):
    """This process begins; what would take too long goes to others."""
    used = []
    loader = torch.utils.data.DataLoader
    monkeypatch.setattr(
        "torch.utils.data.DataLoader", lambda rest, **options: (used.append(len(rest)), loader(rest, **options))[1]
    )
    monkeypatch.setattr(cache, "_processors", lambda: 2)
    monkeypatch.setattr(cache, "PATIENCE_S", 0.0)
    FrameCache(EventFolder(folder), 5, root=tmp_path / "short")
    assert used == []
    monkeypatch.setattr(cache, "WORTH_WORKERS_S", 0.0)
    cached = FrameCache(EventFolder(folder), 5, root=tmp_path / "long")
    assert used == [11]
    assert cached.frames.sum() == sum(200 + index for index in range(12))
    monkeypatch.setattr(cache, "_processors", lambda: 1)
    FrameCache(EventFolder(folder), 5, root=tmp_path / "alone")
    assert used == [11]


@dataclasses.dataclass(frozen=True)
class Failing(transforms.Transform):
    def __call__(self, events, rng):
        raise RuntimeError("mine")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_transform_is_its_own(folder, tmp_path, workers):
    data = transforms.Transformed(EventFolder(folder), Failing())
    with pytest.raises(RuntimeError, match="mine") as caught:
        FrameCache(data, 5, root=tmp_path / "cache", workers=workers)
    assert not isinstance(caught.value, RecordingError)
