"""The scripts that measure gesture models and simulated gestures: what they change, and what they refuse."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from rsnn.data import Events

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture(autouse=True)
def _beside_each_other(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)


def script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


def test_a_mirror_exchanges_sides_and_turns():
    check = script("check_gestures")
    assert check.MIRRORED["right_hand_wave"] == "left_hand_wave"
    assert check.MIRRORED["right_arm_cw"] == "left_arm_ccw"
    assert check.MIRRORED["left_arm_cw"] == "right_arm_ccw"
    assert check.MIRRORED["air_guitar"] == "air_guitar"
    assert all(check.MIRRORED[check.MIRRORED[name]] == name for name in check.NAMES)
    events = Events(t=[1], x=[3], y=[5], p=[1], sensor_size=(128, 128))
    assert check.mirrored(events).x.tolist() == [124]


def test_what_is_done_to_simulated_clips():
    check, rng = script("check_gestures"), np.random.default_rng(0)
    n = 4000
    events = Events(t=np.arange(n), x=np.full(n, 20), y=np.arange(n) % 128, p=np.arange(n) % 2, sensor_size=(128, 128))
    changed = {name: function(events, rng) for name, function in check.CHANGES.items()}
    assert changed["as_they_are"] == events
    assert (changed["polarity_swapped"].p == 1 - events.p).all()
    assert len(changed["half_rate"]) == pytest.approx(n / 2, rel=0.1)
    assert changed["double_rate"].t.tolist() == np.repeat(events.t, 2).tolist()
    assert changed["later_start"].t[0] == 1333
    lost = check.chosen(events, np.arange(n), dy=-16)
    assert lost.t.tolist() == [t for t in range(n) if t % 128 >= 16]
    assert len(check.chosen(events, np.arange(n), dx=-21)) == 0


def test_the_clips_that_are_kept_are_as_many_as_are_asked_for(tmp_path, monkeypatch, capsys):
    check = script("check_gestures")
    with pytest.raises(SystemExit):
        run(check, monkeypatch, "rsnn-nmnist-cl", "--samples", 0)
    assert "rsnn-nmnist-cl knows 0, 1, 2" in capsys.readouterr().err
    one = dict.fromkeys("txyp", np.zeros(1, dtype=np.int64))
    np.savez(tmp_path / "kept.npz", **one, offsets=[0, 1], label=[0], class_names=check.NAMES)
    with pytest.raises(SystemExit):
        run(check, monkeypatch, "scnn-gesture", "--samples", 2, "--keep", tmp_path / "kept.npz")
    assert "kept.npz holds 1 clips, fewer than --samples 2; delete it" in capsys.readouterr().err


def test_figures_of_events_worked_by_hand():
    compare = script("compare_gestures")
    # Two pixels, 100 columns apart: one fires ON three times in the first frame, the other OFF once in the last.
    events = Events(t=[0, 1, 2, 1_449_999], x=[10, 10, 10, 110], y=[5] * 4, p=[1, 1, 1, 0], sensor_size=(128, 128))
    figures = dict(zip(compare.COLUMNS, compare.figures(events), strict=True))
    assert figures["event rate"] == pytest.approx(4 / 1.45)
    assert figures["ON share"] == 0.75
    assert figures["spread x"] == pytest.approx(np.std([10, 10, 10, 110]))
    assert figures["spread y"] == 0
    assert figures["count 50"] == 2  # of the counts 1 and 3
    assert figures["active"] == 2 / 128**2
    assert figures["background"] == 0


def test_too_few_clips_to_compare_are_refused(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(script("compare_gestures"), monkeypatch, "--clips", 5)
    assert "--clips is 5; expected at least one of each class, 11" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("check_gestures", ("scnn-gesture", "--samples", 0, "--real")),
        ("compare_gestures", ("--real",)),
        ("single_pixels", ()),
    ],
)
@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({}, "does not name the classes of its clips"),
        ({"label": [0], "class_names": ["hello"]}, "holds hello; expected clips of hand_clap, "),
        (None, "does not exist"),
    ],
)
def test_real_clips_of_something_else_are_refused(tmp_path, monkeypatch, name, arguments, labels, words):
    if labels is not None:
        one = dict.fromkeys("txyp", np.zeros(1, dtype=np.int64))
        np.savez(tmp_path / "clips.npz", **one, offsets=[0, 1], **labels)
    with pytest.raises(SystemExit) as ended:
        run(script(name), monkeypatch, *arguments, tmp_path / "clips.npz")
    assert words in str(ended.value)


def test_repeats_and_rebounds_of_single_pixels_are_counted():
    pixels = script("single_pixels")
    # ON, its repeat, and an OFF event 400 us after that; another pixel fires ON once, and OFF long after.
    events = Events(t=[0, 1, 50, 401, 9000], x=[1, 1, 2, 1, 2], y=[0] * 5, p=[1, 1, 1, 0, 0], sensor_size=(128, 128))
    figures = dict(zip(pixels.COLUMNS, pixels.figures(events), strict=True))
    assert figures["ON share"] == 0.6
    assert figures["ON repeated"] == 0.5
    assert figures["gap, µs"] == 1
    assert figures["OFF within 3 ms after ON"] == 0.5
    assert figures["median, µs"] == 400
    assert figures["ON within 3 ms after OFF"] == 0
