"""Training as a user runs it: processes of their own, killed, interrupted, and several at once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import SMALL
from typer.testing import CliRunner

import rsnn
from rsnn.cli import app
from rsnn.training import load_recipe
from rsnn.training.recipe_files import field_names
from rsnn.training.sources import open_part
from rsnn.training.splits import cut_validation

SETTINGS = [word for change in SMALL for word in ("--set", change)]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def command(archive, output, *more, recipe="convlstm-nmnist-cl-mean", epochs=4):
    return [
        *(sys.executable, "-m", "rsnn", "train", recipe, "--data", str(archive), "--output", str(output)),
        *SETTINGS,
        *("--set", f"phases.encoder.epochs={epochs}", "--set", "loop.save_minutes=1e-9", *more),
    ]


def run(words):
    return subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=600, check=False)


def until(path: Path, process):
    """Wait until a file is there, or the process has ended."""
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.slow
def test_kill_9_and_the_same_command_ends_with_the_same_weights(archive, tmp_path):
    whole = run(command(archive, tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    for pause in (0.0, 0.3):
        process = subprocess.Popen(command(archive, tmp_path / "cut"), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        until(tmp_path / "cut" / "state.safetensors", process)
        time.sleep(pause)
        process.kill()
        process.wait()
    again = run(command(archive, tmp_path / "cut"))
    assert again.returncode == 0, again.stderr
    for kind in ("selected", "last"):
        ours, theirs = (
            load_file(tmp_path / name / "encoder" / kind / "model.safetensors") for name in ("cut", "whole")
        )
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_ctrl_c_saves_says_how_to_go_on_and_the_same_command_does(archive, tmp_path, workers):
    words = command(archive, tmp_path, "--set", f"loop.workers={workers}", epochs=200)
    process = subprocess.Popen(words, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until(tmp_path / "state.safetensors", process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, which means the workers too
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130, said
    assert "stopped in phase encoder, epoch" in said
    assert "give the same command again to go on" in said
    assert "Traceback" not in said
    process = subprocess.Popen(words, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    assert "going on after epoch" in "".join(next(process.stderr) for _ in range(2))
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_doubled_batch(archive, tmp_path):
    one = command(archive, tmp_path / "one", "--set", "loop.batch_size=8", "--set", "loop.cpu=true", epochs=3)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    two = launch + command(archive, tmp_path / "two", "--set", "loop.cpu=true", epochs=3)[2:]
    for words in (one, two):
        done = run(words)
        assert done.returncode == 0, done.stderr
    single, double = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert json.loads((tmp_path / "two" / "recipe.json").read_text())["processes"] == 2
    for ours, theirs in zip(
        double["phases"]["encoder"]["history"], single["phases"]["encoder"]["history"], strict=True
    ):
        for name in ("loss", "cross_entropy", "train_accuracy", "accuracy", "lr"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-4), name
    assert double["validation_selected"]["samples"] == single["validation_selected"]["samples"]

    evaluated = run(
        [*launch, "rsnn", "evaluate", str(tmp_path / "two" / "model"), "--data", str(archive), "--cpu", "--json"]
    )
    assert evaluated.returncode == 0, evaluated.stderr
    counted = json.loads(evaluated.stdout[evaluated.stdout.index("{") :])
    assert counted["samples"] == 24, "each recording once"


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0, 0.5])
def test_two_processes_measure_the_model_that_is_kept(archive, tmp_path, decay):
    """BatchNorm has statistics of its own in each."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    words = ("--set", "loop.cpu=true", "--set", f"loop.ema={decay}", "--set", "phases.classifier.epochs=2")
    done = run(launch + command(archive, tmp_path, *words, recipe="rsnn-nmnist-cl", epochs=1)[2:])
    assert done.returncode == 0, done.stderr
    recipe = load_recipe(tmp_path / "recipe.json")
    part = open_part(archive)
    _, validation = cut_validation(part.ids, part.labels, recipe.validation.fraction, by=recipe.validation.by)
    model = rsnn.load(tmp_path / "classifier" / "last")
    frames = torch.stack([model.preprocessing.frames(part.read(i)) for i in validation], dim=1)
    with torch.no_grad():
        entropy = torch.nn.functional.cross_entropy(model(frames), torch.tensor(part.labels[validation]))
    history = json.loads((tmp_path / "classifier" / "metrics.json").read_text())["history"]
    assert history[-1]["cross_entropy"] == pytest.approx(entropy.item(), rel=1e-4)


def invoke(*words):
    return CliRunner().invoke(app, list(map(str, words)))


def test_train_and_evaluate_from_the_command_line(archive, test_archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("train", "convlstm-nmnist-cl-mean", "--data", archive, "--test", test_archive, *SETTINGS)
    result = invoke(*words, "--set", "phases.encoder.epochs=1", "--seed", "3", "--tensorboard")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "runs" / "convlstm-nmnist-cl-mean-seed3"
    assert (folder / "tensorboard").is_dir()
    recipe = json.loads((folder / "metrics.json").read_text())["recipe"]
    assert recipe["seed"] == 3
    assert json.loads(invoke("info", folder / "model", "--json").stdout)["recipe"] == recipe
    assert '"seed": 3' in invoke("info", folder / "model").stdout

    card = (folder / "model" / "README.md").read_text()
    assert "rsnn train config.json --data train.npz --test test.npz  #" in card
    assert "- nmnist" not in card
    assert "- train" in card
    for path in (folder / "recipe.json", folder / "model" / "config.json"):
        assert json.loads(invoke("train", path, "--show").stdout) == recipe

    result = invoke(
        "evaluate", folder / "model", "--data", test_archive, "--json", "--robustness", "--confusion", "c.png"
    )
    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout)
    assert row["samples"] == 9
    assert row["accuracy"] == json.loads((folder / "metrics.json").read_text())["test_selected"]["accuracy"]
    assert set(row["robustness"]) == {"drop", "noise", "tempo", "steps"}
    assert row["robustness"]["steps"]["4"] == row["accuracy"]
    assert (tmp_path / "c.png").is_file()
    result = invoke("evaluate", folder / "model", "--data", test_archive, "--samples", "0:6", "--windows", "3")
    assert "6 recordings, 95 % interval" in " ".join(result.output.split())
    assert "most often taken for" in result.output
    result = invoke(
        "evaluate", folder / "model", "--data", test_archive, "--samples", "0:2", "--windows", "2", "--robustness"
    )
    assert "steps: left out, for --windows 2 takes whole ones" in " ".join(result.output.split())


@pytest.fixture
def start(tmp_path):
    """A checkpoint of ten classes to go on from."""
    torch.manual_seed(0)
    rsnn.create_model("rsnn-nmnist-cl", frame_size=(16, 16), num_frames=4).save_pretrained(tmp_path / "start")
    return tmp_path / "start"


@pytest.fixture
def folder(archive, tmp_path):
    """The archive's recordings as files, in a folder for each class."""
    part = rsnn.data.EventArchive(archive)
    for i, events in enumerate(part):
        path = tmp_path / "mine" / part.class_names[int(part.labels[i])] / f"{i}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        rsnn.data.write_events(path, events)
    return tmp_path / "mine"


def test_fine_tuning_in_one_command(start, folder, tmp_path):
    result = invoke(
        *("train", "--from", start, "--data", folder, "--output", tmp_path / "run"),
        *("--set", "phases.joint.epochs=1"),
    )
    assert result.exit_code == 0, result.output
    assert rsnn.load(tmp_path / "run" / "model").class_names == ("left", "right", "top")
    assert all(line.strip() for line in result.output.splitlines())  # nothing of a bar, where there is no terminal
    where, there = str(tmp_path), (tmp_path / "run").rglob("*")
    tell = sorted(path.name for path in there if path.is_file() and where in path.read_text("utf-8", "ignore"))
    assert tell == ["metrics.json", "recipe.json"]  # of the run itself; what is published does not
    assert "which wants the model ./start too" in (tmp_path / "run" / "model" / "README.md").read_text("utf-8")


@pytest.mark.parametrize("within", [".", "run", "left/run"])
def test_a_run_is_not_put_among_the_classes_it_learns(start, folder, tmp_path, monkeypatch, within):
    """The folder of the run would be a class of the next training."""
    before = sorted(folder.rglob("*"))
    monkeypatch.chdir(folder)
    result = invoke("train", "--from", start, "--data", "../mine", "--output", within)
    assert result.exit_code == 1
    assert "choose an --output beside it" in result.output
    tested = invoke("train", "--from", start, "--data", tmp_path / "other", "--test", ".", "--output", within)
    assert "choose an --output beside it" in tested.output
    assert sorted(folder.rglob("*")) == before


def test_a_run_may_lie_beside_the_parts_it_learns(start, folder, tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    folder.rename(tmp_path / "project" / "train")
    monkeypatch.chdir(tmp_path / "project")
    words = ("train", "--from", start, "--data", ".", "--set", "phases.joint.epochs=1", "--output")
    assert "choose an --output beside it" in invoke(*words, "train/run").output
    assert invoke(*words, "runs/one").exit_code == 0
    result = invoke(*words, "runs/two")
    assert result.exit_code == 0
    assert "is not used" not in result.output
    (tmp_path / "project" / "validation").mkdir()
    for path in [*(tmp_path / "project" / "train").rglob("*.npz")][:6]:
        (tmp_path / "project" / "validation" / path.parent.name).mkdir(exist_ok=True)
        path.rename(tmp_path / "project" / "validation" / path.parent.name / path.name)
    assert "the part 'validation' of . is not used: what validates" in invoke(*words, "runs/three").output


def test_one_class_is_nothing_to_learn(start, folder, archive, tmp_path):
    words = ("train", "--from", start, "--output", tmp_path / "run", "--data")
    assert (
        "are all of the class 'left', so there is nothing to tell" in invoke(*words, archive, "--samples", "0:1").output
    )
    for name in ("right", "top"):
        (folder / name).rename(tmp_path / name)
    assert "the 8 recordings of mine are all of the class 'left'" in invoke(*words, folder).output
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_example_of_fine_tuning(start, folder, tmp_path):
    example = Path(__file__).parents[2] / "examples" / "fine_tune_folder.py"
    done = run([sys.executable, *map(str, (example, start, folder, tmp_path / "run", "phases.joint.epochs=1"))])
    assert done.returncode == 0, done.stderr
    assert "classes: left, right, top" in done.stdout


@pytest.mark.slow
def test_simulated_gestures_from_a_number_to_the_report(tmp_path, monkeypatch):
    monkeypatch.setenv("RSNN_CACHE", str(tmp_path / "cache"))
    settings = ("data.size=[32, 32]", "data.num_frames=2", "phases.encoder.epochs=1", "phases.classifier.epochs=1")
    result = invoke(
        *("train", "rsnn-gesture-cl.sim", "--data", "gestures:22", "--output", tmp_path / "run"),
        *(word for setting in settings for word in ("--set", setting)),
    )
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {name: phase["model"] for name, phase in metrics["phases"].items()} == {
        "encoder": "convlstm-gesture-cl-sum",
        "classifier": "rsnn-gesture-cl",
    }
    assert metrics["parts"]["training"]["recordings"] + metrics["parts"]["validation"]["recordings"] == 22
    assert metrics["test_selected"]["samples"] == 11
    assert rsnn.load(tmp_path / "run" / "model").class_names == rsnn.create_model("rsnn-gesture-cl").class_names


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--confusion", "nowhere/c.png"), "nowhere is no folder to write to"),
        (("--confusion", "c.foo"), "the suffix is '.foo'; expected one of"),
        (("--kind", "gestur"), "Did you mean 'gesture'?"),
        (("--split", "tset"), "--split is for data with parts"),
    ],
)
def test_what_cannot_be_evaluated_is_said_before_the_work(archive, start, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rsnn.evaluation, "evaluate", None)
    result = invoke("evaluate", start, "--data", archive, *words)
    assert result.exit_code == 1
    assert said in result.output


def test_logs_for_tensorboard_do_not_come_before_the_folder(archive, tmp_path):
    words = ("train", "convlstm-nmnist-cl-mean", "--data", archive, *SETTINGS, "--tensorboard", "--output")
    (tmp_path / "file").touch()
    result = invoke(*words, tmp_path / "file" / "run")
    assert result.exit_code == 1
    assert "cannot be written" in result.output
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").touch()
    result = invoke(*words, tmp_path / "run")
    assert result.exit_code == 1
    assert "without --tensorboard" in result.output


def test_recipes_are_listed_and_shown():
    listed = invoke("train", "--list")
    assert "rsnn-gesture-cl" in listed.output.split()
    shown = json.loads(invoke("train", "rsnn-gesture-cl", "--show", "--set", "optimizer.lr=0.5").stdout)
    assert shown["optimizer"]["lr"] == 0.5
    assert shown["phases"]["encoder"]["epochs"] == 300


def test_a_model_to_go_on_from_may_have_any_name():
    shown = json.loads(invoke("train", "--from", "./\N{WAVING HAND SIGN}", "--show").stdout)
    assert shown["start"] == "./\N{WAVING HAND SIGN}"


def test_the_example_of_a_setting_in_the_help_of_fine_tuning_is_one():
    example = (Path(__file__).parents[2] / "examples" / "fine_tune_folder.py").read_text("utf-8")
    name, value = re.search(r"as ([a-z_.]+)=([-0-9e]+)", example).groups()
    assert name in field_names()
    load_recipe("fine-tune", [f"{name}={value}", "start=rsnn-nmnist-cl"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "expected a recipe"),
        (("rsnn-gesture",), "Did you mean"),
        (("rsnn-gesture-cl",), "--data PATH"),
        (("rsnn-gesture-cl", "--data", "x", "--set", "optimiser.lr=1"), "'optimizer.lr'"),
        (("rsnn-gesture-cl", "--data", "nowhere"), "nowhere does not exist"),
        (("rsnn-gesture-cl.sim", "--data", "gestures:many"), "gestures:N"),
        (("rsnn-gesture-cl.sim", "--data", "my_recordings"), "--set data.kind=auto"),
        (("rsnn-gesture-cl.sim", "--data", "simulated"), "--set data.kind=auto"),
    ],
)
def test_mistakes_are_one_line(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("train", *words)
    assert result.exit_code == 1
    assert said in result.output
    assert "Traceback" not in result.output
