"""Every bundled checkpoint: found, verified, replayed, and described by its card."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

import rsnn
from rsnn import hub
from rsnn.data import samples as shipped
from rsnn.zoo.weights import CHECKPOINTS, WEIGHTS

ROOT = Path(__file__).parent.parent.parent
REPLAYS = ROOT / "tests" / "zoo" / "replays"
BUNDLED = [entry for entry in WEIGHTS if entry.folder is not None]


@pytest.fixture(params=BUNDLED, ids=lambda entry: entry.full_name)
def entry(request):
    return request.param


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a bundled checkpoint needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_there_are_bundled_checkpoints():
    assert "rsnn-nmnist-cl" in {entry.name for entry in BUNDLED}


def test_the_table_is_plain_data_and_the_folders_are_its_own():
    rows = json.loads((Path(rsnn.zoo.__file__).parent / "weights.json").read_text("utf-8"))
    assert len({(row["name"], row["tag"]) for row in rows}) == len(rows)
    for row in rows:
        assert row["name"] in rsnn.list_models()
        assert re.fullmatch(r"[\w-]+", row["tag"])
        assert re.fullmatch(r"[0-9a-f]{64}", row["sha256"])
        assert all(type(row[key]) is int and row[key] > 0 for key in ("size_bytes", "parameters", "classes"))
        assert all(type(row[key]) is str and row[key] for key in ("data", "split", "licence"))
        assert all(type(value) in (int, float) for value in row["metrics"].values())
        assert 0 <= row["metrics"]["accuracy"] <= 1
        assert row["metrics"]["energy_joules"] > 0
        assert (row.get("repo") is None) == (row.get("commit") is None)
    bundled = {entry.full_name for entry in BUNDLED}
    assert {path.name for path in CHECKPOINTS.iterdir()} == bundled
    assert {path.stem for path in REPLAYS.iterdir()} == bundled
    assert {path.stem for path in (ROOT / "scripts" / "cards").iterdir()} >= bundled
    assert sum(entry.size_bytes for entry in BUNDLED) < 60e6, "the wheel has to stay small: publish with --half"


def test_it_loads_without_a_network_by_name_and_by_tag(entry, no_network):
    by_name = rsnn.load(entry.name)
    by_tag = rsnn.load(entry.full_name)
    assert not by_name.training
    assert {p.device.type for p in by_name.parameters()} == {"cpu"}
    assert sum(p.numel() for p in by_name.parameters()) == entry.parameters
    assert by_name.num_classes == entry.classes == len(by_name.class_names)
    for name, tensor in by_tag.state_dict().items():
        assert torch.equal(tensor, by_name.state_dict()[name])


def replay_of(entry):
    """Return the stored input and what the checkpoint made of it (see scripts/publish_checkpoint.py)."""
    with np.load(REPLAYS / f"{entry.full_name}.npz", allow_pickle=False) as file:
        stored = {name: torch.from_numpy(file[name]) for name in file.files}
    return stored | {"frames": stored["frames"].float()}


DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kernel", rsnn.kernels.available())
def test_replay(entry, kernel, device):
    stored = replay_of(entry)
    model = rsnn.load(entry.full_name).to(device)
    frames = stored["frames"].to(device)
    with rsnn.kernels.use(kernel), torch.no_grad():
        features, logits = model.forward_features(frames).cpu(), model(frames).cpu()
    sampled = features.flatten()[:: int(stored["stride"])]
    torch.testing.assert_close(sampled, stored["features"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features.double().mean((1, 3, 4)), stored["feature_means"], atol=1e-6, rtol=1e-5)
    # Votes are counts of spikes over steps and voters: the smallest possible difference is well above this.
    torch.testing.assert_close(logits, stored["logits"], atol=1e-4, rtol=1e-4)


def test_a_replay_is_small_and_its_prediction_right(entry):
    """A few kilobytes of every feature's place; changed weights, or another order of classes, would be seen."""
    stored = replay_of(entry)
    assert (REPLAYS / f"{entry.full_name}.npz").stat().st_size < 400_000
    assert stored["features"].numel() >= 500
    assert stored["features"].unique().numel() > 1
    logits = stored["logits"][0]
    assert logits.max() - logits.median() > 0.1


def test_saving_and_loading_is_bit_equal(entry, tmp_path):
    model = rsnn.load(entry.full_name)
    model.save_pretrained(tmp_path / "copy")
    again = type(model).from_pretrained(tmp_path / "copy")
    frames = replay_of(entry)["frames"]
    with torch.no_grad():
        assert torch.equal(model(frames), again(frames))
    assert (again.class_names, again.preprocessing) == (model.class_names, model.preprocessing)


def test_another_number_of_classes_replaces_the_last_layer_only(entry):
    model = rsnn.load(entry.full_name)
    fewer = rsnn.create_model(entry.name, pretrained=True, num_classes=4)
    before, after = model.state_dict(), fewer.state_dict()
    changed = [
        name for name in before if not (after[name].shape == before[name].shape and after[name].equal(before[name]))
    ]
    (layer,) = {name.rpartition(".")[0] for name in changed}
    assert layer.startswith("classifier.")
    assert before[f"{layer}.weight"].shape[0] % model.num_classes == 0
    assert fewer.class_names is None


def test_the_entry_is_the_file(entry):
    weights = entry.folder / hub.WEIGHTS_FILE
    assert hub.sha256_of(weights) == entry.sha256
    assert weights.stat().st_size == entry.size_bytes


def test_the_card_has_the_hubs_metadata_and_the_entrys_figures(entry):
    card = ModelCard((entry.folder / hub.CARD_FILE).read_text("utf-8"))
    assert card.data.library_name == "rsnn"
    assert card.data.license == entry.licence.lower()
    assert card.data.datasets == [entry.data.replace(" ", "-")]  # the Hub takes no spaces
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", entry.metrics["accuracy"])
    for part in ("## Data", "## Accuracy", "## Energy", "## Input", "## Limits", "## Reproduce", "## Citation"):
        assert part in card.text
    for name in rsnn.load(entry.name).class_names:
        assert f"| {name} |" in card.text


def test_the_nmnist_checkpoint_names_the_shipped_digit():
    result = rsnn.RSNN.from_pretrained("rsnn-nmnist-cl").predict(shipped.path())
    assert result.label == "3"
    assert result.probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_the_nmnist_checkpoint_on_a_real_recording(samples):
    result = rsnn.RSNN.from_pretrained("rsnn-nmnist-cl").predict(samples / "formats" / "sample_nmnist.bin")
    assert result.probabilities[result.index] == result.probabilities.max()
    assert result.label in "0123456789"
