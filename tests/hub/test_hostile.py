"""Folders that were damaged, or made to do harm: each is one clear error, quickly and without much memory."""

from __future__ import annotations

import ast
import json
import os
import re
import struct
import time
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import hub_clients as clients
import pytest
import torch
from hub_clients import Client, digest
from hub_models import FRAME_SIZE, files_of, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import rsnn
from rsnn.errors import CheckpointError, ConfigError, RSNNError

SECONDS = 5.0  # no folder may keep a user waiting longer, on a slow and busy machine


@pytest.fixture
def config(checkpoint):
    """The valid config as data; what a test makes of it is written by `write`."""
    return json.loads((checkpoint / "config.json").read_text())


def write(folder, config):
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "config.json").write_text(text)


def refused(folder, kind=RSNNError):
    """Load the folder and return its error's message."""
    began = time.perf_counter()
    with pytest.raises(kind) as caught:
        rsnn.load(folder)
    assert time.perf_counter() - began < SECONDS
    assert is_clear(caught.value, folder)
    return str(caught.value)


def is_clear(error, folder):
    """Tell whether the message names the folder first, is short and has nothing in it that a terminal would obey."""
    message = str(error)
    return message.startswith(f"{folder}: ") and len(message) < 1000 + 2 * len(str(folder)) and message.isprintable()


def test_weights_that_this_user_may_not_read(checkpoint, monkeypatch):
    """To download them again would not help."""

    def forbidden(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("rsnn.hub.checkpoint.sha256_of", forbidden)
    assert "cannot be read (Permission denied); expected a file that this user may open" in refused(checkpoint)


def change_weights(folder, change):
    """Save other tensors, and forget their hash, as someone who edits a checkpoint would."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    forget_hash(folder)


def forget_hash(folder):
    config = json.loads((folder / "config.json").read_text())
    config.pop("weights_sha256", None)
    write(folder, config)


# config.json: the envelope


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        ("\xff\xfe", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ('{"a":' * 50_000, "is not valid JSON"),
        ("[]", "no format_version"),
        ('"model"', "no format_version"),
        ('{"architectures": ["BertModel"], "hidden_size": 768}', "is not one of rsnn"),
        ('{"format_version": true, "model": {}}', "format_version True; expected a whole number"),
        ('{"format_version": 1.0, "model": {}}', "format_version 1.0; expected a whole number"),
        ('{"format_version": 0, "model": {}}', "format_version 0; expected a whole number"),
        ('{"format_version": null, "model": {}}', "format_version None; expected a whole number"),
        ('{"format_version": 2, "model": {}}', "saved by a newer one. Upgrade with: pip install --upgrade rsnn"),
        ('{"format_version": 1' + "0" * 4000 + ', "model": {}}', "saved by a newer one"),
        ('{"format_version": 1' + "0" * 5000 + ', "model": {}}', "is not valid JSON"),
        ('{"format_version": 1}', 'has no "model"'),
        ('{"format_version": 1, "modle": {}}', "unknown key 'modle'; .* Did you mean 'model'"),
        ('{"format_version": 1, "model": {}, "model": {}}', "the key 'model' is there twice"),
        ('{"format_version": 1, "model": {"type": "RSNN", "type": "SCNN"}}', "the key 'type' is there twice"),
        ('{"format_version": 1, "model": {"logit_scale": NaN}}', "NaN is not a JSON number"),
        ('{"format_version": 1, "model": {"logit_scale": -Infinity}}', "-Infinity is not a JSON number"),
        ('{"format_version": 1, "model": {}, "library_version": 3}', "library_version is 3; expected a text"),
        ('{"format_version": 1, "model": {}, "recipe": "x"}', "recipe is 'x'; expected an object"),
        ('{"format_version": 1, "model": {}, "weights_sha256": "../../x"}', "expected 64 hexadecimal digits"),
        ('{"format_version": 1, "model": {}, "weights_sha256": 5}', "expected 64 hexadecimal digits"),
        ('{"format_version": 1, "model": [1]}', r"model: got \[1\]; expected an object"),
        ('{"format_version": 1, "model": {"type": []}}', r"model.type: got \[\]; expected one of"),
        ('{"format_version": 1, "model": {"type": "../../RSNN"}}', "model.type: got '../../RSNN'; expected one of"),
        ('{"format_version": 1, "model": {"type": "LIF"}}', "model.type: got 'LIF'; expected one of"),
        ('{"format_version": 1, "model": {"type": "RSN"}}', "Did you mean 'RSNN'"),
        ('{"format_version": 1, "model": {"type": "RSNN"}}', "RSNN needs encoder, classifier"),
    ],
    ids=range(31),
)
def test_envelope(checkpoint, text, message):
    (checkpoint / "config.json").write_bytes(text.encode("latin-1"))
    assert re.search(message, refused(checkpoint))


def test_huge_config(checkpoint):
    with (checkpoint / "config.json").open("wb") as file:
        file.truncate(2**40)  # sparse
    assert "has 1099511627776 bytes; expected at most 1048576" in refused(checkpoint, CheckpointError)


# config.json: the model


def at(config, path, value):
    *parents, last = path.split(".")
    for name in parents:
        config = config[name]
    config[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.encoder.pools", 2, "encoder: ConvLSTMEncoder has no argument 'pools'. Did you mean .*'pool'"),
        ("model.encoder.pool", True, "encoder.pool: got True; expected int"),
        ("model.encoder.pool", "2", "encoder.pool: got '2'; expected int"),
        ("model.encoder.pool", 2.0, "encoder.pool: got 2.0; expected int"),
        ("model.encoder.pool", None, "encoder.pool: got None; expected int"),
        ("model.encoder.pool", -1, "pool=-1: expected a whole number of at least 1"),
        ("model.encoder.pool", 2**62, "encoder.pool: got 4611686018427387904; expected a number of at most"),
        ("model.encoder.join", "adds", "encoder.join: got 'adds'; expected one of 'add', 'concat', 'replace'"),
        ("model.encoder.attention", 1, "encoder.attention: got 1; expected bool"),
        ("model.encoder.hidden_channels", 4, "hidden_channels: got 4; expected a list"),
        ("model.encoder.hidden_channels", [2, "3"], r"hidden_channels\[1\]: got '3'; expected int"),
        ("model.encoder.hidden_channels", [2] * 10**5, "expected a list of at most 64 entries"),
        ("model.encoder.hidden_channels", {"0": 1}, "hidden_channels: got {'0': 1}; expected a list"),
        ("model.encoder.key_channels", {"type": "LIF"}, "key_channels: got {'type': 'LIF'}; expected int"),
        ("model.encoder.type", "Linear", "encoder.type: got 'Linear'; expected one of"),
        ("model.encoder.type", "os.system", "encoder.type: got 'os.system'; expected one of"),
        ("model.encoder.__class__", "x", "has no argument '__class__'"),
        ("model.encoder.in_channels", 3, "weights 'encoder.layers.0.input_gates.weight' have shape"),
        ("model.encoder.type", "RSNN", "encoder.type: got 'RSNN'"),
        ("model.encoder", None, "model.encoder: got None; expected an object"),
        ("model.encoder", {"type": "ATan"}, "model.encoder: got a ATan; expected Module"),
        ("model.classifier.in_size", [3, 3, 3], "in_size: got 3 entries; expected 2"),
        ("model.classifier.tau", 1e999, "is not a JSON number|tau: got inf"),
        ("model.classifier.tau", 0.5, "tau=0.5: expected a number above 1"),
        ("model.classifier.tau", "2", "classifier.tau: got '2'; expected float"),
        ("model.classifier.tau", False, "classifier.tau: got False; expected float"),
        ("model.classifier.dropout", 1.5, "dropout=1.5"),
        ("model.classifier.surrogate", {"type": "SCNN"}, "surrogate: SCNN needs"),
        ("model.classifier.surrogate", {"type": "FramePool"}, "surrogate: got a FramePool; expected ATan"),
        ("model.classifier.surrogate", {"type": "ATan", "alpha": -1}, r"ATan\(alpha=-1.0\)"),
        ("model.class_names", ["a", "b"], "got 2 class_names for a classifier of 3 classes"),
        ("model.class_names", ["a", "b", 3], r"class_names\[2\]: got 3; expected str"),
        ("model.class_names", ["a", "b", "\x1b[2Jc"], r"class_names\[2\]: got '\\x1b\[2Jc'; expected .* a control"),
        ("model.class_names", ["a", "b", "\ud800"], r"class_names\[2\].*a control"),
        ("model.class_names", ["a", "b", "c" * 10**5], r"class_names\[2\].*at most 256 characters"),
        ("model.class_names", {"type": "LIF"}, "class_names: got {'type': 'LIF'}; expected a list"),
        ("model.preprocessing.frame_size", [12, 12.0], r"frame_size\[1\]: got 12.0; expected int"),
        ("model.preprocessing.frame_size", [2**20, 2**20], "numbers for each recording; expected fewer or smaller"),
        ("model.preprocessing.num_frames", 2**20, "numbers for each recording; expected fewer or smaller"),
        (
            "model.preprocessing",
            {"type": "Preprocessing", "split": "time"},
            "no argument 'split'. Did you mean 'split_by'",
        ),
        ("model.preprocessing", {"type": "LIF"}, "preprocessing: got a LIF; expected Preprocessing"),
        ("model.logit_scale", 0, "logit_scale=0.0: expected a positive number"),
        ("model.logit_scale", -(10**400), "logit_scale: got -1000"),
    ],
    ids=range(43),
)
def test_model_description(checkpoint, config, path, value, message):
    at(config, path, value)
    write(checkpoint, config)
    assert re.search(message, refused(checkpoint))


def test_parts_within_parts_without_end(checkpoint, config):
    head = config["model"]["classifier"]
    for _ in range(200):
        head = {"type": "DecisionHead", "reduction": {"type": "SumFrames"}, "classifier": head, "in_channels": 3}
    config["model"]["classifier"] = head
    write(checkpoint, config)
    assert "parts lie within parts" in refused(checkpoint, ConfigError)


def test_more_than_can_be_counted(checkpoint, config):
    """Tensors of more bytes than 64 bits can say."""
    del config["model"]["preprocessing"]
    config["model"]["classifier"] |= {"in_size": [2**20, 2**20], "channels": 2**20}
    write(checkpoint, config)
    assert "its sizes are too large" in refused(checkpoint, ConfigError)


ABSURD = [
    ("model.encoder.hidden_channels", [2**20] * 64),
    ("model.encoder.hidden_channels", [1] * 64),
    ("model.encoder.kernel_size", 2**20),
    ("model.encoder.in_channels", 2**20),
    ("model.classifier.channels", 2**20),
    ("model.classifier.num_classes", 2**20),
    ("model.classifier.votes", 2**20),
    ("model.classifier.in_size", [2**20, 2**20]),
    ("model.classifier.pools", [2**20] * 64),
    ("model.classifier.pools", [1] * 64),
    ("model.classifier", {"type": "LSTMHead", "in_channels": 3, "num_classes": 2**20, "in_size": [2**20, 2**20]}),
    (
        "model.classifier",
        {
            "type": "SpikingNetwork",
            "in_channels": 3,
            "num_classes": 3,
            "in_size": [3, 3],
            "layers": ["99999C19"] * 64,
            "neuron": {"type": "LIF"},
        },
    ),
    ("model.preprocessing.num_frames", 2**20),
    ("model.preprocessing.frame_size", [2**20, 2**20]),
]


POSSIBLE = [  # a few hundred megabytes each
    ("model.encoder.hidden_channels", [1500, 3]),
    ("model.classifier.channels", 2500),
    ("model.classifier.num_classes", 2**20),
    ("model.classifier", {"type": "LSTMHead", "in_channels": 3, "num_classes": 3, "in_size": [60, 60]}),
]


def test_absurd_sizes_take_neither_time_nor_memory(checkpoint, config, tmp_path):
    """Each is an error within seconds in a process that cannot have much more memory, and does not ask for it."""
    client = Client({})
    small_model(1).save_pretrained(tmp_path / "whole")
    client(clients.load, str(tmp_path / "whole"))  # what only the first load takes
    client(clients.limit_memory, 256 * 2**20)
    for path, value in ABSURD + POSSIBLE:
        damaged = deepcopy(config)
        del damaged["model"]["class_names"]
        if (path, value) in POSSIBLE:
            del damaged["model"]["preprocessing"]
        at(damaged, path, value)
        write(checkpoint, damaged)
        began = time.perf_counter()
        assert client(clients.memory_of_refusal, str(checkpoint)) < 30 * 2**20, path
        assert time.perf_counter() - began < SECONDS, path
    client.close()


# model.safetensors


def header_of(path):
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def put_header(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**22 + 1, 10 * 10**9, 2**63, 2**64 - 1])
def test_header_of_a_length_that_is_not_true(checkpoint, length):
    path = checkpoint / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    forget_hash(checkpoint)
    message = refused(checkpoint, CheckpointError)
    assert "says its header has" in message or "cannot be read" in message


def test_tensors_larger_than_the_file(checkpoint):
    """A header that promises 10 GB takes no memory, whether or not the config agrees."""
    path = checkpoint / "model.safetensors"
    header, data = header_of(path)
    name = "classifier.output.linear.weight"
    header[name] |= {"shape": [2_500_000_000], "data_offsets": [0, 10_000_000_000]}
    put_header(path, header, data)
    forget_hash(checkpoint)
    client = Client({})
    client(clients.limit_memory, 256 * 2**20)
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        client(clients.load, str(checkpoint))
    client.close()


def test_messages_are_safe_to_print(checkpoint):
    path = checkpoint / "model.safetensors"
    header, data = header_of(path)
    header["encoder.layers.0.input_gates.bias"]["dtype"] = "\x1b[2J" + "F32" * 1000
    put_header(path, header, data)
    forget_hash(checkpoint)
    assert "cannot be read" in refused(checkpoint, CheckpointError)


def test_many_tensors(checkpoint):
    """A header of millions of names is refused by its length, before it is parsed."""
    path = checkpoint / "model.safetensors"
    put_header(path, {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(80_000)}, b"")
    forget_hash(checkpoint)
    assert "says its header has" in refused(checkpoint, CheckpointError)


@pytest.mark.parametrize("with_hash", [True, False])
def test_truncated_at_many_places(checkpoint, with_hash):
    path = checkpoint / "model.safetensors"
    content = path.read_bytes()
    if not with_hash:
        forget_hash(checkpoint)
    for length in (0, 1, 7, 8, 9, 100, *range(500, len(content), 397), len(content) - 1):
        path.write_bytes(content[:length])
        assert ("has SHA-256" if with_hash else "cannot be read") in refused(checkpoint, CheckpointError)
    path.write_bytes(content + b"\0")
    assert refused(checkpoint, CheckpointError)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers(checkpoint, bad):
    change_weights(checkpoint, lambda tensors: tensors["encoder.layers.0.input_gates.bias"].__setitem__(3, bad))
    assert "weights 'encoder.layers.0.input_gates.bias' hold NaN or infinite" in refused(checkpoint, CheckpointError)


def test_weights_too_large_for_float32(checkpoint):
    change_weights(
        checkpoint,
        lambda tensors: tensors.update(
            {"encoder.layers.0.input_gates.bias": torch.full((8,), 1e300, dtype=torch.float64)}
        ),
    )
    assert "hold NaN or infinite" in refused(checkpoint, CheckpointError)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("encoder.layers.0.input_gates.bias", torch.zeros(8, dtype=torch.int32)),
        ("encoder.layers.0.input_gates.bias", torch.zeros(8, dtype=torch.bool)),
        ("encoder.layers.0.input_gates.bias", torch.zeros(8, dtype=torch.complex64)),
        ("encoder.layers.0.input_gates.bias", torch.zeros(8, dtype=torch.float8_e4m3fn)),
        ("classifier.convs.0.norm.num_batches_tracked", torch.tensor(1.0)),
    ],
    ids=str,
)
def test_weights_of_another_type(checkpoint, name, tensor):
    change_weights(checkpoint, lambda tensors: tensors.update({name: tensor}))
    assert f"the weights '{name}' are " in refused(checkpoint, CheckpointError)


def test_weights_of_another_shape(checkpoint):
    name = "encoder.layers.0.input_gates.bias"
    change_weights(checkpoint, lambda tensors: tensors.update({name: torch.zeros(2, 4)}))
    assert f"weights '{name}' have shape (2, 4); the model in config.json has (8,)" in refused(checkpoint)


def test_missing_and_extra_tensors(checkpoint):
    change_weights(checkpoint, lambda tensors: tensors.pop("encoder.layers.0.input_gates.bias"))
    assert "misses the weights 'encoder.layers.0.input_gates.bias'" in refused(checkpoint, CheckpointError)
    change_weights(checkpoint, lambda tensors: tensors.update({f"../{i}": torch.zeros(1) for i in range(5)}))
    change_weights(checkpoint, lambda tensors: tensors.update({"encoder.layers.0.input_gates.bias": torch.zeros(8)}))
    message = refused(checkpoint, CheckpointError)
    assert "has the unknown weights '../0', '../1', '../2' and 2 more" in message


def test_weights_of_another_checkpoint(checkpoint, tmp_path):
    small_model(1).save_pretrained(tmp_path / "other")
    (tmp_path / "other/model.safetensors").replace(checkpoint / "model.safetensors")
    message = refused(checkpoint, CheckpointError)
    assert "config.json belongs to weights of" in message
    assert "delete weights_sha256" in message
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1"  # as the Hub's cache keeps what it downloaded
    snapshot.parent.mkdir(parents=True)
    checkpoint.replace(snapshot)
    assert "force_download=True" in refused(snapshot, CheckpointError)


# The folder


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "README.md"])
def test_links_out_of_the_folder(checkpoint, tmp_path, name):
    secret = tmp_path / "secret"
    (checkpoint / name).replace(secret)
    (checkpoint / name).symlink_to("../secret")
    if name == "README.md":
        with pytest.raises(CheckpointError, match="is a link out of the checkpoint's folder"):
            rsnn.hub.resolve(checkpoint).card()
    else:
        assert "is a link out of the checkpoint's folder" in refused(checkpoint, CheckpointError)
    # A folder called as the Hub's cache is may link to where that cache keeps files, and no further.
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1"
    snapshot.parent.mkdir(parents=True)
    checkpoint.replace(snapshot)
    (snapshot / name).unlink()
    (snapshot / name).symlink_to(secret)
    found = rsnn.hub.resolve(snapshot)
    with pytest.raises(CheckpointError, match="is a link out"):
        found.card() if name == "README.md" else rsnn.load(snapshot)


def test_links_within_are_followed(checkpoint, tmp_path, model):
    (checkpoint / "model.safetensors").replace(checkpoint / "weights-3")
    (checkpoint / "model.safetensors").symlink_to("weights-3")
    (tmp_path / "link").symlink_to(checkpoint)
    assert digest(rsnn.load(tmp_path / "link")) == digest(model)


def test_snapshot_of_the_hubs_cache_with_shared_blobs(checkpoint, tmp_path, model):
    """As huggingface_hub lays out a cache: snapshot -> the repository's blobs -> blobs that repositories share."""
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / "1"
    blobs, shared = tmp_path / "hub" / "models--a--b" / "blobs", tmp_path / "hub" / "blobs" / "ab"
    for folder in (snapshot, blobs, shared):
        folder.mkdir(parents=True)
    for i, path in enumerate(checkpoint.iterdir()):
        path.replace(shared / str(i))
        (blobs / str(i)).symlink_to(f"../../blobs/ab/{i}")
        (snapshot / path.name).symlink_to(f"../../blobs/{i}")
    assert digest(rsnn.load(snapshot)) == digest(model)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_is_no_file(checkpoint, name):
    (checkpoint / name).unlink()
    assert f"has no {name}" in refused(checkpoint, CheckpointError)
    (checkpoint / name).mkdir()
    assert f"has no {name}" in refused(checkpoint, CheckpointError)
    (checkpoint / name).rmdir()
    os.mkfifo(checkpoint / name)
    assert f"has no {name}" in refused(checkpoint, CheckpointError)
    (checkpoint / name).unlink()
    (checkpoint / name).symlink_to(name)
    assert f"has no {name}" in refused(checkpoint, CheckpointError)
    (checkpoint / name).unlink()
    (checkpoint / name).symlink_to("/dev/zero")
    assert f"has no {name}" in refused(checkpoint, CheckpointError)


def test_card_is_not_needed(checkpoint, model):
    (checkpoint / "README.md").unlink()
    assert rsnn.hub.resolve(checkpoint).card() == ""
    assert digest(rsnn.load(checkpoint)) == digest(model)


def test_huge_card(checkpoint):
    with (checkpoint / "README.md").open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(CheckpointError, match=r"README\.md has 1099511627776 bytes"):
        rsnn.hub.resolve(checkpoint).card()


def test_card_without_terminal_commands(checkpoint):
    (checkpoint / "README.md").write_bytes("# Über\n\x1b[2J\x07good\tday\r\n\xff".encode("latin-1"))
    assert rsnn.hub.resolve(checkpoint).card() == "# \ufffdber\n[2Jgood\tday\n\ufffd"


def test_pickles_are_never_looked_at(checkpoint):
    """A folder of PyTorch's own format is no checkpoint."""
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch harmed'\ntR.")
    assert r"has no model.safetensors" in refused(checkpoint, CheckpointError)


def test_nothing_in_the_package_can_unpickle_or_run_text():
    modules = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for source in Path(rsnn.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text("utf-8"))):
            where = f"{source}:{getattr(node, 'lineno', 0)}"
            match node:
                case ast.Import(names=names):
                    assert not modules & {name.name.partition(".")[0] for name in names}, where
                case ast.ImportFrom(module=module):
                    assert (module or "").partition(".")[0] not in modules, where
                case ast.Attribute(value=ast.Name(id="torch"), attr=name):
                    assert name != "load", where
                case ast.Name(id=name):
                    assert name not in ("eval", "exec"), where
                case ast.keyword(arg="allow_pickle", value=value):
                    assert isinstance(value, ast.Constant), where
                    assert value.value is False, where


# Fuzzing


def places(value, path=()):
    """Yield the path of every value in parsed JSON, the whole included."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(-3, 40)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["RSNN", "SCNN", "LIF", "LSTMHead", "FramePool", "ATan", "Preprocessing", "Voting", "../x"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.just("type"), inner, max_size=4)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    """A folder, and the content of the two files in it before anybody changes them."""
    folder = tmp_path_factory.mktemp("fuzzed") / "checkpoint"
    files = files_of(small_model(), folder)
    return folder, json.loads(files["config.json"]), files["model.safetensors"]


def outcome(folder):
    """Return the model, or the library's error; any other error ends the test."""
    try:
        return rsnn.load(folder)
    except RSNNError as error:
        return error


def described(config):
    """Return a model's description with every default filled in, to compare what was asked for and what came."""
    return json.loads(json.dumps(config), parse_int=float)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_change_of_the_config_is_an_error_or_exactly_that_model(data, fuzzed):
    folder, config, weights = fuzzed
    config = deepcopy(config)
    (folder / "model.safetensors").write_bytes(weights)
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from([place for place in places(config["model"]) if place]))
        parent = config["model"]
        for key in path[:-1]:
            parent = parent[key]
        match data.draw(st.sampled_from(["replace", "remove", "add"])):
            case "remove":
                del parent[path[-1]]
            case "add" if isinstance(parent, dict):
                parent[data.draw(st.text(max_size=8))] = data.draw(json_values)
            case _:
                parent[path[-1]] = data.draw(json_values)
    write(folder, json.dumps(config))
    began = time.perf_counter()
    model = outcome(folder)
    if isinstance(model, RSNNError):
        assert is_clear(model, folder)
    else:
        saved = described(rsnn.models.config.describe(model))
        for path in places(described(config["model"])):
            asked, got = described(config["model"]), saved
            for key in path:
                asked, got = asked[key], got[key]
            assert isinstance(asked, dict | list) or asked == got, path
        with suppress(RSNNError):  # the change may have been to the size of its frames
            model(torch.zeros(2, 1, model.encoder.in_channels, *FRAME_SIZE))
    assert time.perf_counter() - began < SECONDS


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_change_of_the_weights_is_an_error_or_a_model_of_finite_weights(data, fuzzed):
    folder, config, weights = fuzzed
    write(folder, {key: value for key, value in config.items() if key != "weights_sha256"})
    path = folder / "model.safetensors"
    content = bytearray(weights)
    header = 8 + struct.unpack("<Q", content[:8])[0]
    where = st.integers(0, header + 8) | st.integers(0, len(content) - 1)
    for _ in range(data.draw(st.integers(1, 4))):
        start = min(data.draw(where), len(content))
        match data.draw(st.sampled_from(["flip", "insert", "cut", "swap"])):
            case "flip" if start < len(content):
                content[start] ^= 1 << data.draw(st.integers(0, 7))
            case "insert":
                content[start:start] = data.draw(st.binary(min_size=1, max_size=9))
            case "cut":
                del content[start : start + data.draw(st.integers(1, 20))]
            case _:
                content[start : start + 4] = data.draw(st.binary(min_size=4, max_size=4))
    path.write_bytes(content)
    loaded = outcome(folder)
    if isinstance(loaded, RSNNError):
        assert is_clear(loaded, folder)
    else:
        shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in small_model().state_dict().items()}
        assert {name: (tensor.shape, tensor.dtype) for name, tensor in loaded.state_dict().items()} == shapes
        assert all(tensor.isfinite().all() for tensor in loaded.state_dict().values())
