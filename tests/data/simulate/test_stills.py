"""Many stills at once, the stand-in for CIFAR10-DVS, and `rsnn simulate` as a user runs it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import rsnn
from rsnn.cli import app
from rsnn.data import EventFolder, read_events
from rsnn.data.datasets import cifar10dvs as official
from rsnn.data.simulate import SimulatedCIFAR10DVS, build_cifar10dvs, cifar10dvs, moving_image, record_images, to_events
from rsnn.errors import InputError, RecordingError
from rsnn.training.sources import open_part

SMALL = {"size": (24, 20), "loops": 1}


def save_pictures(folder, classes=("cat", "ship"), number=2, side=8, seed=0):
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for k in range(number):
            Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(folder / name / f"{k:04}.png")
    return folder


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
    return path


@pytest.fixture
def pictures(tmp_path):
    return save_pictures(tmp_path / "pictures")


def test_a_folder_of_pictures_becomes_a_data_set(pictures, tmp_path):
    done = []
    record_images(pictures, tmp_path / "out", "clean", seed=4, jobs=1, on_progress=done.append, **SMALL)
    data = EventFolder(tmp_path / "out")
    assert data.class_names == ("cat", "ship")
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert data.sensor_size == (24, 20)
    assert done == [1, 2, 3, 4]
    # Each is what its picture gives by itself, with a seed of its own.
    alone = to_events(moving_image(pictures / "ship" / "0001.png", **SMALL), "clean", seed=(4, *b"ship/0001.png"))
    assert np.array_equal(data.events(3).t, alone.t)
    assert np.array_equal(data.events(3).x, alone.x)


def test_a_zip_gives_what_its_folder_gives(pictures, tmp_path):
    record_images(pictures, tmp_path / "a", jobs=1, suffix=".npz", **SMALL)
    record_images(zipped(pictures, tmp_path / "p.zip"), tmp_path / "b", jobs=1, suffix=".npz", **SMALL)
    for path in (tmp_path / "a").rglob("*.npz"):
        other = read_events(tmp_path / "b" / path.relative_to(tmp_path / "a"))
        assert np.array_equal(read_events(path).t, other.t)


def test_an_interrupted_run_goes_on_where_it_ended(pictures, tmp_path):
    def stop(number):
        if number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_images(pictures, tmp_path / "out", jobs=1, on_progress=stop, **SMALL)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.raw")}
    assert len(made) == 2
    assert not (tmp_path / "out" / "manifest.csv").exists()
    done = []
    record_images(pictures, tmp_path / "out", jobs=1, on_progress=done.append, **SMALL)
    assert done == [3, 4]
    assert all(path.stat().st_mtime_ns == before for path, before in made.items())
    assert len(EventFolder(tmp_path / "out")) == 4
    record_images(pictures, tmp_path / "out", jobs=1, on_progress=done.append, **SMALL)
    assert done == [3, 4]  # nothing is left to do
    assert not list(tmp_path.rglob("*partial*"))


def test_another_way_of_recording_needs_another_folder(pictures, tmp_path):
    record_images(pictures, tmp_path / "out", jobs=1, **SMALL)
    with pytest.raises(InputError, match=r"made with other settings \(seed\)"):
        record_images(pictures, tmp_path / "out", jobs=1, seed=1, **SMALL)
    with pytest.raises(InputError, match=r"made with other settings \(parameters, movement, suffix\)"):
        record_images(pictures, tmp_path / "out", "clean", jobs=1, suffix=".npz")
    with pytest.raises(InputError, match="holds other files"):
        record_images(pictures, pictures, jobs=1, **SMALL)
    (tmp_path / "out" / "simulation.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        record_images(pictures, tmp_path / "out", jobs=1, **SMALL)


def test_other_pictures_need_another_folder(pictures, tmp_path):
    (pictures / "ship" / "0001.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"ship/0001\.png"):
        record_images(pictures, tmp_path / "out", jobs=1, **SMALL)
    Image.new("L", (9, 9)).save(pictures / "ship" / "0001.png")  # it had no recording yet
    Image.new("L", (9, 9)).save(pictures / "ship" / "0002.png")
    record_images(pictures, tmp_path / "out", jobs=1, **SMALL)
    assert len(EventFolder(tmp_path / "out")) == 5
    record_images(zipped(pictures, tmp_path / "p.zip"), tmp_path / "out", jobs=1, **SMALL)  # the same ones
    others = save_pictures(tmp_path / "others", seed=1)
    expected = r"holds recordings of other pictures \(cat/0000.png, .*ship/0002.png\)"
    with pytest.raises(InputError, match=expected):
        record_images(others, tmp_path / "out", jobs=1, **SMALL)
    # Folders of before say nothing of their pictures.
    settings = json.loads((tmp_path / "out" / "simulation.json").read_text())
    assert settings["pictures"].keys() >= {"cat/0000.png", "ship/0002.png"}
    del settings["pictures"]
    (tmp_path / "out" / "simulation.json").write_text(json.dumps(settings))
    record_images(pictures, tmp_path / "out", jobs=1, **SMALL)
    (tmp_path / "out" / "simulation.json").write_text("[1]")
    with pytest.raises(InputError, match="cannot be read"):
        record_images(pictures, tmp_path / "out", jobs=1, **SMALL)


def test_settings_that_recorded_nothing_do_not_count(pictures, tmp_path):
    with pytest.raises(InputError, match="loops"):
        record_images(pictures, tmp_path / "out", jobs=1, suffix=".npz", loops=0)
    record_images(pictures, tmp_path / "out", jobs=1, **SMALL)
    assert len(EventFolder(tmp_path / "out")) == 4
    assert json.loads((tmp_path / "out" / "simulation.json").read_text())["movement"] == {"size": [24, 20], "loops": 1}


def test_numbers_of_numpy_are_settings_as_others_are(pictures, tmp_path):
    record_images(pictures, tmp_path / "out", seed=np.int64(1), jobs=np.int64(1), size=(24, 20), loops=np.int64(1))
    record_images(pictures, tmp_path / "out", seed=1, jobs=1, **SMALL)
    assert len(EventFolder(tmp_path / "out")) == 4


def run_script(text, folder, *arguments):
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, input=text, capture_output=True, text=True, timeout=120
    )


UNGUARDED = """
from rsnn.data import simulate
simulate.record_images("p", "out", jobs=2, size=(24, 20), loops=1)
"""


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_of_it(tmp_path):
    save_pictures(tmp_path / "p", number=5)
    (tmp_path / "script.py").write_text(UNGUARDED)
    for ran in (run_script("", tmp_path, "script.py"), run_script(UNGUARDED, tmp_path, "-")):
        assert ran.returncode == 1
        last = ran.stderr.strip().splitlines()[-1]
        assert "ended before its work was done" in last
        assert 'below `if __name__ == "__main__":`' in last
        assert "jobs=1" in last


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path):
    save_pictures(tmp_path / "p", number=200)
    command = [sys.executable, "-m", "rsnn", "simulate", "p", "out", "--moving", "--jobs", "2"]
    with subprocess.Popen(command, cwd=tmp_path) as started:
        wait_until(lambda: list(tmp_path.glob("out/*/*.raw")))
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
        started.kill()
    assert len(children) >= 2
    wait_until(lambda: not any(is_running(child) for child in children))
    assert not (tmp_path / "out" / "manifest.csv").exists()


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(happens, seconds=60):
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_several_processes_make_what_one_makes(tmp_path):
    save_pictures(tmp_path / "p", number=6)
    record_images(tmp_path / "p", tmp_path / "one", jobs=1, **SMALL)
    done = []
    record_images(tmp_path / "p", tmp_path / "two", jobs=2, on_progress=done.append, **SMALL)
    assert done == list(range(1, 13))
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 14
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    (tmp_path / "p" / "cat" / "bad.png").write_bytes(b"no picture")
    for k in range(9):
        (tmp_path / "p" / "cat" / f"new{k}.png").write_bytes((tmp_path / "p" / "cat" / "0000.png").read_bytes())
    with pytest.raises(InputError, match=r"cat/bad\.png"):
        record_images(tmp_path / "p", tmp_path / "two", jobs=2, **SMALL)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"jobs": 0}, "jobs is 0"),
        ({"jobs": True}, "jobs is True"),
        ({"seed": -1}, "seed is -1"),
        ({"suffix": "npz"}, "suffix is 'npz'"),
        ({"loops": 0}, "^loops is 0"),
        ({"size": (2, 2)}, "^distance is 2.5; .* at most 2, the shorter side of 2 x 2"),
        ({"distance": object()}, "^distance is <object"),
        ({"parameters": "dirty"}, "no preset 'dirty'"),
    ],
)
def test_bad_arguments_are_refused(pictures, tmp_path, arguments, words):
    with pytest.raises(rsnn.errors.RSNNError, match=words):
        record_images(pictures, tmp_path / "out", **arguments)
    with pytest.raises(TypeError, match="'loop'"):
        record_images(pictures, tmp_path / "out", loop=2)
    assert not (tmp_path / "out").exists()


def test_bad_pictures_are_refused(pictures, tmp_path):
    with pytest.raises(InputError, match="neither a folder nor a zip"):
        record_images(tmp_path / "missing", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no pictures"):
        record_images(tmp_path / "empty", tmp_path / "out")
    (pictures / "cat" / "0000.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"cat/0000\.png"):
        record_images(pictures, tmp_path / "out", jobs=1)
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
        archive.writestr("/up.png", b"x")
        archive.writestr("../up.png", b"x")
    with pytest.raises(InputError, match="names that lead out of it"):
        record_images(tmp_path / "out.zip", tmp_path / "other")
    Image.new("L", (9, 9)).save(pictures / "ship" / "0000.jpg")
    with pytest.raises(InputError, match="two pictures that differ in their suffix alone"):
        record_images(pictures, tmp_path / "third")


def damaged(data, change):
    """Return a zip with a part of its only member's header, or its content, changed."""
    data, directory = bytearray(data), data.index(b"PK\x01\x02")
    if change == "content":
        data[60:100] = bytes(byte ^ 0x5A for byte in data[60:100])
    elif change == "encrypted":
        data[6] |= 1
        data[directory + 8] |= 1
    else:
        data[8] = data[directory + 10] = 97  # a compression that there is none of
    return bytes(data)


@pytest.mark.parametrize("change", ["content", "encrypted", "compression"])
def test_damaged_zips_are_refused(tmp_path, change):
    Image.new("L", (40, 40), 7).save(tmp_path / "1.bmp")
    with zipfile.ZipFile(tmp_path / "p.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "1.bmp", "cat/1.bmp")
    (tmp_path / "p.zip").write_bytes(damaged((tmp_path / "p.zip").read_bytes(), change))
    with pytest.raises(InputError, match=r"p\.zip: cat/1\.bmp cannot be read .*whole zip without a password"):
        record_images(tmp_path / "p.zip", tmp_path / "out", jobs=1, **SMALL)


def test_half_a_picture_is_named(pictures, tmp_path):
    half = pictures / "cat" / "0001.png"
    half.write_bytes(half.read_bytes()[:100])
    for source in (pictures, zipped(pictures, tmp_path / "p.zip")):
        with pytest.raises(InputError, match=r"cat/0001\.png: .*cannot be decoded"):
            record_images(source, tmp_path / f"out{source.suffix}", jobs=1, **SMALL)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_utf8_are_refused(pictures, tmp_path):
    (pictures / "cat" / "0001.png").rename(pictures / "cat" / os.fsdecode(b"\xff.png"))
    with pytest.raises(InputError, match=r"name is not UTF-8, b'cat/\\xff.png'; rename it"):
        record_images(pictures, tmp_path / "out", jobs=1, **SMALL)


def test_a_target_that_cannot_be_written_is_refused(pictures, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"out cannot be written .* this user may write to"):
        record_images(pictures, tmp_path / "file" / "out", jobs=1, **SMALL)


@pytest.fixture
def two_of_each(monkeypatch, tmp_path):
    """A CIFAR-10 of two classes with two pictures each."""
    monkeypatch.setattr(cifar10dvs, "SAMPLES_A_CLASS", 2)
    monkeypatch.setattr(cifar10dvs, "TRAIN_SHARE", 0.5)
    monkeypatch.setattr(cifar10dvs, "CLASS_NAMES", ("cat", "ship"))
    return save_pictures(tmp_path / "cifar", number=3, side=4)


def test_the_stand_in_has_the_form_of_cifar10_dvs(two_of_each, tmp_path):
    build_cifar10dvs(two_of_each, tmp_path / "out", jobs=1)
    train, test = (SimulatedCIFAR10DVS(tmp_path / "out", split) for split in ("train", "test"))
    assert train.ids == ["cat/0000", "ship/0000"]
    assert test.ids == ["cat/0001", "ship/0001"]
    assert test.labels.tolist() == [0, 1]
    assert train.sensor_size == (128, 128)
    assert "per-class-90-10" in repr(train)
    assert 1_190_000 < train.events(0).duration_us <= 1_200_000
    # Training takes it where it takes CIFAR10-DVS, and says which it was.
    part = open_part(tmp_path / "out", kind="cifar10dvs", split="test")
    assert part.text == "SimulatedCIFAR10DVS, test (per-class-90-10)"
    assert len(part) == 2
    # As a folder of recordings it has the same parts.
    assert EventFolder(tmp_path / "out", "test").ids == ["cat/0001.raw", "ship/0001.raw"]
    (tmp_path / "out" / "cat" / "0000.raw").unlink()
    with pytest.raises(RecordingError, match=r"holds 1 recordings; expected 2: run `rsnn simulate` again"):
        SimulatedCIFAR10DVS(tmp_path / "out", "train")
    left_over = tmp_path / "out" / "cat" / ".0000.abc.partial.raw"  # of a run that was killed
    left_over.touch()
    build_cifar10dvs(two_of_each, tmp_path / "out", jobs=1)
    assert not left_over.exists()
    assert len(SimulatedCIFAR10DVS(tmp_path / "out", "all")) == 4
    left_over.touch()  # of one that runs on, say
    assert len(SimulatedCIFAR10DVS(tmp_path / "out", "all")) == 4


def test_the_camera_of_the_stand_in_lies_on_its_side_as_theirs_did(two_of_each, tmp_path):
    # A picture that is bright at its top right: turned back as SpikingJelly does it, it is upright.
    corner = np.zeros((32, 32), dtype=np.uint8)
    corner[4:8, 20:28] = 255
    Image.fromarray(corner).save(two_of_each / "cat" / "0000.png")
    build_cifar10dvs(two_of_each, tmp_path / "out", jobs=1)
    path = tmp_path / "out" / "cat" / "0000.raw"
    lying = read_events(path)
    upright = official.read_spikingjelly(path)  # the same turn there and back
    assert np.median(upright.x) == pytest.approx(24 / 32 * 128, abs=5)
    assert np.median(upright.y) == pytest.approx(6 / 32 * 128, abs=5)
    assert np.median(lying.x) == pytest.approx(127 - 6 / 32 * 128, abs=5)


def test_the_stand_in_says_how_it_is_made(tmp_path, two_of_each):
    with pytest.raises(RecordingError, match=r"rsnn simulate IMAGES .* --cifar10dvs"):
        SimulatedCIFAR10DVS(tmp_path, "train")
    with pytest.raises(InputError, match="split is 'valid'"):
        SimulatedCIFAR10DVS(tmp_path, "valid")
    for file in (two_of_each / "ship").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="holds 0 pictures in the folder 'ship'; expected 2 or more"):
        build_cifar10dvs(two_of_each, tmp_path / "out")


def test_nine_hundred_pictures_of_each_class_are_to_train(samples):
    parts = cifar10dvs._choose(samples / "cifar10_images.zip")
    assert len(parts) == 10_000
    for name in official.CLASS_NAMES:
        mine = [part for member, part in parts.items() if member.startswith(name)]
        assert mine == ["train"] * 900 + ["test"] * 100


def test_a_real_picture_gives_as_many_events_as_the_real_camera_gave(samples):
    # The published recordings have some 200,000 events; pictures of little contrast fewer, of much more.
    numbers = []
    for member in ("airplane/0003.jpg", "cat/0005.jpg", "ship/0400.jpg", "frog/0300.jpg", "truck/0800.jpg"):
        recorder = cifar10dvs.Recorder(samples / "cifar10_images.zip", cifar10dvs.PARAMETERS, on_its_side=True)
        numbers.append(len(recorder.record(member)))
    assert 100_000 < np.mean(numbers) < 400_000
    assert min(numbers) > 20_000


def simulate(*arguments):
    return CliRunner().invoke(app, ["simulate", *map(str, arguments)])


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".raw", ".dat", ".es", ".aedat", ".bin", ".txt"])
def test_the_command_writes_any_format(tmp_path, suffix):
    for number in range(6):
        frame = np.full((24, 32), 40, dtype=np.uint8)
        frame[:, 4 * number : 4 * number + 8] = 200
        (tmp_path / "film").mkdir(exist_ok=True)
        Image.fromarray(frame).save(tmp_path / "film" / f"{number}.png")
    ran = simulate(tmp_path / "film", tmp_path / f"out{suffix}", "--fps", 500, "--preset", "clean", "--seed", 3)
    assert ran.exit_code == 0, ran.output
    expected = to_events(tmp_path / "film", "clean", fps=500, seed=3)
    assert f"{len(expected):,} events in 0.01 s, 32 x 24 pixels" in ran.output
    assert ("does not say its sensor" in ran.output) == (suffix == ".bin")
    events = read_events(tmp_path / f"out{suffix}")
    for column in "txyp":
        assert np.array_equal(getattr(events, column), getattr(expected, column))


def test_the_command_moves_a_still_and_changes_parameters(pictures, tmp_path):
    still = pictures / "cat" / "0000.png"
    ran = simulate(still, tmp_path / "a.npz", "--moving", "--size", "40x30", "--set", "pos_thres=0.5", "--gamma", 1)
    assert ran.exit_code == 0, ran.output
    events = read_events(tmp_path / "a.npz")
    assert events.sensor_size == (40, 30)
    more = simulate(still, tmp_path / "b.npz", "--moving", "--size", "40x30", "--gamma", 1)
    assert more.exit_code == 0
    assert np.count_nonzero(read_events(tmp_path / "b.npz").p) > 1.5 * np.count_nonzero(events.p)


def test_the_command_moves_a_still_without_its_suffix(pictures, tmp_path):
    still = (pictures / "cat" / "0000.png").rename(tmp_path / "still")
    ran = simulate(still, tmp_path / "a.npz", "--moving", "--size", "24x20")
    assert ran.exit_code == 0, ran.output
    assert read_events(tmp_path / "a.npz").sensor_size == (24, 20)


def test_the_command_records_many_stills(pictures, tmp_path):
    ran = simulate(pictures, tmp_path / "out", "--moving", "--jobs", 1, "--size", "24x20", "--format", ".csv")
    assert ran.exit_code == 0, ran.output
    assert "4 recordings in" in ran.output
    with (tmp_path / "out" / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[3] == {"path": "ship/0001.csv", "label": "ship", "split": ""}
    assert json.loads((tmp_path / "out" / "simulation.json").read_text())["movement"] == {"size": [24, 20]}


@pytest.mark.parametrize("named", [".npz", "numpy"])
def test_a_format_is_named_by_itself_or_by_its_suffix(pictures, tmp_path, named):
    arguments = ("--moving", "--size", "9x9", "--format", named)
    ran = simulate(pictures, tmp_path / "out", *arguments, "--jobs", 1)
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "out" / "cat" / "0000.npz").is_file()
    ran = simulate(pictures / "cat" / "0000.png", tmp_path / "one", *arguments)
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "one").read_bytes()[:2] == b"PK"
    ran = simulate(pictures, tmp_path / "none", "--moving", "--format", "npz", "--jobs", 1)
    assert "suffix is 'npz'; expected one of .aedat" in ran.output


def test_the_command_builds_the_stand_in(two_of_each, tmp_path):
    ran = simulate(two_of_each, tmp_path / "out", "--cifar10dvs", "--jobs", 1)
    assert ran.exit_code == 0, ran.output
    assert len(SimulatedCIFAR10DVS(tmp_path / "out", "all")) == 4


def test_what_sets_off_no_event_is_named(tmp_path):
    for number in range(2):
        (tmp_path / "grey").mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), 90, dtype=np.uint8)).save(tmp_path / "grey" / f"{number}.png")
    ran = simulate(tmp_path / "grey", tmp_path / "out.npz", "--fps", 100, "--preset", "clean")
    assert ran.exit_code == 1
    assert "grey changes enough for an event; expected two frames or more that differ" in ran.output
    ran = simulate(tmp_path / "grey", tmp_path / "out", "--moving", "--jobs", 1, "--size", "9x9", "--preset", "clean")
    assert ran.exit_code == 1
    assert "grey: 0.png has too little contrast for an event" in ran.output
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{film}", "{out}.npz"], "expected fps"),
        (["{film}/0000.png", "{out}.npz"], "--moving"),
        (["{film}", "{out}.xyz", "--fps", "9"], "has the suffix '.xyz'"),
        (["{film}", "{out}.npz", "--fps", "9", "--preset", "clen"], "Did you mean 'clean'"),
        (["{film}", "{out}.npz", "--fps", "9", "--set", "pos_thresh=1"], "Did you mean 'pos_thres'"),
        (["{film}", "{out}.npz", "--fps", "9", "--set", "pos_thres=high"], "expected a number"),
        (["{film}", "{out}.npz", "--fps", "9", "--set", "pos_thres=-1"], "pos_thres is -1.0"),
        (["{film}", "{out}.npz", "--fps", "9", "--size", "5"], "expected WIDTHxHEIGHT"),
        (["{film}", "{out}", "--moving", "--fps", "9"], "--fps is for films"),
        (["{film}", "{out}.NPZ", "--moving"], "NPZ is the name of one recording, and"),
        (["{film}", "{out}", "--cifar10dvs", "--size", "5x5"], "--size is for films and stills of your own"),
        (["nothing.mp4", "{out}.npz"], "does not exist"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(pictures, tmp_path, arguments, words):
    ran = simulate(*(text.format(film=pictures / "cat", out=tmp_path / "out") for text in arguments))
    assert ran.exit_code == 1
    assert words in ran.output.replace("\n", " ")
    assert "Traceback" not in ran.output
    assert not list(tmp_path.glob("out*"))
