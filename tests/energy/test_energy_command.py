"""`rsnn energy`, and what `energy_report` takes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

import rsnn
from rsnn.cli import app
from rsnn.data import samples as shipped
from rsnn.energy import energy_models

SIZE = (12, 10)


def small_model():
    torch.manual_seed(0)
    encoder = rsnn.nn.ConvLSTMEncoder(2, (2,), pool=2)
    classifier = rsnn.nn.SCNN(2, 3, (6, 5), (2,), channels=4, votes=2)
    return rsnn.RSNN(encoder, classifier, preprocessing=rsnn.Preprocessing(SIZE, num_frames=4)).eval()


def recording(seed):
    generator = np.random.default_rng(seed)
    columns = {
        "x": generator.integers(0, 10, 200),
        "y": generator.integers(0, 12, 200),
        "p": generator.integers(0, 2, 200),
    }
    return rsnn.Events(t=np.sort(generator.integers(0, 50_000, 200)), **columns, sensor_size=(10, 12))


def invoke(*arguments):
    return CliRunner().invoke(app, ["energy", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("energy")
    small_model().save_pretrained(path / "model")
    recordings = [recording(seed) for seed in range(3)]
    columns = {name: np.concatenate([getattr(events, name) for events in recordings]) for name in "txyp"}
    np.savez(path / "many.npz", **columns, offsets=np.arange(4) * 200, sensor_size=np.array([10, 12]))
    np.savez(
        path / "one.npz", **{name: getattr(recordings[1], name) for name in "txyp"}, sensor_size=np.array([10, 12])
    )
    return path


def test_json_is_the_report(folder):
    ran = invoke(folder / "model", "--data", folder / "many.npz", "--samples", "1:3", "--json")
    assert ran.exit_code == 0, ran.output
    said = json.loads(ran.stdout)
    report = rsnn.energy_report(small_model(), [recording(1), recording(2)])
    assert {key: said[key] for key in report.to_dict()} == json.loads(json.dumps(report.to_dict()))
    assert (said["first"], said["end"], said["samples"]) == (1, 3, 2)
    row = said["layers"][0]
    assert {"mac", "dense_mac", "ac", "dense_ac", "spikes", "firing_rate", "activation_sparsity"} < set(row)
    assert {"weight_sparsity", "parameters", "state_bytes", "activation_bytes", "joules"} < set(row)


def test_one_recording_and_another_energy_model(folder):
    ran = invoke(folder / "model", "--data", folder / "one.npz", "--costs", "lemaire", "--json")
    assert ran.exit_code == 0, ran.output
    wanted = rsnn.energy_report(small_model(), recording(1), energy="lemaire").total.joules
    assert json.loads(ran.stdout)["total"]["joules"] == pytest.approx(wanted)


def test_tables_for_people(folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ran = invoke(folder / "model", "--data", folder / "one.npz")
    assert ran.exit_code == 0, ran.output
    lines = ran.stdout.splitlines()
    tables = [line for line in lines[1:] if not line.startswith("Energy: ")]  # sentences are broken by the terminal
    assert max(map(len, tables)) <= 80
    for text in (
        "encoder.layers.0.input_gates",
        "classifier (decision part)",
        "firing rate",
        "state bytes",
        "Horowitz",
    ):
        assert any(text in line for line in lines), text


def test_without_data_the_recording_that_ships_is_counted():
    ran = invoke("rsnn-nmnist-cl", "--untrained", "--json")
    assert ran.exit_code == 0, ran.output
    said = json.loads(ran.stdout)
    assert (said["data"], said["samples"]) == (shipped.path().name, 1)
    assert said["not_counted"] == {}
    assert said["total"]["parameters"] == sum(p.numel() for p in rsnn.create_model("rsnn-nmnist-cl").parameters())


def test_a_name_without_weights_is_told_how_it_is_counted():
    ran = invoke("slayer-gesture")
    assert ran.exit_code == 1
    assert "'slayer-gesture' has no published weights; --untrained counts it with random ones" in ran.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nothing.npz"], "nothing.npz does not exist"),
        (["--costs", "horowits"], "Did you mean 'horowitz'"),
        (["--samples", "5:9"], "chooses none"),
    ],
)
def test_mistakes_are_one_line(folder, arguments, message):
    ran = invoke(folder / "model", *(["--data", folder / "one.npz"] if "--data" not in arguments else []), *arguments)
    assert ran.exit_code == 1
    assert message in ran.output
    assert "Traceback" not in ran.output


def test_samples_of_nothing(folder):
    ran = invoke(folder / "model", "--samples", "3:1")
    assert ran.exit_code == 1
    assert "--samples is for the recordings of --data, and without it" in ran.output


def test_the_help_names_every_energy_model():
    text = CliRunner().invoke(app, ["energy", "--help"], env={"COLUMNS": "200"}).output
    assert all(name in text for name in energy_models())


def test_recordings_in_every_form():
    """Frames, events, lists of them, with labels, a loader: the same report."""
    model = small_model()
    recordings = [recording(0), recording(1)]
    frames = torch.stack([model.preprocessing.frames(events) for events in recordings], dim=1)
    wanted = rsnn.energy_report(model, frames).to_dict()
    loader = DataLoader(
        TensorDataset(frames.transpose(0, 1), torch.zeros(2)),
        batch_size=1,
        collate_fn=lambda rows: (torch.stack([row[0] for row in rows], 1), torch.tensor([row[1] for row in rows])),
    )
    for form in (recordings, [(events, 0) for events in recordings], loader, [frames[:, :1], frames[:, 1:]]):
        assert rsnn.energy_report(model, form).to_dict() == wanted
    with pytest.raises(rsnn.RSNNError, match="without preprocessing"):
        rsnn.energy_report(model.encoder, recordings[0])
    model.encoder = rsnn.nn.ConvLSTMEncoder(3, (2,), pool=2)
    with pytest.raises(rsnn.RSNNError, match="takes frames of 3 channels, and a recording becomes frames of 2"):
        rsnn.energy_report(model, recordings[0])
