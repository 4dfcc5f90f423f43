from __future__ import annotations

import errno
import os
import pickle
import shutil
import sys
from pathlib import Path

import miniatures
import numpy as np
import pytest
import writers
from made import random_events
from miniatures import LABELS, md5, recording, serving
from oracles import spikingjelly_cifar10dvs

from rsnn.data import CIFAR10DVS, NMNIST, DVS128Gesture, EventFolder, FrameCache, read_events, write_events
from rsnn.data.datasets import archives, cifar10dvs, gesture, nmnist
from rsnn.errors import InputError, RecordingError


def folders(root):
    """Folders that a data set may be read from: those with a plain name."""
    return sorted(path.name for path in root.iterdir() if path.is_dir() and path.name[0] != "." and path.name != "made")


# ---------------------------------------------------------------------------------------------------- splits


def test_the_official_parts_of_dvs128_gesture():
    """98 and 24 recordings of 23 and 6 people, twelve gestures each: 1,176 and 288 samples."""
    train, test = gesture.RECORDINGS["train"], gesture.RECORDINGS["test"]
    assert (len(train), len(test)) == (98, 24)
    assert 12 * len(train) == gesture.SAMPLES["train"] == 1176
    assert 12 * len(test) == gesture.SAMPLES["test"] == 288
    assert {name[:6] for name in train} == {f"user{n:02}" for n in range(1, 24)}
    assert {name[:6] for name in test} == {f"user{n}" for n in range(24, 30)}
    assert train == sorted(set(train))
    assert "user01_natural" in train
    assert "user12_fluorescent" not in train
    assert test[:5] == [
        "user24_fluorescent", "user24_fluorescent_led", "user24_led", "user25_fluorescent", "user25_led"
    ]  # fmt: skip


def test_the_parts_of_cifar10dvs():
    """As SpikingJelly's `split_to_train_test_set(0.9, ...)`: the first 900 of each class in the order of names."""
    train, test = cifar10dvs.split_ids("train"), cifar10dvs.split_ids("test")
    assert (len(train), len(test)) == (9000, 1000)
    assert train[:4] == [f"cifar10_airplane_{n}" for n in (0, 1, 10, 100)]
    assert not set(train) & set(test)
    assert sorted(train + test) == sorted(cifar10dvs.split_ids("all"))
    airplanes = sorted(f"cifar10_airplane_{n}" for n in range(1000))
    assert test[:100] == airplanes[900:]


# ---------------------------------------------------------------------------------------------------- DVS128 Gesture


def check_gestures(root):
    train, test = DVS128Gesture(root, "train"), DVS128Gesture(root, "test")
    assert [(d.name, d.split, d.split_name) for d in (train, test)] == [
        ("DVS128Gesture", "train", "official"), ("DVS128Gesture", "test", "official")
    ]  # fmt: skip
    assert (len(train), len(test)) == (8, 4)
    assert train.class_names == gesture.CLASS_NAMES
    assert train.labels.tolist() == [0, 0, 7, 7, 7, 7, 10, 10]
    assert train.ids[:4] == ["user01_led_0:0", "user02_lab_0:0", "user01_led_0:7", "user01_led_1:7"]
    for data in (train, test):
        for index, (name, label) in enumerate(zip(data.ids, data.labels, strict=True)):
            person, number = name.split(":")[0].rsplit("_", 1)
            start, end = [span[1:] for span in LABELS if span[0] == label + 1][int(number)]
            events, item_label = data[index]
            assert events == recording(person).between(start, end)
            assert item_label == label


def test_gestures_from_the_archive(tmp_path, monkeypatch):
    check_gestures(miniatures.gesture_archive(tmp_path, monkeypatch))
    assert folders(tmp_path) == ["DvsGesture", "DvsGesture-samples-1"]
    shutil.rmtree(tmp_path / "DvsGesture")
    (tmp_path / "DvsGesture.tar.gz").unlink()
    check_gestures(tmp_path)  # what was cut is enough


def test_gestures_from_the_unpacked_folder(tmp_path, monkeypatch):
    miniatures.expect_gestures(monkeypatch)
    miniatures.gesture_folder(tmp_path / "DvsGesture")
    check_gestures(tmp_path)


def test_gestures_from_a_root_that_is_the_unpacked_folder(tmp_path, monkeypatch):
    miniatures.expect_gestures(monkeypatch)
    check_gestures(miniatures.gesture_folder(tmp_path / "DvsGesture"))
    assert folders(tmp_path / "DvsGesture") == ["DvsGesture-samples-1"]


def test_gestures_of_spikingjelly(tmp_path, monkeypatch):
    """Its folders: `download` with the archive, `extract` with what it unpacked, `events_np` with what it cut."""
    made = miniatures.gesture_archive(tmp_path / "a", monkeypatch) if (tmp_path / "a").mkdir() is None else None
    (tmp_path / "b" / "download").mkdir(parents=True)
    (made / "DvsGesture.tar.gz").rename(tmp_path / "b" / "download" / "DvsGesture.tar.gz")
    check_gestures(tmp_path / "b")
    (tmp_path / "c" / "extract").mkdir(parents=True)
    shutil.move(made / "made" / "DvsGesture", tmp_path / "c" / "extract" / "DvsGesture")
    check_gestures(tmp_path / "c")
    for split, names in miniatures.RECORDINGS.items():
        for name in names:
            numbers = dict.fromkeys(range(11), 0)
            for label, start, end in LABELS:
                folder = tmp_path / "d" / "events_np" / split / str(label - 1)
                folder.mkdir(parents=True, exist_ok=True)
                piece = recording(name).between(start, end)
                columns = {column: getattr(piece, column) for column in "txyp"}
                np.savez(folder / f"{name}_{numbers[label - 1]}.npz", **columns)
                numbers[label - 1] += 1
    check_gestures(tmp_path / "d")
    next((tmp_path / "d" / "events_np" / "train").glob("*/*.npz")).unlink()
    with pytest.raises(RecordingError, match="events_np/train holds 7 samples; expected 8 of the form"):
        DVS128Gesture(tmp_path / "d", "train")


def test_gestures_of_tonic(tmp_path):
    """Arrays of x, y, p and milliseconds, by person and class, which are another cut."""
    for split, name, label in (("Train", "user01_led", 10), ("Train", "user01_led", 2), ("Test", "user24_led", 0)):
        folder = tmp_path / "DVSGesture" / f"ibmGesture{split}" / name
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{label}.npy", np.array([[3.0, 4.0, 1.0, 7.0], [5.0, 127.0, 0.0, 9.0]]))
    (folder.parent.parent / "ibmGestureTrain" / "user01_led" / "._2.npy").write_bytes(b"of a Mac")
    train = DVS128Gesture(tmp_path, "train")
    assert train.split_name == "tonic"
    assert train.ids == ["user01_led_0:2", "user01_led_0:10"]
    assert train.labels.tolist() == [2, 10]
    events, _ = train[0]
    assert [tuple(row) for row in events.to_structured().tolist()] == [(7000, 3, 4, 1), (9000, 5, 127, 0)]
    assert len(DVS128Gesture(tmp_path / "DVSGesture", "test")) == 1
    (folder / "0.npy").write_bytes(b"\x93NUMPY damaged")
    with pytest.raises(RecordingError, match=r"0\.npy cannot be read"):
        DVS128Gesture(tmp_path, "test")[0]


@pytest.mark.parametrize("download", [False, True])
def test_where_the_gestures_have_to_be_put(tmp_path, download):
    """There is no address of the file itself: the message says which file to put where, and its checksum."""
    with pytest.raises(RecordingError) as caught:
        DVS128Gesture(tmp_path, "train", download=download)
    assert str(caught.value) == (
        f"{tmp_path} lacks 1 of 1 files; expected them there: download them with a browser and put them at\n"
        f"  {tmp_path}/DvsGesture.tar.gz  (md5 8a5c71fb11e24e5ca5b11866ca6c00a1) from "
        f"https://ibm.ent.box.com/s/3hiq58ww1pbbjrinh367ykfdf60xsfm8/folder/50167556794: its page has to be "
        "opened in a browser"
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "user02_lab.aedat").unlink(), r"user02_lab\.aedat does not exist"),
        (lambda f: (f / "user02_lab_labels.csv").unlink(), r"user02_lab_labels\.csv cannot be read"),
        (lambda f: (f / "user02_lab_labels.csv").write_text("a\n1,2\n"), r"user02_lab_labels\.csv cannot be read"),
        (
            lambda f: (f / "user02_lab_labels.csv").write_text("a\n1,0,5\n12,7,9\n"),
            "row 3 has the class 12; expected 1",
        ),
        (
            lambda f: (f / "user02_lab.aedat").write_bytes((f / "user02_lab.aedat").read_bytes()[:-5]),
            r"user02_lab\.aedat \(AEDAT 3\.1\): the file is truncated",
        ),
        (lambda f: (f / "user02_lab_labels.csv").write_text("a\n1,0,9000\n"), "holds 5 samples; expected 8"),
    ],
)
def test_damaged_gestures(tmp_path, monkeypatch, damage, message):
    """The file is named, and nothing half-made stays behind."""
    miniatures.expect_gestures(monkeypatch)
    damage(miniatures.gesture_folder(tmp_path / "DvsGesture"))
    with pytest.raises(RecordingError, match=message):
        DVS128Gesture(tmp_path, "train")
    if "samples" not in message:
        assert folders(tmp_path) == ["DvsGesture"]
        assert not list(tmp_path.glob(".*partial*"))


def test_an_archive_that_is_not_the_official_one(tmp_path, monkeypatch):
    miniatures.gesture_archive(tmp_path, monkeypatch)
    path = tmp_path / "DvsGesture.tar.gz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(RecordingError, match=r"DvsGesture\.tar\.gz has the md5 [0-9a-f]{32}; expected"):
        DVS128Gesture(tmp_path, "train")
    monkeypatch.setattr(gesture, "ARCHIVE", gesture.ARCHIVE._replace(md5=md5(path)))
    with pytest.raises(RecordingError, match=r"DvsGesture\.tar\.gz cannot be unpacked"):
        DVS128Gesture(tmp_path, "train")
    assert folders(tmp_path) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_killed_at_any_step(tmp_path, monkeypatch):
    """A process ends at its k-th change of the file system, for every k: the next one always gets whole data."""
    root = miniatures.gesture_archive(tmp_path, monkeypatch)
    whole = {"DvsGesture": 8, "DvsGesture-samples-1": 12}  # files in each
    steps = 0
    while killed_at_step(steps, lambda: DVS128Gesture(root, "train")):
        for name in folders(root):
            found = [path for path in (root / name).rglob("*") if path.is_file()]
            assert len(found) == whole[name]
        steps += 1
        if steps % 7 == 0:  # begin again from nothing now and then, so that later steps are reached
            for name in whole:
                shutil.rmtree(root / name, ignore_errors=True)
    assert steps > 30
    check_gestures(root)
    assert not list(root.glob(".*partial*"))


def killed_at_step(step, work):
    """Run `work` in a copy of this process that ends hard at its `step`-th change of the file system; tell if so."""
    child = os.fork()
    if child == 0:
        done = 0

        def count(event, args):
            nonlocal done
            writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
            if writes or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod"):
                done += 1
                if done > step:
                    os._exit(9)

        try:
            sys.addaudithook(count)
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


# ---------------------------------------------------------------------------------------------------- CIFAR10-DVS


def check_cifar10dvs(root):
    train, test = CIFAR10DVS(root, "train"), CIFAR10DVS(root, "test")
    assert (len(train), len(test)) == (90, 10)
    assert train.split_name == "per-class-90-10"
    assert train.ids == cifar10dvs.split_ids("train")
    assert np.bincount(train.labels).tolist() == [9] * 10
    assert test.ids[0] == "cifar10_airplane_9"
    for data in (train, test):
        for index in range(0, len(data), 7):
            _, name, number = data.ids[index].split("_")
            assert data[index] == (
                miniatures.cifar10dvs_events(name, int(number)),
                cifar10dvs.CLASS_NAMES.index(name),
            )
    assert len(CIFAR10DVS(root, "all")) == 100


def test_cifar10dvs_from_the_archives(tmp_path, monkeypatch):
    miniatures.cifar10dvs_archives(tmp_path, monkeypatch)
    check_cifar10dvs(tmp_path)
    assert folders(tmp_path) == sorted(cifar10dvs.CLASS_NAMES)
    shutil.rmtree(tmp_path / "cat")
    check_cifar10dvs(tmp_path)  # the missing one is unpacked again
    (tmp_path / "cat" / "cifar10_cat_3.aedat").unlink()
    with pytest.raises(RecordingError, match="holds 89 of the 90 samples of CIFAR10DVS and not 'cifar10_cat_3'"):
        CIFAR10DVS(tmp_path, "train")


def test_cifar10dvs_of_spikingjelly(tmp_path, monkeypatch):
    miniatures.cifar10dvs_archives(tmp_path, monkeypatch)
    CIFAR10DVS(tmp_path, "all")
    for name in cifar10dvs.CLASS_NAMES:
        (tmp_path / "sj" / "events_np" / name).mkdir(parents=True)
        for path in (tmp_path / name).iterdir():
            events = read_events(path)
            upright = {"t": events.t, "x": 127 - events.y, "y": 127 - events.x, "p": events.p}
            np.savez(tmp_path / "sj" / "events_np" / name / f"{path.stem}.npz", **upright)
        (tmp_path / "unpacked" / "extract").mkdir(parents=True, exist_ok=True)
        (tmp_path / name).rename(tmp_path / "unpacked" / "extract" / name)
    check_cifar10dvs(tmp_path / "sj")
    check_cifar10dvs(tmp_path / "unpacked")


def test_spikingjelly_turns_the_images_as_we_turn_them_back(tmp_path):
    """Its own loader of an AEDAT 2.0 file and ours of what it saved agree."""
    writers.write_aedat20(tmp_path / "clip.aedat", miniatures.cifar10dvs_events("cat", 1))
    spikingjelly_cifar10dvs()._read_aedat_save_to_np(tmp_path / "clip.aedat", tmp_path / "clip.npz")
    assert cifar10dvs.read_spikingjelly(tmp_path / "clip.npz") == miniatures.cifar10dvs_events("cat", 1)


# ---------------------------------------------------------------------------------------------------- N-MNIST


def check_nmnist(root):
    train, test = NMNIST(root, "train"), NMNIST(root, "test")
    assert (len(train), len(test)) == (20, 10)
    assert train.split_name == "official"
    assert train.labels.tolist() == [digit for digit in range(10) for _ in range(2)]
    assert train.ids[:3] == ["train/0/00000", "train/0/00010", "train/1/00001"]
    for index in range(20):
        events, digit = train[index]
        assert events == miniatures.nmnist_events("train", digit, index % 2)
        assert digit == index // 2
    assert test[3] == (miniatures.nmnist_events("test", 3, 0), 3)


def test_nmnist_from_the_archives(tmp_path, monkeypatch):
    miniatures.nmnist_archives(tmp_path, monkeypatch)
    check_nmnist(tmp_path)
    assert folders(tmp_path) == ["Test", "Train"]
    next((tmp_path / "Train" / "4").iterdir()).unlink()
    with pytest.raises(RecordingError, match=r"Train holds 19 samples; expected 20"):
        NMNIST(tmp_path, "train")


def test_archives_in_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    """The lock has no place, or the disk is full; the archive, which is whole, is not to be downloaded again."""
    miniatures.nmnist_archives(tmp_path, monkeypatch)
    (tmp_path / ".Train.lock").mkdir()
    with pytest.raises(
        InputError, match=r"Train cannot be made \(Is a directory\); expected a root with room that this"
    ):
        NMNIST(tmp_path, "train")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archives.shutil, "copyfileobj", full)
    with pytest.raises(InputError, match=r"Test cannot be made \(No space left on device\)"):
        NMNIST(tmp_path, "test")
    assert folders(tmp_path) == []


@pytest.mark.parametrize("where", ["NMNIST", "extract", "download"])
def test_nmnist_of_others(tmp_path, monkeypatch, where):
    """Tonic's `NMNIST`, SpikingJelly's `extract` and `download`."""
    miniatures.nmnist_archives(tmp_path, monkeypatch)
    (tmp_path / "new" / where).mkdir(parents=True)
    if where == "download":
        for archive in nmnist.ARCHIVES.values():
            (tmp_path / archive.name).rename(tmp_path / "new" / where / archive.name)
    else:
        for split in nmnist.SPLITS:
            NMNIST(tmp_path, split)
            (tmp_path / nmnist.FOLDERS[split]).rename(tmp_path / "new" / where / nmnist.FOLDERS[split])
    check_nmnist(tmp_path / "new")


def test_nmnist_as_spikingjelly_converts_it(tmp_path, monkeypatch):
    miniatures.nmnist_archives(tmp_path, monkeypatch)
    for split in nmnist.SPLITS:
        data = NMNIST(tmp_path, split)
        for index, sample in enumerate(data.samples):
            folder = tmp_path / "new" / "events_np" / split / str(sample.label)
            folder.mkdir(parents=True, exist_ok=True)
            events = data.events(index)
            np.savez(folder / f"{sample.path.stem}.npz", t=events.t, x=events.x, y=events.y, p=events.p)
    check_nmnist(tmp_path / "new")


# ---------------------------------------------------------------------------------------------------- downloads


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A server with N-MNIST's archives, which the loader takes for the public one."""
    (tmp_path / "host").mkdir()
    miniatures.nmnist_archives(tmp_path / "host", monkeypatch)
    with serving(tmp_path / "host") as server:
        changed = {name: a._replace(url=server.url(a.name)) for name, a in nmnist.ARCHIVES.items()}
        monkeypatch.setattr(nmnist, "ARCHIVES", changed)
        yield server


def test_downloads(tmp_path, host):
    with pytest.raises(
        RecordingError, match="expected them there: pass download=True, or download them with a browser"
    ):
        NMNIST(tmp_path / "data", "train")
    assert len(NMNIST(tmp_path / "data", "train", download=True)) == 20
    assert len(NMNIST(tmp_path / "data", "test", download=True)) == 10
    assert host.requests == [("Train.zip", None), ("Test.zip", None)]
    check_nmnist(tmp_path / "data")


@pytest.mark.parametrize("ranges", [True, False])
def test_downloads_go_on(tmp_path, host, ranges):
    """The connection breaks again and again: every call goes on, if the host can, and else begins anew."""
    host.ranges = ranges
    size = (tmp_path / "host" / "Train.zip").stat().st_size
    host.break_after = size // 3
    for attempt in range(2):
        message = rf"the download failed \(the connection ended after {size // 3 * (attempt + 1 if ranges else 1)} of"
        with pytest.raises(RecordingError, match=message) as caught:
            NMNIST(tmp_path / "data", "train", download=True)
        assert (
            f"  {tmp_path}/data/Train.zip  (md5 {nmnist.ARCHIVES['train'].md5}) from {host.url('Train.zip')}: "
            in str(caught.value)
        )
        assert not (tmp_path / "data" / "Train.zip").exists()
    host.break_after = None
    assert len(NMNIST(tmp_path / "data", "train", download=True)) == 20
    third = size // 3
    assert host.requests[1:] == [
        ("Train.zip", f"bytes={third}-"),
        ("Train.zip", f"bytes={2 * third if ranges else third}-"),
    ]


def test_downloads_of_something_else(tmp_path, host):
    """Another file under the address, none, or no host: the message names the file to get and where to put it."""
    good = (tmp_path / "host" / "Train.zip").read_bytes()
    (tmp_path / "host" / "Train.zip").write_bytes(b"<html>Please log in</html>")
    with pytest.raises(RecordingError, match=r"what came is not the file \(.* has the md5 [0-9a-f]{32}; expected"):
        NMNIST(tmp_path / "data", "train", download=True)
    assert not [path for path in (tmp_path / "data").iterdir() if path.suffix != ".lock"]
    (tmp_path / "data" / "Train.zip.part").write_bytes(good)  # all of it came before, and the process was killed
    (tmp_path / "host" / "Train.zip").write_bytes(good)
    assert len(NMNIST(tmp_path / "data", "train", download=True)) == 20
    (tmp_path / "host" / "Test.zip").unlink()
    with pytest.raises(
        RecordingError, match=r"(?s)lacks 1 of 1 files.*Test\.zip.*the download failed \(HTTP Error 404"
    ):
        NMNIST(tmp_path / "data", "test", download=True)
    host.shutdown()
    host.server_close()
    with pytest.raises(RecordingError, match=r"the download failed \(<urlopen error"):
        NMNIST(tmp_path / "data", "test", download=True)


def test_every_missing_archive_is_listed(tmp_path, monkeypatch):
    miniatures.cifar10dvs_archives(tmp_path, monkeypatch)
    for name in ("cat.zip", "dog.zip"):
        (tmp_path / name).unlink()
    CLOSED = "http://127.0.0.1:9"
    changed = tuple(archive._replace(url=f"{CLOSED}/{archive.name}") for archive in cifar10dvs.ARCHIVES)
    monkeypatch.setattr(cifar10dvs, "ARCHIVES", changed)
    with pytest.raises(RecordingError) as caught:
        CIFAR10DVS(tmp_path, "train", download=True)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{tmp_path} lacks 2 of 10 files; expected them there")
    assert [line.split()[0] for line in lines[1:]] == [f"{tmp_path}/cat.zip", f"{tmp_path}/dog.zip"]


@pytest.mark.parametrize("name", ["../out.txt", "/out.txt", "a/../../out.txt", "C:\\out.txt", "a\\..\\out.txt"])
def test_archives_write_nothing_outside(tmp_path, name):
    path = tmp_path / "in" / "a.tar.gz"
    path.parent.mkdir()
    path.write_bytes(miniatures.tar_of([name]))
    with pytest.raises(RecordingError, match="expected names below its own folder"):
        archives.unpack(path, tmp_path / "in" / "folder")
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


def test_links_in_archives_are_left_out(tmp_path):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(miniatures.tar_of(["a/b"], links={"a/passwd": "/etc/passwd"}))
    archives.unpack(path, tmp_path / "folder")
    assert [file.name for file in (tmp_path / "folder").rglob("*")] == ["a", "b"]


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 no zip", b"\x1f\x8b\x08 no gzip", b"nothing at all"])
def test_archives_that_are_none(tmp_path, data):
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    with pytest.raises(RecordingError, match=r"a\.zip cannot be unpacked.*download it again"):
        archives.unpack(path, tmp_path / "folder")


def test_archives_with_a_wrong_byte(tmp_path):
    """What is compressed is damaged, and what says so depends on the place."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.bin").write_bytes(np.random.default_rng(1).integers(0, 4, 4000, np.uint8).tobytes())
    path = Path(shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path, "files"))
    whole = path.read_bytes()
    for place in range(150, 1150, 50):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with pytest.raises(RecordingError, match=r"a\.zip cannot be unpacked.*download it again"):
            archives.unpack(path, tmp_path / "folder")


# ---------------------------------------------------------------------------------------------------- your own folder


def write_clips(root, names, size=(34, 30)):
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_events(path, random_events(np.random.default_rng(number), 50, size))


def test_a_folder_for_each_class(tmp_path):
    """Any format, hidden files left out, classes in the order of their names."""
    write_clips(tmp_path, ["wave/1.npz", "clap/2.aedat", "clap/b.csv", "wave/a.es"])
    (tmp_path / "wave" / ".DS_Store").write_bytes(b"x")
    (tmp_path / ".git").mkdir()
    data = EventFolder(tmp_path, sensor_size=(34, 30))
    assert data.class_names == ("clap", "wave")
    assert data.ids == ["clap/2.aedat", "clap/b.csv", "wave/1.npz", "wave/a.es"]
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert (data.name, data.split, data.split_name) == (tmp_path.name, "all", "none")
    for index, number in enumerate((1, 2, 0, 3)):
        assert data[index][0] == random_events(np.random.default_rng(number), 50, (34, 30))
    assert repr(data) == f"<{tmp_path.name} all (none): 4 recordings, 2 classes>"
    assert pickle.loads(pickle.dumps(data)).ids == data.ids


def test_folders_for_parts(tmp_path):
    write_clips(tmp_path, ["train/wave/1.npz", "train/clap/2.npz", "test/wave/3.npz"])
    assert EventFolder(tmp_path, "train").ids == ["train/clap/2.npz", "train/wave/1.npz"]
    test = EventFolder(tmp_path, "test")
    assert test.labels.tolist() == [1]  # of all parts' classes
    assert test.split_name == "folders"
    assert len(EventFolder(tmp_path)) == 3
    with pytest.raises(InputError, match=r"split is 'tset'; expected one of all, test, train. Did you mean 'test'"):
        EventFolder(tmp_path, "tset")


def test_a_table(tmp_path):
    write_clips(tmp_path, ["x/1.npz", "x/2.npz", "3.csv"])
    (tmp_path / "manifest.csv").write_text(
        "path,label,split\nx/2.npz,wave,train\n3.csv,clap,test\nx/1.npz,clap,train\n"
    )
    data = EventFolder(tmp_path, "train")
    assert data.ids == ["x/2.npz", "x/1.npz"]
    assert data.labels.tolist() == [1, 0]
    assert EventFolder(tmp_path, "test").ids == ["3.csv"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,class\n", r"has the columns \['file', 'class'\]; expected path and label"),
        ("", r"has the columns \[\]; expected path and label"),
        ("path,label\nx/9.npz,wave\n", r"row 2 names '.*x/9\.npz' of class 'wave'; expected a file that is there"),
        ("path,label\nx/1.npz,\n", "row 2 names .* of class ''"),
        ("path,label\nx/1.npz,a\nx/1.npz,b\n", r"x/1\.npz' twice"),
        ("path,label\nx/1.npz,a\nx/../x/1.npz,b\n", r"x/1\.npz' twice"),
        ("path,label\n", "holds no recordings"),
    ],
)
def test_tables_that_are_wrong(tmp_path, table, message):
    write_clips(tmp_path, ["x/1.npz"])
    (tmp_path / "manifest.csv").write_text(table)
    with pytest.raises(RecordingError, match=message):
        EventFolder(tmp_path)


def test_spaces_in_a_table_are_no_part_of_its_texts(tmp_path):
    """A class would else be two."""
    write_clips(tmp_path, ["x/1.npz", "2.npz"])
    (tmp_path / "manifest.csv").write_text("path, label ,split\nx/1.npz, wave, train\n2.npz ,wave,train \n")
    data = EventFolder(tmp_path, "train")
    assert data.class_names == ("wave",)
    assert data.ids == ["x/1.npz", "2.npz"]


def test_a_table_of_files_that_lie_anywhere(tmp_path, monkeypatch):
    """Absolute paths, in the folder and outside it; an id is the way from the folder, however that is given."""
    root = tmp_path / "data"
    write_clips(tmp_path, ["data/x/1.npz", "elsewhere/2.npz", "data/3.npz"])
    (root / "manifest.csv").write_text(
        f"path,label\n{root}/x/1.npz,a\n{tmp_path}/elsewhere/2.npz,b\n../elsewhere/../data/3.npz,a\n"
    )
    monkeypatch.chdir(tmp_path)
    for given in (root, "data", "./data/../data"):
        data = EventFolder(given)
        assert data.ids == ["x/1.npz", "../elsewhere/2.npz", "3.npz"]
        assert [len(events) for events, _ in data] == [50, 50, 50]
    (root / "manifest.csv").write_text(f"path,label\n{root}/x/1.npz,a\nx/1.npz,a\n")
    with pytest.raises(RecordingError, match=r"x/1\.npz' twice"):
        EventFolder("data")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_tables_that_are_not_utf_8(tmp_path, encoding):
    write_clips(tmp_path, ["x/1.npz"])
    (tmp_path / "manifest.csv").write_text("path,label\nx/1.npz,gr\u00fc\u00dfen\n", encoding=encoding)
    with pytest.raises(RecordingError, match=r"manifest\.csv cannot be read .*expected a table of commas in UTF-8"):
        EventFolder(tmp_path)


def test_one_sensor_for_all(tmp_path):
    """What the files say must agree; where they do not say it, the largest coordinates of all decide."""
    write_clips(tmp_path / "said", ["a/1.npz", "b/2.npz"])
    assert EventFolder(tmp_path / "said").sensor_size == (34, 30)
    write_clips(tmp_path / "said", ["a/3.npz"], (40, 40))
    with pytest.raises(RecordingError, match=r"says a sensor of \(34, 30\) and .* of \(40, 40\); expected one sensor"):
        EventFolder(tmp_path / "said")
    write_clips(tmp_path / "silent", ["a/1.bin"], (34, 34))
    write_clips(tmp_path / "silent", ["b/2.bin"], (200, 170))
    data = EventFolder(tmp_path / "silent")
    assert data.sensor_size == (240, 180)
    assert data[0][0].sensor_size == (240, 180)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(RecordingError, match="is no folder; expected one with a folder of recordings for each class"):
        EventFolder(tmp_path / "none")
    with pytest.raises(RecordingError, match="holds no recordings; expected <class>/<recording>, or <part>/<class>/"):
        EventFolder(tmp_path)
    write_clips(tmp_path / "class", ["1.npz", "2.npz"])
    with pytest.raises(RecordingError, match=r"files in .*class itself, here 2, are of no class"):
        EventFolder(tmp_path / "class")
    (tmp_path / "class").rename(tmp_path / ".class")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("not a recording\n")
    with pytest.raises(RecordingError, match=r"notes\.txt begins with"):
        EventFolder(tmp_path)


def test_a_part_of_another_name_is_not_left_out(tmp_path):
    write_clips(tmp_path, ["train/a/1.npz", "train/b/2.npz", "runs/model/3.npz", "test/a/3.npz"])
    assert len(EventFolder(tmp_path)) == 3
    write_clips(tmp_path, ["val/b/4.npz"])
    with pytest.raises(RecordingError, match=r"the parts train, test and beside them 'val' .* but train, validation,"):
        EventFolder(tmp_path, "train")


def test_a_link_that_leads_nowhere_is_not_left_out(tmp_path):
    write_clips(tmp_path, ["a/1.npz"])
    (tmp_path / "a" / "2.npz").symlink_to(tmp_path / "elsewhere" / "2.npz")
    with pytest.raises(RecordingError, match=r"a/2\.npz does not exist"):
        EventFolder(tmp_path)


# ---------------------------------------------------------------------------------------------------- what all have


def test_selections(tmp_path):
    write_clips(tmp_path, ["a/1.npz", "a/2.npz", "b/3.npz"])
    data = EventFolder(tmp_path)
    chosen = data.select(["b/3.npz", "a/1.npz"], "validation", "mine")
    assert chosen.ids == ["b/3.npz", "a/1.npz"]
    assert chosen.labels.tolist() == [1, 0]
    assert (chosen.split, chosen.split_name, chosen.class_names) == ("validation", "mine", ("a", "b"))
    assert chosen[0][0] == data[2][0]
    with pytest.raises(InputError, match=r"has no sample 'a/9\.npz'\. Did you mean"):
        data.select(["a/9.npz"], "x", "y")
    assert [label for _, label in data] == [0, 0, 1]
    assert data[-1][1] == 1
    with pytest.raises(IndexError):
        data[3]


@pytest.mark.parametrize("dataset", [DVS128Gesture, CIFAR10DVS, NMNIST])
def test_splits_that_are_none(tmp_path, dataset):
    with pytest.raises(InputError, match=r"split is 'tets'; expected one of train, test.*Did you mean 'test'"):
        dataset(tmp_path, "tets")


def test_from_the_archive_to_cached_frames(tmp_path, monkeypatch):
    root = miniatures.gesture_archive(tmp_path, monkeypatch)
    cached = FrameCache(DVS128Gesture(root, "test"), 4, size=(32, 32), root=tmp_path / "cache")
    assert (cached.name, cached.split, cached.split_name) == ("DVS128Gesture", "test", "official")
    assert cached.frames.shape == (4, 4, 2, 32, 32)
    assert cached.frames.sum() == sum(len(recording("user24_led").between(*span[1:])) for span in LABELS)
