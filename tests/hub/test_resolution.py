"""What `from_pretrained` takes a text for, before anything is downloaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hub_clients import digest
from hub_models import files_of, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

import rsnn
from rsnn import hub, nn
from rsnn.errors import CheckpointError, InputError, RSNNError, UnknownNameError
from rsnn.hub import WeightsEntry

NAME = "rsnn-nmnist-cl"
SIZES = {"size_bytes": 1, "parameters": 1, "classes": 3}
ABOUT = {"data": "none", "split": "none", "metrics": {}, "licence": "Apache-2.0"}


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """Two bundled checkpoints of one name, tags `first` and `second`, and nothing else; an empty working directory."""
    entries = []
    for seed, tag in enumerate(("first", "second")):
        folder = tmp_path / "bundled" / f"{NAME}.{tag}"
        weights = files_of(small_model(seed), folder)["model.safetensors"]
        sha256 = hashlib.sha256(weights).hexdigest()
        entries.append(WeightsEntry(name=NAME, tag=tag, sha256=sha256, folder=folder, **SIZES, **ABOUT))
    monkeypatch.setattr(hub.entries, "index", hub.entries.Index())
    hub.register(entries, rsnn.zoo.BUILDERS)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return entries


def test_zoo_names_and_tags(zoo):
    assert digest(rsnn.load(NAME)) == digest(small_model(0))
    assert digest(rsnn.load(f"{NAME}.first")) == digest(small_model(0))
    assert digest(rsnn.load(f"{NAME}.second")) == digest(small_model(1))
    assert digest(rsnn.create_model(f"{NAME}.second", pretrained=True)) == digest(small_model(1))
    assert rsnn.list_models(pretrained=True) == [NAME]


def test_loaded_models_are_in_eval_mode_on_the_cpu(zoo):
    model = rsnn.RSNN.from_pretrained(NAME)
    assert not any(module.training for module in model.modules())
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_unknown_tag_lists_the_tags(zoo):
    with pytest.raises(UnknownNameError, match=rf"'{NAME}' has no weights tagged 'third'; there is .*first.*second"):
        rsnn.load(f"{NAME}.third")


def test_bundled_file_that_is_not_the_published_one(zoo):
    weights = zoo[0].folder / "model.safetensors"
    weights.write_bytes((zoo[1].folder / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=rf"{NAME}\.first: .* SHA-256 .* published is .* The file was not used"):
        rsnn.load(NAME)


def test_a_folder_never_shadows_a_zoo_name(zoo):
    own = small_model(seed=7)
    own.save_pretrained(NAME)
    assert Path(NAME).is_dir()
    assert digest(rsnn.load(NAME)) == digest(small_model(0))
    for path in (f"./{NAME}", f"./{NAME}/", str(Path(NAME).resolve()), Path(NAME), f"../here/{NAME}"):
        assert digest(rsnn.RSNN.from_pretrained(path)) == digest(own)


def test_a_folder_without_path_signs_is_an_error_that_says_how_to_write_it(zoo):
    own = small_model(seed=7)
    own.save_pretrained("mine")
    with pytest.raises(UnknownNameError, match=r"'mine' is not a zoo name.*write '\./mine'"):
        rsnn.load("mine")
    own.save_pretrained("rsnn-gesture-cla")  # a zoo name, without weights in this zoo
    with pytest.raises(UnknownNameError, match=r"no published weights.*write '\./rsnn-gesture-cla'"):
        rsnn.load("rsnn-gesture-cla")
    own.save_pretrained("a/b/c")
    with pytest.raises(UnknownNameError, match=r"write '\./a/b/c'"):
        rsnn.load("a/b/c")


def test_files_and_runs_are_answered_with_the_folder_to_load(zoo, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    model = rsnn.load(NAME)
    model.save_pretrained("./runs/one/model")
    for name in ("config.json", "model.safetensors"):
        with pytest.raises(UnknownNameError, match=r"To load the folder write '\./runs/one/model'\."):
            rsnn.load(f"runs/one/model/{name}")
    said = r"has no config\.json; expected a folder .*: the model of this run is in \./runs/one/model"
    with pytest.raises(CheckpointError, match=said):
        rsnn.load("./runs/one")
    with pytest.raises(CheckpointError, match=said):
        rsnn.hub.push("./runs/one", "me/one")
    assert rsnn.load("./runs/one/model").class_names == model.class_names


def test_home_is_a_path(zoo, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    small_model(seed=7).save_pretrained(tmp_path / "mine")
    assert digest(rsnn.load("~/mine")) == digest(small_model(seed=7))


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("rsnn-nmnist-cll", "Did you mean 'rsnn-nmnist-cl'"),
        ("rsnn_gesture_cl", "Did you mean .*'rsnn-gesture-cl'"),
        ("RSNN-NMNIST-CL", "With weights: rsnn-nmnist-cl"),
        ("", "With weights: rsnn-nmnist-cl"),
        ("hf-hub:nothing", "With weights: rsnn-nmnist-cl"),
    ],
)
def test_anything_else_lists_the_nearest_names(zoo, text, near):
    with pytest.raises(UnknownNameError, match=f"is not a zoo name.*{near}"):
        rsnn.load(text)


def test_names_without_weights(zoo):
    with pytest.raises(
        UnknownNameError, match=r"no published weights; create_model\('scnn-sign'\) builds it untrained"
    ):
        rsnn.load("scnn-sign")
    with pytest.raises(UnknownNameError, match="pretrained=True"):
        rsnn.create_model(f"{NAME}.second")


def test_missing_folders(zoo, tmp_path):
    with pytest.raises(CheckpointError, match=r"'\./nothing' does not exist"):
        rsnn.load("./nothing")
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"is a file; expected its folder, {tmp_path}, that save_pretrained"):
        rsnn.load(file)
    file.rename(tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match="is a file; expected a folder"):
        rsnn.load(tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        rsnn.load(".")
    with pytest.raises(CheckpointError, match="cannot be opened"):
        rsnn.load("./" + "a" * 5000)


def test_arguments_that_contradict_each_other(zoo):
    with pytest.raises(InputError, match="weights are pinned; revision='main'"):
        rsnn.RSNN.from_pretrained(NAME, revision="main")
    with pytest.raises(InputError, match="is a folder; revision='main'"):
        rsnn.RSNN.from_pretrained("./here", revision="main")
    for wrong in (None, 3, b"./here"):
        with pytest.raises(InputError, match="expected a zoo name, a path"):
            rsnn.load(wrong)


@pytest.mark.parametrize("kind", ["SCNN", "ConvLSTMClassifier"])
def test_another_class_names_the_right_one(zoo, kind):
    with pytest.raises(CheckpointError, match=rf"is a RSNN, not a {kind}: load it with rsnn\.RSNN\.from_pretrained"):
        getattr(rsnn, kind).from_pretrained(NAME)


def test_a_users_subclass_of_the_same_name_is_told_from_the_librarys(zoo):
    class RSNN(rsnn.RSNN):
        pass

    with pytest.raises(CheckpointError, match=r"is the library's RSNN, not .*<locals>\.RSNN, of which a checkpoint"):
        RSNN.from_pretrained(NAME)


def test_a_class_that_is_not_at_the_top_is_named_where_it_is(tmp_path):
    network = nn.SpikingNetwork(2, 3, (12, 12), ("SP4", "4FC"), neuron=nn.SRM())
    rsnn.models.SLAYER(nn.FramePool(2), network).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"is a SLAYER, not a RSNN: load it with rsnn\.models\.SLAYER\.from_pre"):
        rsnn.RSNN.from_pretrained(tmp_path)
    assert type(rsnn.models.SLAYER.from_pretrained(tmp_path)) is rsnn.models.SLAYER
    assert 'rsnn.models.SLAYER.from_pretrained("./this-folder")' in (tmp_path / "README.md").read_text()


def test_load_returns_whatever_it_is(tmp_path):
    for name in ("scnn-nmnist", "convlstm-nmnist-cl-sum", "rsnn-nmnist-cl"):
        made = rsnn.create_model(name)
        made.save_pretrained(tmp_path / name)
        loaded = rsnn.load(tmp_path / name)
        assert type(loaded) is type(made)
        assert digest(loaded) == digest(made)
        assert type(rsnn.create_model(f"{tmp_path}/{name}", pretrained=True)) is type(made)


def test_another_number_of_classes_replaces_the_last_layer_only(zoo):
    whole = rsnn.load(NAME).state_dict()
    for model in (
        rsnn.RSNN.from_pretrained(NAME, num_classes=5),
        rsnn.create_model(NAME, pretrained=True, num_classes=5),
    ):
        assert (model.num_classes, model.class_names) == (5, None)
        changed = [name for name, tensor in model.state_dict().items() if tensor.shape != whole[name].shape]
        assert changed == ["classifier.output.linear.weight"]
        assert all(tensor.equal(whole[name]) for name, tensor in model.state_dict().items() if name not in changed)
    same = rsnn.RSNN.from_pretrained(NAME, num_classes=3)
    assert same.class_names == ("left", "right", "none")
    assert digest(same) == digest(small_model(0))


@settings(deadline=None)
@given(st.text(max_size=40).filter(lambda text: "/" not in text and text not in (".", "..", "~")))
def test_any_text_is_found_or_one_clear_error(text):
    with pytest.raises(RSNNError):
        hub.resolve(text)
