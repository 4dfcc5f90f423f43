"""Checkpoints of this format version and of every one before it keep loading and keep saying what they said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import rsnn
from rsnn.errors import CheckpointError
from rsnn.hub import FORMAT_VERSION

STORED = Path(__file__).parent / "stored"
FOLDERS = sorted(path.parent for path in STORED.glob("v*/*/config.json"))


def name_of(folder):
    return str(folder.relative_to(STORED))


def test_there_are_some_of_every_version():
    assert {path.parent.name for path in FOLDERS} == {f"v{version + 1}" for version in range(FORMAT_VERSION)}
    for folder in FOLDERS:
        config = json.loads((folder / "config.json").read_text())
        assert f"v{config['format_version']}" == folder.parent.name
        assert sum(path.stat().st_size for path in folder.iterdir()) < 60_000


@pytest.mark.parametrize("kernel", rsnn.kernels.available())
@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_replay(folder, kernel):
    """Within the order of summation: no potential of the stored spiking models lies near its threshold."""
    model = rsnn.load(folder)
    stored = load_file(folder / "replay.safetensors")
    frames = stored["frames"].float()
    with torch.no_grad(), rsnn.kernels.use(kernel):
        torch.testing.assert_close(model.forward_features(frames), stored["features"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model(frames), stored["logits"], rtol=1e-5, atol=1e-6)


def test_labels_and_preprocessing():
    model = rsnn.RSNN.from_pretrained(STORED / "v1" / "rsnn")
    assert model.class_names == ("links", "rechts", "weder … noch")
    assert model.preprocessing == rsnn.Preprocessing((16, 16), 5, "number", "log1p", window_ms=1500)
    assert model.logit_scale == 10.0
    assert (model.classifier.v_reset, model.classifier.surrogate) == (None, rsnn.kernels.Sigmoid(3.0))
    assert rsnn.SCNN.from_pretrained(STORED / "v1" / "scnn").preprocessing is None


def test_arguments_that_were_not_there_yet_take_their_default(tmp_path):
    """An argument that a later version adds needs no new format: checkpoints without it mean its default."""
    shutil.copytree(STORED / "v1" / "rsnn", tmp_path / "older")
    config = json.loads((tmp_path / "older" / "config.json").read_text())
    assert config["model"]["classifier"].pop("in_pool") == 1
    assert config["model"]["preprocessing"].pop("window_ms") == 1500
    (tmp_path / "older" / "config.json").write_text(json.dumps(config))
    model = rsnn.load(tmp_path / "older")
    assert model.classifier.in_pool == 1
    assert model.preprocessing.window_ms is None
    stored = load_file(STORED / "v1" / "rsnn" / "replay.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(model(stored["frames"].float()), stored["logits"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_a_newer_format_is_refused_with_advice(folder, tmp_path):
    newer = tmp_path / "newer"
    shutil.copytree(folder, newer)
    config = json.loads((newer / "config.json").read_text())
    config |= {"format_version": FORMAT_VERSION + 1, "something_new": {}}
    (newer / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"saved by a newer one\. Upgrade with: pip install --upgrade rsnn"):
        rsnn.load(newer)
