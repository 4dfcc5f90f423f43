"""The example that trains the gesture checkpoints, as a user runs it: a few clips, a few seconds."""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import gesture_hints
import numpy as np
import pytest
import silent_units
import torch
import train_gesture
from gesture_windows import View

import rsnn

EXAMPLE = Path(__file__).parent.parent / "examples" / "train_gesture.py"


@pytest.mark.slow
def test_gestures_are_trained_while_they_are_simulated(tmp_path):
    command = [
        sys.executable,
        EXAMPLE,
        tmp_path,
        "--models",
        "cla",
        "--minutes",
        "0.3",
        "--start",
        "zoo",
        "--batch",
        "4",
    ]
    command += ["--batch", "4", "--simulators", "1", "--validation", "11", "--least", "14"]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-3000:]
    for name in ("convlstm-gesture-cla-mean", "rsnn-gesture-cla"):
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        assert metrics["passes"] > 0
        assert metrics["validation_clips"] == 11
        assert metrics["validation_average"] > 0.5  # it went on from weights that know gestures
        published = rsnn.load(name)
        trained = rsnn.load(tmp_path / name / "best")
        assert trained.preprocessing == published.preprocessing
        pairs = zip(trained.parameters(), published.parameters(), strict=True)
        assert any(not one.equal(other) for one, other in pairs)


@pytest.mark.slow
def test_with_teachers_without_validation_and_with_an_end_of_the_filming(tmp_path):
    command = [sys.executable, EXAMPLE, tmp_path, "--models", "cla", "--minutes", "0.1", "--batch", "4"]
    command += ["--teachers", "rsnn-gesture-cl", "rsnn-gesture-cla", "--hints", "2", "--revive", "1"]
    command += ["--simulators", "2", "--validation", "0", "--least", "14", "--most", "28", "--short", "14"]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-3000:]
    made = {file.name for file in (tmp_path / "clips").iterdir()}
    assert made <= {"train-0-00000.npz", "train-0-00001.npz", "short-0-00000.npz"}
    for name in ("convlstm-gesture-cla-mean", "rsnn-gesture-cla"):
        assert json.loads((tmp_path / name / "metrics.json").read_text()).keys() == {"passes", "clips", "seed"}
        rsnn.load(tmp_path / name / "best")


def test_targets_are_labels_and_what_teachers_say(monkeypatch):
    frames, labels = torch.ones(20, 2, 2, 128, 128), torch.tensor([3, 10])
    seen = []

    def teacher(frames):
        seen.append(frames)
        return torch.zeros(2, 11).index_fill(1, torch.tensor(5), 1000.0)

    monkeypatch.setattr(train_gesture, "batch", lambda *_: (frames, labels))
    clips = SimpleNamespace(device=torch.device("cpu"), of_class=np.zeros(11))
    options = argparse.Namespace(teachers=[], batch=2, graphs=False)
    rng = SimpleNamespace(random=lambda: 0.5)
    lessons = train_gesture.Lessons(clips, clips, View(128, (0.5, 2.0)), options, rng)
    lessons.teachers = [teacher, teacher]
    inputs, target, given = lessons.draw()
    assert inputs is frames
    assert [x is frames for x in seen] == [True, True]
    torch.testing.assert_close(target.sum(1), torch.ones(2))
    torch.testing.assert_close(target[0, [3, 5, 0]], torch.tensor([0.95 + 0.05 / 11, 1 + 0.05 / 11, 0.05 / 11]) / 2)
    assert given is labels


def test_short_clips_are_seen_whole_by_most_batches(monkeypatch):
    drawn = []

    def batch(*args):
        drawn.append(args)
        return torch.ones(20), torch.zeros(2, 11)

    monkeypatch.setattr(train_gesture, "batch", batch)
    monkeypatch.setattr(train_gesture.F, "one_hot", lambda labels, _: labels)
    clips, short = (SimpleNamespace(device=torch.device("cpu"), of_class=np.ones(11)) for _ in range(2))
    options = argparse.Namespace(teachers=[], batch=2, graphs=False)
    lessons = train_gesture.Lessons(clips, short, View(128, (0.5, 2.0)), options, np.random.default_rng(0))
    for _ in range(200):
        lessons.draw()
    whole = [view for chosen, _, view, _ in drawn if chosen is short]
    assert set(whole) == {View(128, (100.0, 100.0), distorted=0)}
    assert 0.6 < len(whole) / 200 < 0.8
    assert {view.distorted for chosen, _, view, _ in drawn if chosen is clips} == {0.5}


def test_an_encoder_learns_another_ones_features_and_its_classifier_takes_over():
    """Where the student can say all that the teacher says, its logits become the teacher's."""
    torch.manual_seed(0)
    size = {"frame_size": (32, 32), "num_frames": 4}
    teacher = rsnn.create_model("convlstm-gesture-cla-sum", **size).eval()
    student = rsnn.create_model("convlstm-gesture-cla-mean", **size).eval()
    student.encoder.load_state_dict(teacher.encoder.state_dict())
    with torch.no_grad():
        for parameter in student.encoder.parameters():
            parameter.mul_(0.9)
    frames = torch.poisson(torch.ones(4, 8, 2, 32, 32))
    before = student.encoder.state_dict()["layers.0.convlstm.input_gates.weight"].clone()
    readout = gesture_hints.learn_features(student, teacher, lambda: frames, batches=300)
    assert not student.encoder.state_dict()["layers.0.convlstm.input_gates.weight"].equal(before)
    gesture_hints.take_over(student, teacher, readout, gain=4)
    with torch.no_grad():
        said, wanted = student(frames), teacher(frames)
        gesture_hints.take_over(student, teacher, torch.eye(10), gain=4)
        raw = student(frames)
    assert (said - wanted).abs().mean() < 0.1 * (raw - wanted).abs().mean()


def test_silent_units_fire_again_and_change_nothing_at_first():
    torch.manual_seed(0)
    head = rsnn.nn.ConvClassifier(3, 4, in_size=(8, 8), channels=(6, 5), pools=(2, 2), votes=2)
    with torch.no_grad():
        for layer in (head.convs[0], head.convs[3], head.hidden):
            layer.weight.abs_()
        head.convs[0].bias[[1, 4]] = -100
        head.convs[3].bias[2] = -100
        head.hidden.bias[3] = -100
    maps = torch.rand(50, 3, 8, 8)
    before = copy.deepcopy(head)
    assert silent_units.revive(head, maps) == 4
    torch.testing.assert_close(head(maps), before(maps))
    for layers, x in ((head.convs[:1], maps), (head.convs[:4], maps), ((head.hidden,), head.convs(maps).flatten(1))):
        for layer in layers:
            x = layer(x)
        shares = (x > 0).float().transpose(0, 1).flatten(1).mean(1)
        assert shares.min() > 0.1
    conv, first = head.convs[0], before.convs[0]
    kept = [0, 2, 3, 5]
    assert torch.equal(conv.weight[kept], first.weight[kept])
    assert conv.weight[1].norm().item() == pytest.approx(
        first.weight[kept].flatten(1).norm(dim=1).median().item(), rel=1e-5
    )
    assert (conv(maps)[:, [1, 4]] > 0).float().mean((0, 2, 3)).tolist() == pytest.approx([0.15, 0.15], abs=0.01)
    assert silent_units.revive(head, maps) == 0
    with torch.no_grad():
        head.hidden.bias.fill_(-100)
    assert silent_units.revive(head, maps) == 0  # nothing says how large its weights should be


def test_the_average_follows_all_weights():
    networks = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.BatchNorm1d(1))
    average = copy.deepcopy(networks)
    torch.nn.init.constant_(average[0].weight, 1.0)
    torch.nn.init.constant_(networks[0].weight, 2.0)
    networks[1].running_mean.fill_(500)
    networks[1].num_batches_tracked.fill_(7)
    train_gesture.follow(average, networks)
    assert average[0].weight.tolist() == [[pytest.approx(1.002)] * 2]
    assert average[1].running_mean.tolist() == [pytest.approx(1)]
    assert average[1].num_batches_tracked == 7


def test_one_model_is_not_trained_twice(tmp_path):
    command = [sys.executable, EXAMPLE, tmp_path, "--models", "cl", "cl-sum"]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert ran.returncode == 2
    assert "convlstm-gesture-cl-sum, convlstm-gesture-cl-sum" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--minutes nan", "--minutes is nan; expected more than 0"),
        ("--simulators 0", "--simulators is 0"),
        ("--window 3 1", "--window is 3.0 1.0; expected 0 < SHORTEST <= LONGEST"),
        ("--window 0 1", "--window is 0.0 1.0"),
        ("--start run/gesture", "--start run/gesture is no folder; expected one of checkpoints, or zoo"),
        ("--teachers rsnn-gesture-cl rsnn-gesture-xl", "--teachers: "),
    ],
)
def test_arguments_that_would_end_a_training_later_are_refused(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.setattr(sys, "argv", ["train_gesture.py", str(tmp_path / "out"), *arguments.split()])
    monkeypatch.setattr(train_gesture, "get_context", None)  # nothing is to begin
    with pytest.raises(SystemExit):
        train_gesture.main()
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_end_before_the_begin_is_refused(tmp_path):
    command = [sys.executable, EXAMPLE, tmp_path, "--least", "30", "--most", "29"]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert ran.returncode == 2
    assert "the training would never begin" in ran.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("has_clips", [True, False])
def test_a_training_does_not_wait_for_clips_that_nobody_films(has_clips):
    class Process:
        def __init__(self, *exitcodes):
            self.exitcodes = list(exitcodes)
            self.ended = False

        @property
        def exitcode(self):
            return self.exitcodes[0]

        def join(self, timeout):
            assert timeout > 0
            if len(self.exitcodes) > 1:
                self.exitcodes.pop(0)

        def terminate(self):
            self.ended = True

    training, failed = Process(None, None, 0), Process(1)
    train_gesture.wait_for([training], [failed, Process(None)], lambda: False)  # one films
    training = Process(None, None, 0)
    if has_clips:
        train_gesture.wait_for([training], [failed, failed], lambda: True)
    else:
        with pytest.raises(SystemExit, match="all processes that film have failed"):
            train_gesture.wait_for([training], [failed, failed], lambda: False)
    assert training.ended == (not has_clips)


def test_what_cannot_film_is_told_before_the_training_waits_for_clips(tmp_path):
    command = [sys.executable, EXAMPLE, tmp_path / "out", "--film", "cuda"]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert ran.returncode == 2
    assert "no clip can be filmed: device='cuda'" in ran.stderr
    assert not (tmp_path / "out").exists()
