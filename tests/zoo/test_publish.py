"""Publishing a checkpoint, from the folder of a run to what a user loads and reads, in a project of its own."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from safetensors.torch import load_file

import rsnn
from rsnn import hub, nn
from rsnn.errors import InputError
from rsnn.models import cards

ROOT = Path(__file__).parent.parent.parent
CLASSES = ("left", "middle", "right")
SIZE = 12

FACTS = """
dataset = "bars"
data = "Bars that were made up."
split = "All of them."
part = "validation"
evaluated_on = "validation part"
reproduce = "rsnn train bars"
limits = "Knows nothing but bars."
licence = "Apache-2.0"
benchmark = ["someone/bars", "default"]
[sections]
"On real recordings" = "None | were tried."
"""


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import publish_checkpoint
    finally:
        sys.path.pop(0)
    return publish_checkpoint


def bar(label, rng):
    """Events in one third of the columns."""
    n = 200
    x = rng.integers(0, 4, n) + 4 * label
    return {"t": np.sort(rng.integers(0, 10**6, n)), "x": x, "y": rng.integers(0, SIZE, n), "p": rng.integers(0, 2, n)}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """24 recordings; the class names are there in another order than the model's."""
    rng = np.random.default_rng(0)
    recordings = [bar(i % 3, rng) for i in range(24)]
    path = tmp_path_factory.mktemp("data") / "bars.npz"
    columns = {name: np.concatenate([recording[name] for recording in recordings]) for name in "txyp"}
    np.savez(
        path,
        **columns,
        offsets=np.arange(25) * 200,
        label=np.array([2 - i % 3 for i in range(24)]),
        class_names=np.array(CLASSES[::-1]),
        sensor_size=np.array([SIZE, SIZE]),
    )
    return path


@pytest.fixture(scope="module")
def trained(archive):
    """A spiking model that tells the bars apart."""
    torch.manual_seed(0)
    model = rsnn.RSNN(
        nn.ConvLSTMEncoder(2, (3,)),
        nn.SCNN(3, 3, (6, 6), (2,), channels=8, votes=4),
        class_names=CLASSES,
        preprocessing=rsnn.Preprocessing((SIZE, SIZE), 6),
        logit_scale=10.0,
    )
    recordings = rsnn.data.EventArchive(archive)
    frames = torch.stack([model.preprocessing.frames(events) for events in recordings], 1)
    labels = torch.arange(24) % 3
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(frames), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (model.eval()(frames).argmax(1) == labels).all()
    return model


@pytest.fixture
def project(tmp_path):
    """The places that publishing writes to, empty."""
    root = tmp_path / "project"
    for folder in ("rsnn/zoo", "tests", "scripts/cards"):
        (root / folder).mkdir(parents=True)
    (root / "rsnn/zoo/weights.json").write_text("[]\n")
    (root / "README.md").write_text(
        "# Before\n<!-- checkpoints: begin -->\nold\n<!-- checkpoints: end -->\nAfter: \\1\n"
    )
    for tag in ("one", "two"):
        (root / f"scripts/cards/rsnn-sign-cl.{tag}.toml").write_text(FACTS)
    return root


@pytest.fixture
def run(trained, tmp_path):
    folder = tmp_path / "run"
    trained.save_pretrained(folder / "best")
    (folder / "metrics.json").write_text('{"selected_accuracy": 0.97, "last_accuracy": 0.96}')
    return folder


def options(run, archive, **changes):
    known = {
        "run": run,
        "name": "rsnn-sign-cl",
        "tag": "one",
        "data": str(archive),
        "samples": ":",
        "runs": [],
        "card": None,
        "metrics": None,
        "half": False,
        "default": False,
        "energy_samples": 4,
    }
    return argparse.Namespace(**known | changes)


def entries(project):
    return json.loads((project / "rsnn/zoo/weights.json").read_text())


def test_everything_that_is_published(tool, project, run, archive, trained, tmp_path):
    (tmp_path / "more.json").write_text('{"real_clips_accuracy": 0.75, "events_per_second": 80000}')
    said = tool.publish(options(run, archive, metrics=tmp_path / "more.json"), project)
    assert said.startswith("rsnn-sign-cl.one: 100.0% of 24, ")
    folder = project / "rsnn/zoo/checkpoints/rsnn-sign-cl.one"
    assert sorted(p.name for p in folder.iterdir()) == [
        ".eval_results",
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    model = rsnn.load(folder)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)

    (entry,) = entries(project)
    weights = folder / "model.safetensors"
    assert (entry["name"], entry["tag"], entry["classes"], entry["data"]) == ("rsnn-sign-cl", "one", 3, "bars")
    assert (entry["sha256"], entry["size_bytes"]) == (hub.sha256_of(weights), weights.stat().st_size)
    assert entry["parameters"] == sum(p.numel() for p in trained.parameters())
    metrics = entry["metrics"]
    frames = torch.stack([model.preprocessing.frames(e) for e in rsnn.data.EventArchive(archive)], 1)
    joules = [rsnn.energy_report(model, frames[:, i : i + 1]).total.joules for i in range(24)]
    assert min(joules) <= metrics.pop("energy_joules") <= max(joules)
    assert metrics == {
        "accuracy": 1.0,
        "samples": 24,
        "seeds": 1,
        "last_epoch_accuracy": 0.96,
        "real_clips_accuracy": 0.75,
        "events_per_second": 80000,
    }
    # As plain data it is what the library reads.
    assert hub.WeightsEntry(**entry).full_name == "rsnn-sign-cl.one"

    readme = (project / "README.md").read_text()
    assert readme.startswith("# Before\n")
    assert readme.endswith("<!-- checkpoints: end -->\nAfter: \\1\n")
    assert "old" not in readme
    assert "| `rsnn-sign-cl` (`.one`) | bars | 3 |" in readme
    assert "100.0%, validation part" in readme


def test_the_card(tool, project, run, archive):
    tool.publish(options(run, archive), project)
    folder = project / "rsnn/zoo/checkpoints/rsnn-sign-cl.one"
    card = ModelCard((folder / "README.md").read_text("utf-8"))
    card.data.to_dict()
    assert (card.data.library_name, card.data.license, card.data.datasets) == ("rsnn", "apache-2.0", ["bars"])
    assert card.data.tags == ["event-camera", "neuromorphic", "spiking-neural-network", "convlstm"]
    (result,) = card.data.eval_results
    assert (result.dataset_type, result.dataset_split) == ("bars", "validation")
    assert (result.metric_type, result.metric_value) == ("accuracy", 1.0)
    for line in (
        "# rsnn-sign-cl.one",
        "**100.0%** on the validation part: 24 recordings, 95 % interval 86.2% to 100.0% (Wilson).",
        "| 0 | 97.0% | 96.0% |",
        "| middle | 100.0% |",
        "## On real recordings",
        "Knows nothing but bars.",
        "rsnn train bars",
        "6 frames of equal duration, 12 x 12 pixels",
        "Not as `rsnn.create_model('rsnn-sign-cl')` builds it: encoder.hidden_channels [3] instead of [4, 6]; ",
        "preprocessing.num_frames 6 instead of 20",
    ):
        assert line in card.text
    assert "| total |" in card.text.split("## Energy")[1].split("## Input")[0]
    # The Hub's own reader of benchmark results.
    (file,) = (folder / ".eval_results").iterdir()
    (row,) = parse_eval_result_entries(yaml.safe_load(file.read_text()))
    assert (row.dataset_id, row.task_id, row.value, row.notes) == ("someone/bars", "default", 1.0, "validation part")


def test_the_replay(tool, project, run, archive, trained):
    tool.publish(options(run, archive), project)
    with np.load(project / "tests/zoo/replays/rsnn-sign-cl.one.npz", allow_pickle=False) as stored:
        frames = torch.from_numpy(stored["frames"]).float()
        features = trained.forward_features(frames).detach()
        assert np.array_equal(features.flatten()[:: int(stored["stride"])].numpy(), stored["features"])
        np.testing.assert_allclose(features.double().mean((1, 3, 4)).numpy(), stored["feature_means"])
        assert np.array_equal(trained(frames).detach().numpy(), stored["logits"])
    assert frames.shape == (6, 1, 2, SIZE, SIZE)


def test_a_replay_is_found_or_refused(tool, trained, archive):
    """What is classified wrong is no replay, nor is a model that says the same of everything."""
    frames = [trained.preprocessing.frames(events) for events in rsnn.data.EventArchive(archive)]
    wrong = [(f, (i + 1) % 3) for i, f in enumerate(frames)]
    with pytest.raises(InputError, match="none of 24 recordings is classified right"):
        tool.replay(trained, wrong)
    assert tool.replay(trained, [*wrong, (frames[5], 2)])["logits"].argmax() == 2
    silent = rsnn.load(archive_copy(trained, archive))
    silent.classifier.output.linear.weight.data.zero_()
    with pytest.raises(InputError, match="none of 8 recordings"):
        tool.replay(silent, [(f, 0) for f in frames[::3]])


def archive_copy(trained, archive):
    folder = archive.parent / "copy"
    trained.save_pretrained(folder)
    return folder


def test_half_precision(tool, project, run, archive):
    """The figures are of the rounded weights, which are half as large."""
    tool.publish(options(run, archive), project)
    tool.publish(options(run, archive, tag="two", half=True), project)
    single, half = (project / f"rsnn/zoo/checkpoints/rsnn-sign-cl.{tag}" for tag in ("one", "two"))
    stored = load_file(half / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values() if tensor.ndim > 1} == {torch.float16}
    assert {t.dtype for t in stored.values() if t.ndim == 1} == {torch.float32}
    assert {t.dtype for t in rsnn.load(half).parameters()} == {torch.float32}
    sizes = [entry["size_bytes"] for entry in entries(project)]
    assert sizes[1] < 0.75 * sizes[0]
    assert "stored in half precision" in (half / "README.md").read_text()
    assert "stored in single precision" in (single / "README.md").read_text()
    with np.load(project / "tests/zoo/replays/rsnn-sign-cl.two.npz") as replay, torch.no_grad():
        assert np.array_equal(rsnn.load(half)(torch.from_numpy(replay["frames"]).float()), replay["logits"])


def test_the_default_and_publishing_again(tool, project, run, archive):
    tool.publish(options(run, archive), project)
    tool.publish(options(run, archive, tag="two"), project)
    assert [entry["tag"] for entry in entries(project)] == ["one", "two"]
    tool.publish(options(run, archive, tag="two", default=True), project)
    assert [entry["tag"] for entry in entries(project)] == ["two", "one"]
    tool.publish(options(run, archive), project)
    assert [entry["tag"] for entry in entries(project)] == ["two", "one"]
    assert {p.name for p in (project / "rsnn/zoo/checkpoints").iterdir()} == {"rsnn-sign-cl.one", "rsnn-sign-cl.two"}


def test_several_runs_and_a_part_of_the_data(tool, project, run, archive, tmp_path):
    shutil.copytree(run, tmp_path / "other")
    (tmp_path / "other/metrics.json").write_text(
        '{"rsnn-sign-cl": {"selected_accuracy": 0.5, "last_accuracy": 0.25}, "selected_accuracy": 0.1}'
    )
    tool.publish(options(run, archive, runs=[tmp_path / "other"], samples="20:"), project)
    (entry,) = entries(project)
    assert (entry["metrics"]["samples"], entry["metrics"]["seeds"]) == (4, 2)
    card = (project / "rsnn/zoo/checkpoints/rsnn-sign-cl.one/README.md").read_text()
    assert "| 1 | 50.0% | 25.0% |" in card


def test_what_cannot_be_published_changes_nothing(tool, project, run, archive, tmp_path):
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    card = project / "scripts/cards/rsnn-sign-cl.one.toml"
    others = tmp_path / "others.npz"
    with np.load(archive) as file:
        kept = {name: file[name] for name in file.files if name != "class_names"}
    np.savez(others, **kept, class_names=np.array(["a", "b", "c"]))
    for message, changes in (
        ("'rsnn-signs-cl' is not a name of the zoo", {"name": "rsnn-signs-cl"}),
        ("has no checkpoint; expected config.json in it, or in one of rsnn-sign-cl, best", {"run": tmp_path}),
        ("the model is a RSNN; 'scnn-sign' is a SCNN", {"name": "scnn-sign", "card": card}),
        ("chooses none of the 24 recordings", {"samples": "30:"}),
        ("has the classes .*; the model has", {"data": str(others)}),
        ("is no folder", {"data": str(tmp_path / "nothing")}),
    ):
        with pytest.raises(rsnn.RSNNError, match=message):
            tool.publish(options(**{"run": run, "archive": archive} | changes), project)
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


def test_cells_of_a_table():
    figures = {"a|b_accuracy": 0.5, "joules": 1e-5, "n": 3}
    facts = cards.Facts("a", "b", "c", "d", "test", "e", "f", "g", "MIT", measured=figures)
    rows = cards._measured(facts)[1].splitlines()[2:]
    assert rows == [r"| a\|b accuracy | 50.0% |", "| joules | 1e-05 |", "| n | 3 |"]
