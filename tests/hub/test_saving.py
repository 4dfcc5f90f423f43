"""What `save_pretrained` writes comes back, what would not come back is refused, and no failure mixes two models."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures.process import BrokenProcessPool
from math import prod

import hub_clients as clients
import pytest
import torch
from hub_clients import Client, digest
from hub_models import FRAME_SIZE, small_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn as torch_nn

import rsnn
from rsnn import kernels, nn
from rsnn.errors import CheckpointError, ConfigError, InputError, RSNNError
from rsnn.models import SLAYER, STBP
from rsnn.models.config import build_model, describe

FORMER, NEWER = ("former", "is", "here"), ("newer", "is", "here")


def assert_same(loaded, model, frames):
    assert type(loaded) is type(model)
    assert loaded.class_names == model.class_names
    assert loaded.preprocessing == model.preprocessing
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
    with torch.no_grad():
        assert torch.equal(loaded(frames), model.eval()(frames))


def test_the_files(model, checkpoint):
    assert sorted(path.name for path in checkpoint.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((checkpoint / "config.json").read_text())
    assert list(config) == ["format_version", "library_name", "library_version", "model", "weights_sha256"]
    assert (config["format_version"], config["library_name"]) == (1, "rsnn")
    assert config["model"]["class_names"] == ["left", "right", "none"]
    preprocessing = config["model"]["preprocessing"]
    assert (preprocessing["type"], preprocessing["frame_size"]) == ("Preprocessing", [12, 12])
    assert (preprocessing["num_frames"], preprocessing["split_by"], preprocessing["normalize"]) == (4, "time", "counts")
    assert config["model"]["classifier"]["surrogate"] == {"type": "ATan", "alpha": 2.0}
    # Any reader of safetensors has the weights by their names in the state dict.
    tensors = load_file(checkpoint / "model.safetensors")
    assert tensors.keys() == model.state_dict().keys()


@pytest.mark.parametrize("folder", ["", None, 3])
def test_what_is_no_folder(model, tmp_path, monkeypatch, folder):
    """An empty path would be the working directory, whose README.md the card would replace."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"folder is {folder!r}; expected the path of a folder"):
        model.save_pretrained(folder)
    assert list(tmp_path.iterdir()) == []


def test_files_follow_the_umask(model, tmp_path):
    former = os.umask(0o027)
    try:
        model.save_pretrained(tmp_path / "private")
    finally:
        os.umask(former)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "private").iterdir()}
    assert modes == {0o640}


PARTS = [
    lambda: rsnn.RSNN(nn.ConvLSTM(2, 3), nn.SCNN(3, 3, FRAME_SIZE, (2, 2), channels=4, votes=2)),
    lambda: rsnn.RSNN(nn.ConvLSTMAttention(2, 3), nn.LSTMHead(3, 2, FRAME_SIZE, votes=1)),
    lambda: rsnn.ConvLSTMClassifier(
        nn.ConvLSTMEncoder(2, (3,), attention=True, input_pool=4, pool=1),
        nn.DecisionHead(nn.ConcatFrames(5), nn.ConvClassifier(15, 4, (3, 3), (2,), (1,), votes=3), 3),
    ),
    lambda: rsnn.SCNN(nn.FramePool(2, 3), nn.DecisionHead(nn.LastFrame(), nn.Voting(2), 2), class_names=("a", "b")),
    lambda: rsnn.SCNN(nn.LIF(surrogate=kernels.Sigmoid(3.0)), nn.DecisionHead(nn.SumFrames(), nn.Voting(1), 2)),
    lambda: rsnn.SCNN(
        nn.LIF(learn_tau=True, v_reset=None, surrogate=kernels.Exponential(5.0, 0.5)),
        nn.DecisionHead(nn.MeanFrames(), nn.ConvClassifier(2, 2, FRAME_SIZE, (3, 3), (2, 1)), 2),
    ),
    lambda: STBP(
        nn.FramePool(2),
        nn.SpikingNetwork(2, 3, FRAME_SIZE, ("MP2", "4C3", "AP2", "8FC"), neuron=nn.LIF(3.0), votes=2, neunorm=0.9),
    ),
    lambda: SLAYER(nn.FramePool(2), nn.SpikingNetwork(2, 3, FRAME_SIZE, ("SP2", "4C3"), neuron=nn.SRM(), bias=False)),
]


@pytest.mark.parametrize("make", PARTS)
def test_composed_models_come_back(make, tmp_path):
    torch.manual_seed(1)
    model = make()
    model.save_pretrained(tmp_path)
    assert_same(rsnn.load(tmp_path), model, torch.rand(5, 2, 2, *FRAME_SIZE))


def test_every_part_of_the_library_is_in_some_composition():
    used = {type(part).__name__ for make in PARTS for part in make().modules()}
    assert used >= set(nn.__all__) - {"ConvLSTMState"}


@pytest.mark.parametrize("name", rsnn.list_models())
def test_every_model_of_the_zoo_can_be_described(name):
    """On the meta device, so that the largest cost nothing either."""
    with torch.device("meta"):
        model = rsnn.create_model(name)
        description = json.loads(json.dumps(describe(model)))
        rebuilt = build_model(description)
    assert describe(rebuilt) == description
    assert type(rebuilt) is type(model)
    assert repr(rebuilt) == repr(model)


small = st.integers(1, 3)
surrogates = st.one_of(
    *(st.builds(kind, st.floats(0.5, 8)) for kind in (kernels.ATan, kernels.Sigmoid, kernels.Rectangle)),
    st.builds(kernels.Exponential, st.floats(0.5, 8), st.floats(0.5, 2)),
)


@st.composite
def encoders(draw):
    kind = draw(st.sampled_from([nn.ConvLSTMEncoder, nn.ConvLSTM, nn.ConvLSTMAttention, nn.FramePool]))
    if kind is nn.FramePool:
        return nn.FramePool(draw(small), draw(small))
    attention = {"num_heads": 1, "key_channels": draw(st.none() | small), "value_channels": draw(st.none() | small)}
    attention["join"] = draw(st.sampled_from(["add", "concat", "replace"]))
    layer = {"kernel_size": draw(small), "tie_hidden_gates": draw(st.booleans())}
    if kind is nn.ConvLSTM:
        return kind(draw(small), draw(small), bias=draw(st.booleans()), **layer)
    if kind is nn.ConvLSTMAttention:
        return kind(draw(small), draw(small), bias=draw(st.booleans()), **layer, **attention)
    layers = draw(st.lists(small, min_size=1, max_size=2))
    pools = {"input_pool": draw(st.integers(1, 2)), "pool": draw(st.integers(1, 2))}
    return kind(draw(small), tuple(layers), attention=draw(st.booleans()), **layer, **attention, **pools)


@st.composite
def models(draw):
    encoder = draw(encoders())
    channels = encoder.out_channels
    size = encoder.output_size(FRAME_SIZE) if hasattr(encoder, "output_size") else FRAME_SIZE
    num_classes, votes = draw(small), draw(small)
    pools = tuple(draw(st.lists(st.integers(1, 2), min_size=1, max_size=2)))
    pools = pools if prod(pools) <= min(size) else (1,)
    head = draw(st.sampled_from(["scnn", "lstm", "last", "sum", "mean", "concat"]))
    if head == "scnn":
        tau, threshold = draw(st.floats(1.01, 50)), draw(st.floats(0.5, 4))
        neurons = {
            "tau": draw(st.sampled_from([2, tau])),
            "v_threshold": threshold,
            "v_reset": draw(st.none() | st.floats(-1, 0.4)),
            "surrogate": draw(surrogates),
            "detach_reset": draw(st.booleans()),
            "learn_tau": draw(st.booleans()),
        }
        classifier = nn.SCNN(
            channels,
            num_classes,
            size,
            pools,
            draw(st.integers(1, 5)),
            votes,
            draw(st.floats(0, 0.9)),
            **neurons,
        )
    elif head == "lstm":
        classifier = nn.LSTMHead(channels, num_classes, size, votes)
    else:
        kinds = {"last": nn.LastFrame(), "sum": nn.SumFrames(), "mean": nn.MeanFrames(), "concat": nn.ConcatFrames(3)}
        reduction = kinds[head]
        widths = tuple(draw(small) for _ in pools)
        convs = nn.ConvClassifier(reduction.out_channels(channels), num_classes, size, widths, pools, votes)
        classifier = nn.DecisionHead(reduction, convs, channels)
    normalize = draw(st.sampled_from(["counts", "log1p", "binary", "clip", "per-sample"]))
    preprocessing = st.builds(
        rsnn.Preprocessing,
        st.just(FRAME_SIZE),
        st.integers(1, 3 if head == "concat" else 5),  # the head has room for 3
        st.sampled_from(["time", "number"]),
        st.just(normalize),
        window_ms=st.none() | st.integers(1, 5000),
        clip_at=st.integers(1, 20) if normalize == "clip" else st.none(),
    )
    names = st.text(st.characters(categories=("L", "N", "P", "S")), max_size=12)
    kind = draw(st.sampled_from([rsnn.RSNN, rsnn.SCNN, rsnn.ConvLSTMClassifier]))
    return kind(
        encoder,
        classifier,
        class_names=draw(
            st.none() | st.lists(names, min_size=num_classes, max_size=num_classes, unique=True).map(tuple)
        ),
        preprocessing=draw(st.none() | preprocessing),
        logit_scale=draw(st.floats(0.01, 100)),
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(model=models(), seed=st.integers(0, 99))
def test_any_composition_comes_back(model, seed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    model.save_pretrained(folder)
    torch.manual_seed(seed)
    assert_same(rsnn.load(folder), model, torch.rand(3, 2, model.encoder.in_channels, *FRAME_SIZE).round())


def test_a_model_saved_twice_is_the_same_files(model, checkpoint, tmp_path):
    rsnn.load(checkpoint).save_pretrained(tmp_path / "again")
    for path in checkpoint.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_training_state_and_new_classes_do_not_get_in_the_way(model, tmp_path):
    model.train().freeze("encoder")
    model.reset_classifier(5, tuple("abcde"))
    model.save_pretrained(tmp_path)
    loaded = rsnn.load(tmp_path)
    assert loaded.class_names == tuple("abcde")
    assert digest(loaded) == digest(model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_load_as_float32(model, tmp_path, dtype):
    expected = {name: tensor.clone() for name, tensor in model.to(dtype).state_dict().items()}
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert stored["classifier.hidden.linear.weight"].dtype == dtype
    loaded = rsnn.load(tmp_path)
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == (torch.float32 if expected[name].is_floating_point() else torch.int64)
        assert torch.equal(tensor, expected[name].to(tensor.dtype))
    loaded(torch.zeros(2, 1, 2, *FRAME_SIZE))


def test_weights_load_as_float32_whatever_torchs_default_is(model, tmp_path):
    model.save_pretrained(tmp_path)
    torch.set_default_dtype(torch.bfloat16)
    try:
        loaded = rsnn.load(tmp_path)
    finally:
        torch.set_default_dtype(torch.float32)
    assert digest(loaded) == digest(model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_stored_in_half_precision(model, tmp_path, dtype):
    """Matrices and kernels are rounded to the nearest number of the type; biases and norms are left alone."""
    model.classifier.convs[0].norm.running_var.fill_(1e-9)  # nothing at all in float16
    before = digest(model)
    model.save_pretrained(tmp_path / "half", dtype=dtype)
    assert digest(model) == before
    loaded = rsnn.load(tmp_path / "half").state_dict()
    for name, tensor in model.state_dict().items():
        expected = tensor.to(dtype).float() if tensor.ndim > 1 else tensor
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], expected)
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values() if tensor.ndim > 1} == {dtype}
    vectors = sum(tensor.nbytes for tensor in model.state_dict().values() if tensor.ndim <= 1)
    whole = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert sum(tensor.nbytes for tensor in stored.values()) - vectors == (whole - vectors) / 2
    # What was rounded once is not rounded again.
    rsnn.load(tmp_path / "half").save_pretrained(tmp_path / "again", dtype=dtype)
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "half/model.safetensors").read_bytes()


def test_what_half_precision_cannot_hold(model, tmp_path):
    model.encoder.layers[0].input_gates.weight.data[0, 0, 0, 0] = 7e4
    with pytest.raises(
        CheckpointError, match=r"'encoder\.layers\.0\.input_gates\.weight' reach 7e\+04, beyond .*float16"
    ):
        model.save_pretrained(tmp_path / "new", dtype=torch.float16)
    assert not (tmp_path / "new").exists()
    model.save_pretrained(tmp_path / "new", dtype=torch.bfloat16)
    for wrong in (torch.int8, torch.float64, "float16", 16):
        with pytest.raises(InputError, match=r"expected one of torch\.float32, torch\.float16, torch\.bfloat16, or"):
            model.save_pretrained(tmp_path / "new", dtype=wrong)


def test_tied_weights_are_saved(model, tmp_path):
    model.encoder.layers[0].input_gates.bias = model.encoder.layers[1].input_gates.bias = torch_nn.Parameter(
        torch.arange(12.0)
    )
    with pytest.raises(ConfigError, match="have shape"):
        model.save_pretrained(tmp_path / "wrong")
    tied = small_model()
    tied.classifier.convs[0].norm.bias = tied.classifier.convs[1].norm.bias
    tied.save_pretrained(tmp_path / "tied")
    assert digest(rsnn.load(tmp_path / "tied")) == digest(tied)


# What is refused


class Mine(torch_nn.Module):
    """A user's own encoder."""

    in_channels = out_channels = 2

    def forward(self, frames, state=None):
        return frames, ()


class MyEncoder(nn.ConvLSTMEncoder):
    """A user's own subclass of a part."""


class MyModel(rsnn.RSNN):
    """A user's own subclass of a model."""


def change(part):
    def changed():
        model = small_model()
        part(model)
        return model

    return changed


REFUSED = [
    ("Mine is not a part", lambda: rsnn.RSNN(Mine(), nn.SCNN(2, 2, FRAME_SIZE, channels=4, votes=2))),
    ("MyEncoder is not a part", lambda: rsnn.RSNN(MyEncoder(), nn.SCNN(6, 2, (3, 3), (1,), channels=4))),
    ("MyModel is not a part", lambda: MyModel(nn.FramePool(), nn.LSTMHead(2, 2, FRAME_SIZE))),
    ("Sequential is not a part", lambda: rsnn.RSNN(nn.FramePool(), torch_nn.Sequential(torch_nn.Flatten(2)))),
    (
        "Mine is not a part",
        lambda: rsnn.RSNN(nn.FramePool(), nn.DecisionHead(nn.SumFrames(), Mine(), 2)),
    ),
    (r"encoder\.layers\.0 is \S*Mine", change(lambda m: m.encoder.layers.__setitem__(0, Mine()))),
    (r"extra is \S*Mine where config\.json can only say nothing", change(lambda m: m.add_module("extra", Mine()))),
    (r"classifier\.hidden is nothing", change(lambda m: m.classifier.__delattr__("hidden"))),
    (r"lif\.tau is 3\.5", change(lambda m: setattr(m.classifier.convs[0].lif, "tau", 3.5))),
    (r"convs\.0\.pool is 3", change(lambda m: setattr(m.classifier.convs[0], "pool", 3))),
    ("the weights 'more' have shape", change(lambda m: m.register_buffer("more", torch.zeros(1)))),
    ("would not load again.*logit_scale", change(lambda m: setattr(m, "logit_scale", float("inf")))),
    ("hold NaN", change(lambda m: m.classifier.hidden.linear.weight.data.fill_(float("nan")))),
]


@pytest.mark.parametrize(("message", "make"), REFUSED)
def test_what_would_not_come_back_is_refused_and_nothing_is_written(message, make, tmp_path, checkpoint):
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    model = make()
    for folder in (tmp_path / "new", checkpoint):
        with pytest.raises(RSNNError, match=message):
            model.save_pretrained(folder)
    assert not (tmp_path / "new").exists()
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before


def test_the_refusal_says_how_to_save(tmp_path):
    with pytest.raises(ConfigError, match=r"safetensors\.torch\.save_file\(model\.state_dict\(\)"):
        REFUSED[0][1]().save_pretrained(tmp_path)


# Failures


def outcome(folder):
    """Return the class names and weights that a folder loads as, or why it does not."""
    try:
        model = rsnn.load(folder)
    except CheckpointError as error:
        return "refused" if "Save or download the two together" in str(error) else str(error)
    card = folder / "README.md"
    if card.exists():
        assert f"Classes: {', '.join(model.class_names)}." in card.read_text()
    return model.class_names, digest(model)


def whole(names, seed):
    return names, digest(small_model(seed, names))


def interrupted(folder, how):
    """Save a former model, then interrupt saving a newer one over it at every step; yield the error each time."""
    for step in range(50):
        client = Client({})
        small_model(0, FORMER).save_pretrained(folder)
        try:
            client(clients.save_interrupted, str(folder), NEWER, 1, step, how)
        except (BrokenProcessPool, CheckpointError) as error:
            yield error
        else:
            return
        finally:
            client.close()


def test_killed_at_every_step(tmp_path):
    """SIGKILL before each file operation leaves the former model, the newer one, or a folder that is refused."""
    seen = []
    for error in interrupted(tmp_path, "kill"):
        assert isinstance(error, BrokenProcessPool)
        seen.append(outcome(tmp_path))
    # The former config and three files to open, the former card to remove, three files to put in place, three temporary
    # names to look for.
    assert seen == [whole(FORMER, 0)] * 6 + ["refused"] + [whole(NEWER, 1)] * 4


def test_a_full_disk_at_every_step(tmp_path):
    """An error of the disk is a CheckpointError, and leaves no temporary files."""
    seen = []
    for error in interrupted(tmp_path, "fail"):
        assert isinstance(error, CheckpointError)
        assert "cannot be written (No space left on device)" in str(error)
        seen.append(outcome(tmp_path))
        assert {path.name for path in tmp_path.iterdir()} <= {"README.md", "config.json", "model.safetensors"}
    assert seen == [whole(FORMER, 0)] * 6 + ["refused", whole(NEWER, 1)]


def test_a_disk_that_is_full_in_mid_file(tmp_path, checkpoint):
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    for most_bytes in (0, 100, 4000):
        client = Client({})
        with pytest.raises(CheckpointError, match=r"cannot be written \(File too large\)"):
            client(clients.save_with_little_room, str(checkpoint), NEWER, 1, most_bytes)
        client.close()
        assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before


def test_places_that_cannot_be_written(model, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"mine")
    with pytest.raises(CheckpointError, match=r"cannot be written \(File exists\)"):
        model.save_pretrained(file)
    with pytest.raises(CheckpointError, match=r"cannot be written \(Not a directory\)"):
        model.save_pretrained(file / "folder")
    blocked = tmp_path / "blocked"
    (blocked / "config.json").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"config\.json is a folder there"):
        model.save_pretrained(blocked)
    assert [path.name for path in blocked.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("README.md", "# My project"),
        ("config.json", '{"model_type": "bert"}'),
        ("config.json", "["),
        ("config.json", "3"),
    ],
)
def test_files_of_something_else_are_not_written_over(model, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=f"holds a {name} that is of no checkpoint of rsnn.*a folder of its own"):
        model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == content


@pytest.mark.parametrize("card", ["---\nlicense: apache-2.0\n---\n", "---\nlicense: mit\n---", "", "\n"])
def test_a_repository_that_the_hub_began_takes_a_checkpoint(model, tmp_path, card):
    (tmp_path / "README.md").write_text(card)
    model.save_pretrained(tmp_path)
    assert "library_name: rsnn" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    "card", ["---\nlicense: mit\n---\nMine.\n", "---\n", "---\nlicense: mit\n---\n\n# Mine\n---\n"]
)
def test_a_card_that_says_more_is_not_written_over(model, tmp_path, card):
    (tmp_path / "README.md").write_text(card)
    with pytest.raises(CheckpointError, match=r"holds a README\.md that is of no checkpoint"):
        model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == card


def test_weights_alone_are_left_by_a_save_that_was_killed(model, checkpoint):
    for name in ("README.md", "config.json"):
        (checkpoint / name).unlink()
    model.save_pretrained(checkpoint)
    assert (checkpoint / "README.md").is_file()


def test_home_is_where_it_is_on_loading(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    model.save_pretrained("~/mine")
    assert (tmp_path / "mine" / "config.json").is_file()
    assert digest(rsnn.load("~/mine")) == digest(model)


def test_other_files_in_the_folder_stay(model, checkpoint):
    (checkpoint / "notes.txt").write_text("mine")
    small_model(1).save_pretrained(checkpoint)
    assert (checkpoint / "notes.txt").read_text() == "mine"
    assert digest(rsnn.load(checkpoint)) == digest(small_model(1))


def test_a_loaded_model_does_not_depend_on_the_file(checkpoint, model):
    """Neither a file that is written over nor one that is cut changes or ends a model that came from it."""
    loaded = rsnn.load(checkpoint)
    path = checkpoint / "model.safetensors"
    with path.open("r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    assert digest(loaded) == digest(model)
    with path.open("wb"):
        pass
    assert digest(loaded) == digest(model)
