"""The example that trains the gesture checkpoints, as a user runs it: a few clips, a few seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
def test_without_validation_and_with_an_end_of_the_filming(tmp_path):
    command = [sys.executable, EXAMPLE, tmp_path, "--models", "cla", "--minutes", "0.1", "--batch", "4"]
    command += ["--simulators", "2", "--validation", "0", "--least", "14", "--most", "28"]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-3000:]
    assert {file.name for file in (tmp_path / "clips").iterdir()} <= {f"train-0-0000{i}.npz" for i in (0, 1)}
    for name in ("convlstm-gesture-cla-mean", "rsnn-gesture-cla"):
        assert json.loads((tmp_path / name / "metrics.json").read_text()).keys() == {"passes", "clips", "seed"}
        rsnn.load(tmp_path / name / "best")


def test_an_end_before_the_begin_is_refused(tmp_path):
    command = [sys.executable, EXAMPLE, tmp_path, "--least", "30", "--most", "29"]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert ran.returncode == 2
    assert "the training would never begin" in ran.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_cannot_film_is_told_before_the_training_waits_for_clips(tmp_path):
    command = [sys.executable, EXAMPLE, tmp_path / "out", "--film", "cuda"]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert ran.returncode == 2
    assert "no clip can be filmed: device='cuda'" in ran.stderr
    assert not (tmp_path / "out").exists()
