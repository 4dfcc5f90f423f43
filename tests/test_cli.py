"""The command line as a user runs it: in processes of its own where exit codes and streams matter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

import rsnn
from rsnn import kernels
from rsnn.cli import app, console
from rsnn.cli.console import parse_size
from rsnn.data import samples as shipped
from rsnn.data.simulate import SimulatedGestures
from rsnn.errors import InputError


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


def run(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "rsnn", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=120
    )


def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_predict_prints_a_table():
    ran = invoke("predict", "rsnn-nmnist-cl", shipped.path())
    assert ran.exit_code == 0, ran.output
    (line,) = (line for line in ran.stdout.splitlines() if "digit_3.bin" in line)
    assert line.split("│")[2].strip() == "3"


def test_predict_without_a_model_asks_the_one_of_gestures(tmp_path):
    events, label = SimulatedGestures(11, split="test")[9]
    file = tmp_path / "clip.aedat"
    rsnn.data.write_events(file, events)
    ran = invoke("predict", file)
    assert ran.exit_code == 0, ran.output
    assert SimulatedGestures.class_names[label] in ran.stdout
    assert "with rsnn-gesture-cl; for another model: rsnn predict MODEL FILE..." in ran.stderr
    with_it = json.loads(invoke("predict", "rsnn-gesture-cl", file, "--json").stdout)[0]
    without, missing = json.loads(invoke("predict", file, tmp_path / "missing.aedat", "--json").stdout)
    assert without["probabilities"] == with_it["probabilities"]
    assert "does not exist" in missing["error"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["missing.aedat"], "missing.aedat does not exist"),
        (["folder/missing.aedat4"], "folder/missing.aedat4 does not exist"),
        (["folder/missing.h5", "other.aedat"], "folder/missing.h5 does not exist"),
        (["rsnn-nmnist-cl"], "rsnn-nmnist-cl is a model; expected recordings after it: rsnn predict rsnn-nmnist-cl"),
        (["folder"], "folder is a folder, taken for a model's; expected recordings after it"),
        (["./checkpoint", "clip.aedat"], "checkpoint"),
    ],
)
def test_what_predict_takes_for_a_model(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    ran = invoke("predict", *words)
    assert ran.exit_code == 1
    assert said in ran.stderr.replace("\n", " ")


def test_predict_prints_file_names_whole_however_narrow(tmp_path, monkeypatch):
    folder = tmp_path / "a_folder_with_a_long_name_for_recordings"
    folder.mkdir()
    files = [folder / f"recording_of_a_digit_{number}.bin" for number in range(2)]
    for file in files:
        shutil.copy(shipped.path(), file)
    monkeypatch.setattr(console, "out", Console(width=60, force_terminal=True, no_color=True))
    ran = invoke("predict", "rsnn-nmnist-cl", *files)
    assert ran.exit_code == 0, ran.output
    shown = "".join(line.split("│")[1].strip() for line in ran.stdout.splitlines() if line.count("│") > 2)
    assert shown == "".join(map(str, files))


def test_predict_as_json_is_json_and_nothing_else():
    ran = run("predict", "rsnn-nmnist-cl", shipped.path(), "--json")
    assert ran.returncode == 0, ran.stderr
    (result,) = json.loads(ran.stdout)
    assert (result["label"], result["index"]) == ("3", 3)
    assert sum(result["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert result["milliseconds"] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode there")
@pytest.mark.parametrize("encoding", ["ascii", "utf-8:strict"])
def test_json_has_any_file_name_in_any_encoding(tmp_path, monkeypatch, encoding):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    names = ["ü.bin", os.fsdecode(b"\xff.bin")]  # the second is no UTF-8
    for name in names:
        shutil.copy(shipped.path(), tmp_path / name)
    ran = run("predict", "rsnn-nmnist-cl", *names, "--json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert [(result["file"], result["label"]) for result in json.loads(ran.stdout)] == [(name, "3") for name in names]


def test_one_bad_file_fails_the_command_but_not_the_others(tmp_path):
    (tmp_path / "text.bin").write_bytes(b"")
    ran = run("predict", "rsnn-nmnist-cl", tmp_path / "missing.bin", shipped.path(), tmp_path / "text.bin", "--json")
    assert ran.returncode == 1
    first, second, third = json.loads(ran.stdout)
    assert "does not exist" in first["error"]
    assert second["label"] == "3"
    assert "empty" in third["error"]


def test_a_bad_file_shows_one_line_and_no_traceback(tmp_path):
    ran = run("predict", "rsnn-nmnist-cl", tmp_path)
    assert ran.returncode == 1
    assert "is a directory" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_each_error_of_several_files_names_its_file(tmp_path):
    rsnn.data.write_events(tmp_path / "small.npz", rsnn.Events([0], [1], [1], [1], sensor_size=(8, 8)))
    (tmp_path / "empty.bin").write_bytes(b"")
    ran = invoke("predict", "rsnn-nmnist-cl", tmp_path / "small.npz", tmp_path / "empty.bin")
    assert ran.exit_code == 1
    first, second = (line for line in ran.stderr.splitlines() if line.startswith("error"))
    assert first.startswith(f"error: {tmp_path / 'small.npz'}: the recording's sensor is 8 x 8")
    assert second.startswith(f"error: {tmp_path / 'empty.bin'}")
    assert second.count("empty.bin") == 1


def test_a_wrong_model_name_suggests_the_nearest():
    ran = run("predict", "rsnn-nmist-cl", shipped.path())
    assert ran.returncode == 1
    assert "'rsnn-nmnist-cl'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_demo_plays_a_gesture_and_names_it(tmp_path):
    ran = run("demo", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "says air_guitar" in ran.stdout
    assert "after step  1: " in ran.stdout
    assert " ms a step" in ran.stdout
    assert "µJ" in ran.stdout
    assert ran.stdout.count("%") >= 15
    with Image.open(tmp_path / "rsnn-demo.gif") as picture:
        assert picture.n_frames == 20


def test_demo_takes_files_and_draws_each(tmp_path):
    files = (shipped.path(), shipped.path())
    ran = invoke("demo", *files, "--model", "rsnn-nmnist-cl", "--output", tmp_path / "seen.gif")
    assert ran.exit_code == 0, ran.output
    assert ran.output.count("says 3") == 2
    assert {file.name for file in tmp_path.iterdir()} == {"seen.gif", "seen-2.gif"}


def test_demo_of_a_gesture_that_there_is_none_of():
    ran = invoke("demo", "--gesture", "cartwheel")
    assert ran.exit_code == 1
    assert "no gesture 'cartwheel'; expected one of hand_clap" in " ".join(ran.output.split())
    ran = invoke("demo", "--gesture", "arm_rol")
    assert "Did you mean 'arm_roll'" in " ".join(ran.output.split())


def test_models_lists_names_and_weights():
    ran = invoke("models", "rsnn-nmnist-*")
    assert ran.exit_code == 0
    (line,) = (line for line in ran.stdout.splitlines() if "rsnn-nmnist-cl " in line)
    assert "first1000" in line
    for part in (" nmnist ", " 10 ", " MB ", "%", " µJ"):
        assert part in line
    untrained = ran.stdout.split("Untrained, from rsnn.create_model(name): ")[1]
    assert "rsnn-nmnist-cl-nopool" in untrained


def test_models_as_json():
    ran = invoke("models", "--pretrained", "--json")
    rows = json.loads(ran.stdout)
    assert [row["name"] for row in rows] == rsnn.list_models(pretrained=True)
    assert all(len(row["pretrained"]["sha256"]) == 64 for row in rows)
    assert all(row["pretrained"]["metrics"]["energy_joules"] > 0 for row in rows)
    (untrained,) = json.loads(invoke("models", "scnn-sign", "--json").stdout)
    assert untrained == {"name": "scnn-sign", "pretrained": None, "other_weights": []}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("zzz",), "no model of the zoo matches 'zzz'; expected a name or a glob"),
        (("rsnn-gestur-cl", "--json"), "Did you mean 'rsnn-gesture-cl'"),
        (("scnn-sign", "--pretrained"), "no model with published weights of the zoo matches 'scnn-sign'"),
    ],
)
def test_models_that_there_are_none_of(arguments, message):
    ran = invoke("models", *arguments)
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert message in " ".join(ran.stderr.split())


def test_info_shows_the_card_and_the_default_tag():
    ran = invoke("info", "rsnn-nmnist-cl")
    assert ran.exit_code == 0, ran.output
    assert "Default weights: rsnn-nmnist-cl.first1000" in ran.stdout
    for part in ("Limits", "SHA-256", "Accuracy", "Energy", "Input", "Reproduce", "Citation", "531,704 parameters"):
        assert part in ran.stdout
    assert "library_name" not in ran.stdout


def test_info_as_json():
    ran = invoke("info", "rsnn-nmnist-cl", "--json")
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert (found["class"], found["classes"], found["class_names"]) == ("RSNN", 10, list("0123456789"))
    assert found["pretrained"]["tag"] == "first1000"
    assert found["preprocessing"]["frame_size"] == [34, 34]
    assert found["card"].startswith("---\n")


def test_info_of_a_folder(tmp_path):
    model = rsnn.create_model("scnn-nmnist", num_classes=2, class_names=("yes", "no"))
    model.save_pretrained(tmp_path)
    ran = invoke("info", tmp_path)
    assert ran.exit_code == 0, ran.output
    parameters = sum(p.numel() for p in model.parameters())
    assert f"SCNN, {parameters:,} parameters, 2 classes" in " ".join(ran.stdout.split())
    assert "Classes: yes, no." in ran.stdout
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    damaged = invoke("info", tmp_path)
    assert damaged.exit_code == 1
    assert "SHA-256" in damaged.output


def test_info_of_a_folder_without_a_card(tmp_path):
    rsnn.create_model("scnn-nmnist").save_pretrained(tmp_path)
    (tmp_path / "README.md").unlink()
    ran = invoke("info", tmp_path)
    assert ran.exit_code == 0, ran.output
    assert "SCNN" in ran.stdout
    assert "It has no card." in ran.stdout
    assert "create_model" not in ran.stdout
    assert "no published weights" not in ran.stdout


def test_info_of_what_is_not_there(tmp_path):
    for name in ("missing.aedat", tmp_path / "missing.raw"):
        ran = invoke("info", name)
        assert ran.exit_code == 1
        assert f"{name}: no such file" in " ".join(ran.output.split())


def test_a_recording_whose_name_begins_like_a_home_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(shipped.path(), "~3.bin")
    for command in (("predict", "rsnn-nmnist-cl", "~3.bin"), ("info", "~3.bin"), ("convert", "~3.bin", "~3.npz")):
        ran = invoke(*command)
        assert ran.exit_code == 0, ran.output
    assert (tmp_path / "~3.npz").is_file()
    ran = invoke("evaluate", "rsnn-nmnist-cl", "--data", "~nobody/clips.npz")
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert "~nobody/clips.npz does not exist" in ran.stderr


def test_info_of_a_zoo_name_that_a_file_has_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rsnn-nmnist-cl.first1000").write_bytes(b"anything")
    ran = invoke("info", "rsnn-nmnist-cl.first1000")
    assert "SHA-256" in ran.stdout


def test_info_of_a_name_without_weights():
    ran = invoke("info", "scnn-sign")
    assert ran.exit_code == 0
    assert "no published weights" in ran.stdout
    found = json.loads(invoke("info", "scnn-sign", "--json").stdout)
    assert (found["class"], found["pretrained"], found["card"]) == ("SCNN", None, "")


def test_info_of_a_wrong_name_suggests():
    ran = invoke("info", "scnn-signs")
    assert ran.exit_code == 1
    assert "'scnn-sign'" in ran.output


def write_archive(path, count=4):
    events = rsnn.read_events(shipped.path())
    np.savez(
        path,
        t=np.tile(events.t, count),
        x=np.tile(events.x, count),
        y=np.tile(events.y, count),
        p=np.tile(events.p, count),
        offsets=np.arange(count + 1) * len(events),
        label=np.array([3, 3, 5, 3])[:count],
    )


def test_evaluate_prints_accuracy_and_interval(tmp_path):
    write_archive(tmp_path / "threes.npz")
    ran = invoke("evaluate", "rsnn-nmnist-cl", "--data", tmp_path / "threes.npz", "--json")
    assert ran.exit_code == 0, ran.output
    result = json.loads(ran.stdout)
    assert (result["samples"], result["accuracy"]) == (4, 0.75)
    assert result["per_class"] == {"3": 1.0, "5": 0.0}
    table = invoke("evaluate", "rsnn-nmnist-cl", "--data", tmp_path / "threes.npz", "--samples", "1:3")
    assert "accuracy 50.0% (2 recordings" in table.stdout


def test_evaluate_matches_classes_by_name(tmp_path):
    for name in ("5", "3"):  # of ten classes the model's numbers 5 and 3, in the folder 1 and 0
        (tmp_path / "clips" / name).mkdir(parents=True)
        shutil.copy(shipped.path(), tmp_path / "clips" / name / "0.bin")
    ran = invoke("evaluate", "rsnn-nmnist-cl", "--data", tmp_path / "clips", "--json")
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["per_class"] == {"3": 1.0, "5": 0.0}
    (tmp_path / "clips" / "5").rename(tmp_path / "clips" / "hand_clap")
    ran = invoke("evaluate", "rsnn-nmnist-cl", "--data", tmp_path / "clips")
    assert ran.exit_code == 1
    assert "clips has the classes '3', 'hand_clap'; the model has '0', '1'" in ran.stderr


def test_robustness_of_a_model_that_needs_the_whole_recording_says_what_is_left_out(tmp_path):
    rsnn.create_model("scnn-nmnist", num_frames=2, normalize="per-sample").save_pretrained(tmp_path / "whole")
    write_archive(tmp_path / "threes.npz", 1)
    ran = invoke("evaluate", tmp_path / "whole", "--data", tmp_path / "threes.npz", "--robustness")
    assert ran.exit_code == 0, ran.output
    assert "share of the events lost" in ran.stdout
    assert "steps: left out, for the model needs the whole recording at once" in ran.stdout


def test_evaluate_wants_more_than_a_recording():
    ran = invoke("evaluate", "rsnn-nmnist-cl", "--data", shipped.path())
    assert ran.exit_code == 1
    assert "digit_3.bin is one recording (N-MNIST bin), whose class nothing says; expected an archive" in ran.stderr


@pytest.mark.parametrize("chosen", ["9:", "2", "a:b", "3:2"])
def test_evaluate_refuses_samples_that_are_none(tmp_path, chosen):
    write_archive(tmp_path / "threes.npz")
    ran = invoke("evaluate", "rsnn-nmnist-cl", "--data", tmp_path / "threes.npz", "--samples", chosen)
    assert ran.exit_code == 1
    assert f"--samples '{chosen}'" in ran.output


@pytest.mark.slow
def test_the_published_accuracy_is_what_evaluate_prints(samples):
    ran = run("evaluate", "rsnn-nmnist-cl", "--data", samples / "nmnist_1000.npz", "--samples", "800:1000", "--json")
    assert ran.returncode == 0, ran.stderr
    (row,) = (row for row in json.loads(invoke("models", "--json").stdout) if row["name"] == "rsnn-nmnist-cl")
    assert json.loads(ran.stdout)["accuracy"] == pytest.approx(row["pretrained"]["metrics"]["accuracy"], abs=0.0051)
    assert json.loads(ran.stdout)["accuracy"] >= 0.95


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")  # noqa: PTH110
@pytest.mark.parametrize("command", ["info", "evaluate"])
def test_output_that_cannot_be_written_is_one_line(tmp_path, command):
    write_archive(tmp_path / "threes.npz", 1)
    options = ["--data", tmp_path / "threes.npz"] if command == "evaluate" else []
    with open("/dev/full", "w") as full:  # noqa: PTH123
        ran = subprocess.run(
            [sys.executable, "-m", "rsnn", command, "rsnn-nmnist-cl", *options],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ran.returncode == 1
    assert "error: the output cannot be written" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_sizes_are_written_as_width_x_height():
    assert parse_size("346x260") == (346, 260)
    assert parse_size(None) is None
    for text in ("346", "axb", "1x2x3", "", "²x3"):
        with pytest.raises(InputError, match="WIDTHxHEIGHT"):
            parse_size(text)


def test_doctor_names_the_kernels():
    ran = invoke("doctor")
    assert ran.exit_code == 0
    assert "spikingjelly" in ran.stdout
    assert f"LIF by '{kernels.selected('cpu')}'" in ran.stdout


def test_no_arguments_show_the_help():
    ran = run()
    assert "predict" in ran.stdout
    assert "evaluate" in ran.stdout


def test_the_version_is_told():
    ran = invoke("--version")
    assert (ran.exit_code, ran.stdout) == (0, f"rsnn {rsnn.__version__}\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_that_cannot_be_written(option):
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "rsnn", option], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: the output cannot be written")
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize("suffix", [".npz", ".gif"])
def test_nothing_is_written_over_what_it_is_made_of(tmp_path, suffix):
    source = tmp_path / f"a{suffix}"
    made = invoke("convert", shipped.path(), source)
    assert made.exit_code == 0, made.output
    (tmp_path / f"link{suffix}").symlink_to(source)
    before = source.read_bytes()
    for target in (source, tmp_path / f"link{suffix}"):
        words = ("convert",) if suffix == ".npz" else ("simulate", "--format", "numpy")
        ran = invoke(words[0], source, target, *words[1:])
        assert ran.exit_code == 1
        assert "is the file that is read; expected another name" in ran.stderr
        assert source.read_bytes() == before


def test_test_samples_without_a_test_part(tmp_path):
    write_archive(tmp_path / "a.npz")
    words = ("--data", tmp_path / "a.npz", "--test-samples", "0:2", "--output", tmp_path / "run")
    ran = invoke("train", "rsnn-nmnist-cl", *words)
    assert ran.exit_code == 1
    assert "--test-samples 0:2 without --test" in ran.stderr
