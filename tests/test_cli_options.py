"""Options that would be ignored are refused, by each command, before it works or writes anything."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import rsnn
from rsnn.cli import app
from rsnn.data import samples as shipped


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder with one of each: a recording, archives, folders of classes and of parts, a film, stills."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    shutil.copy(shipped.path(), "digit.bin")
    events = rsnn.read_events("digit.bin")
    columns = {name: getattr(events, name) for name in "txyp"}
    np.savez("all.npz", **columns, offsets=np.array([0, len(events)]), label=np.array([3]))
    for name in ("classes/3", "parts/train/3", "parts/test/3"):
        Path(name).mkdir(parents=True)
        shutil.copy(shipped.path(), Path(name) / "0.bin")
    Path("stills").mkdir()
    shades = [Image.new("L", (24, 20), shade) for shade in (40, 200)]
    shades[0].save("stills/0.png")
    shades[0].save("film.gif", save_all=True, append_images=shades[1:], duration=10)
    rsnn.create_model("scnn-nmnist", num_frames=2).save_pretrained("model")
    return tmp_path


def invoke(*words):
    return CliRunner().invoke(app, list(words))


def files():
    return sorted(str(path) for path in Path().rglob("*"))


SIMULATE = ("simulate", "stills", "out", "--cifar10dvs")
EVALUATE = ("evaluate", "./model", "--data")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("convert", "digit.bin", "out.npz", "--fps", "9"), "--fps is for animations (.gif, .mp4), and out.npz"),
        (("convert", "digit.bin", "out.npy", "--fps", "25"), "--fps is for animations (.gif, .mp4), and out.npy"),
        (("convert", "digit.bin", "out.png", "--fps", "9"), "--fps is for animations"),
        (("convert", "digit.bin", "out.gif", "--to", "numpy", "--fps", "9"), "--fps is for animations"),
        (("convert", "digit.bin", "out.npz", "--split-by", "time"), "--split-by is for frames and pictures"),
        (
            ("convert", "digit.bin", "out.npz", "--frames", "3", "--size", "8x8"),
            "--frames and --size are for frames and pictures (.npy, .gif, .mp4, .png), and out.npz will be a "
            "recording, which has no frames and keeps all its pixels; leave them out",
        ),
        (("convert", "digit.bin", "out.npy", "--from-zero"), "--from-zero is for recordings, and out.npy will hold"),
        (("convert", "digit.bin", "out.gif", "--from-zero"), "--from-zero is for recordings, and out.gif will hold"),
        (
            ("demo", "digit.bin", "--model", "./model", "--gesture", "arm_roll", "--seed", "1"),
            "--gesture and --seed are for simulated gestures, and digit.bin is a recording; leave them out",
        ),
        (("info", "./model", "--keep-truncated"), "--keep-truncated is for recordings, and ./model is a model"),
        ((*EVALUATE, "all.npz", "--split", "train"), "--split is for data with parts, and all.npz has none"),
        ((*EVALUATE, "classes", "--split", "test"), "--split is for data with parts, and classes has none"),
        ((*EVALUATE, "all.npz", "--kind", "nmnist"), "--kind is for the folder of a data set, and all.npz is no"),
        ((*EVALUATE, "classes", "--kind", "sign"), "--kind is for the folder of a data set, and classes is no folder"),
        ((*EVALUATE, "gestures:2", "--kind", "gesture"), "--kind is for the folder of a data set, and gestures:2 is"),
        ((*EVALUATE, "all.npz", "--window-ms", "9"), "--window-ms is for --windows of 2 or more, and recordings are"),
        (("energy", "./model", "--samples", "0:1"), "--samples is for the recordings of --data, and without it one"),
        (
            ("bench", "rsnn-nmnist-cl", "--scaling", "--batch", "2", "--train-batch", "2", "--density", "0.2"),
            "MODEL, --batch, --train-batch and --density are for the comparison with the plain way, and --scaling",
        ),
        (("bench", "rsnn-nmnist-cl", "--json", "--markdown"), "--markdown is for people to read, and --json prints"),
        (("train", "rsnn-nmnist-cl", "--list"), "RECIPE is for a training, and --list prints the names of all"),
        (("watch", "-", "--speed", "2"), "--speed is for the replay of a recording, and the events of - come as they"),
        (("watch", "jaer:0", "--speed", "inf"), "--speed is for the replay of a recording"),
        (("watch", "camera", "--sensor-size", "8x8"), "--sensor-size is for sources that do not say it, and a camera"),
        (
            ("simulate", "film.gif", "out.npz", "--jobs", "2"),
            "--jobs is for many stills, with --moving or --cifar10dvs",
        ),
        (("simulate", "stills/0.png", "out.npz", "--moving", "--jobs", "2"), "and stills/0.png makes one recording"),
        (("simulate", "stills", "out", "--moving", "--fps", "9"), "--fps is for films, and --moving takes stills"),
        (
            (*SIMULATE, "--preset", "clean", "--set", "pos_thres=0.5", "--fps", "9"),
            "--preset, --set and --fps are for films and stills of your own, and --cifar10dvs has its own",
        ),
        (
            (*SIMULATE, "--size", "8x8", "--gamma", "1", "--moving", "--format", ".csv"),
            "--size, --gamma, --moving and --format are for films and stills of your own",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_an_option_that_would_be_ignored_is_refused(words, said):
    before = files()
    ran = invoke(*words)
    assert (ran.exit_code, ran.stdout) == (1, ""), ran.output
    assert said in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert files() == before


@pytest.mark.parametrize(
    "words",
    [
        ("convert", "digit.bin", "out.gif", "--fps", "9", "--split-by", "number", "--size", "8x8"),
        ("convert", "digit.bin", "out.npz", "--from-zero"),
        ("info", "digit.bin", "--keep-truncated"),
        (*EVALUATE, "all.npz", "--split", "all", "--kind", "auto"),
        (*EVALUATE, "parts", "--split", "train"),
        ("simulate", "film.gif", "out.npz", "--set", "pos_thres=0.3", "--fps", "100"),
        ("simulate", "stills", "out", "--moving", "--jobs", "1", "--gamma", "1"),
    ],
    ids=" ".join,
)
def test_where_they_count_they_are_taken(words):
    ran = invoke(*words)
    assert ran.exit_code == 0, ran.output


def test_a_table_of_recordings_may_name_their_parts():
    with Path("classes/manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), ("3/0.bin", "3", "validation")])
    assert invoke(*EVALUATE, "classes", "--split", "validation").exit_code == 0
    ran = invoke(*EVALUATE, "classes", "--split", "test")
    assert "classes has no part 'test'; expected one of validation, all" in ran.stderr
