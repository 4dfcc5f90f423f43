"""Models by name: which names there are, what each builds, and what a wrong one says."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn as torch_nn

import rsnn
from rsnn import nn
from rsnn.errors import InputError, UnknownNameError
from rsnn.models import SLAYER, STBP

DATA = ("gesture", "cifar10dvs", "nmnist", "sign")
ENCODERS, HEADS = ("cl", "cla"), ("last", "sum", "mean", "concat", "lstm")
EXPECTED = {
    *(f"rsnn-{data}-{encoder}" for data, encoder in product(DATA, ("cl", "cla", "cl-nopool"))),
    *(f"convlstm-{data}-{encoder}-{head}" for data, encoder, head in product(DATA, ENCODERS, HEADS)),
    *(f"scnn-{data}" for data in DATA),
    *(f"{kind}-{data}" for kind, data in product(("slayer", "stbp", "cnnsnn"), ("gesture", "nmnist", "sign"))),
    "stbp-cifar10dvs",
}
KINDS = {"rsnn": rsnn.RSNN, "convlstm": rsnn.ConvLSTMClassifier, "scnn": rsnn.SCNN, "slayer": SLAYER}

# Encoder and head together, as the sizes of Table 1 fix them; of CLA without the attention's own weights.
RNN_MODULES = {
    "gesture": {
        "cl": {"last": 141_830, "sum": 141_830, "mean": 141_830, "concat": 207_494, "lstm": 50_371_704},
        "cla": {"last": 145_430, "sum": 145_430, "mean": 145_430, "concat": 254_870, "lstm": 139_624_840},
    },
    "cifar10dvs": {
        "cl": {"last": 1_171_612, "sum": 1_171_612, "mean": 1_171_612, "concat": 1_237_276, "lstm": 50_347_864},
        "cla": {"last": 1_175_212, "sum": 1_175_212, "mean": 1_175_212, "concat": 1_284_652, "lstm": 139_590_760},
    },
}
ALL_RNN_MODULES = list(product(RNN_MODULES, ENCODERS, HEADS))


def built(name, **settings):
    """Build without memory for the weights: the largest have a hundred million of them."""
    with torch.device("meta"):
        return rsnn.create_model(name, **settings)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_the_names():
    assert set(rsnn.list_models()) == EXPECTED
    assert rsnn.list_models() == sorted(EXPECTED)


def test_globs():
    assert rsnn.list_models("rsnn-gesture-*") == ["rsnn-gesture-cl", "rsnn-gesture-cl-nopool", "rsnn-gesture-cla"]
    assert rsnn.list_models("*-gesture") == ["cnnsnn-gesture", "scnn-gesture", "slayer-gesture", "stbp-gesture"]
    assert rsnn.list_models("s*-nmnist") == ["scnn-nmnist", "slayer-nmnist", "stbp-nmnist"]
    assert rsnn.list_models("resnet*") == []
    assert set(rsnn.list_models(pretrained=True)) < EXPECTED
    assert "rsnn-nmnist-cl" in rsnn.list_models("rsnn-*", pretrained=True)
    assert "scnn-sign" not in rsnn.list_models(pretrained=True)
    assert rsnn.list_models(["scnn-n*", "scnn-*", "slayer-sign"]) == [*rsnn.list_models("scnn-*"), "slayer-sign"]
    assert rsnn.list_models(None) == rsnn.list_models()
    for pattern in (3, [3], ["rsnn-*", None]):
        with pytest.raises(InputError, match=r"expected a glob such as 'rsnn-\*', a list of them, or None"):
            rsnn.list_models(pattern)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_each_is_of_its_class_and_for_its_data(name):
    model = built(name)
    prefix, data = name.split("-")[:2]
    assert type(model) is KINDS.get(prefix, STBP)
    assert model.num_classes == {"gesture": 11, "cifar10dvs": 10, "nmnist": 10, "sign": 15}[data]
    assert len(set(model.class_names)) == model.num_classes
    assert model.preprocessing.frame_size == ((34, 34) if data == "nmnist" else (128, 128))
    assert (model.preprocessing.num_frames, model.preprocessing.split_by) == (20, "time")
    size = model.encoder.output_size(model.preprocessing.frame_size)
    assert model.classifier.in_size == size
    if prefix == "rsnn" and data != "nmnist":
        assert size == ((128, 128) if name.endswith("nopool") else (32, 32))


def test_the_twenty_rnn_modules_are_twenty():
    assert len(ALL_RNN_MODULES) == 20


@pytest.mark.parametrize(("data", "encoder", "head"), ALL_RNN_MODULES)
def test_parameters_of_the_rnn_modules(data, encoder, head):
    model = built(f"convlstm-{data}-{encoder}-{head}")
    attention = 0 if encoder == "cl" else count(model.encoder.layers[0].attention)
    assert attention == (0 if encoder == "cl" else 12)
    assert count(model.encoder) - attention == {"cl": 3_064, "cla": 4_360}[encoder]
    assert count(model) - attention == RNN_MODULES[data][encoder][head]


@pytest.mark.parametrize(("data", "encoder", "head"), ALL_RNN_MODULES)
def test_layers_of_the_rnn_modules(data, encoder, head):
    """Table 1, written down as the shapes of the weights."""
    model = built(f"convlstm-{data}-{encoder}-{head}")
    c, K = {"cl": 6, "cla": 10}[encoder], {"gesture": 11, "cifar10dvs": 10}[data]
    if head == "lstm":
        flat = c * 32 * 32
        sizes = [(layer.input_size, layer.hidden_size) for layer in model.classifier.layers]
        assert sizes == [(flat, flat // 4), (flat // 4, flat // 16), (flat // 16, 10 * K)]
        return
    assert (
        type(model.classifier.reduction)
        is {
            "last": nn.LastFrame,
            "sum": nn.SumFrames,
            "mean": nn.MeanFrames,
            "concat": nn.ConcatFrames,
        }[head]
    )
    c *= 20 if head == "concat" else 1
    classifier = model.classifier.classifier
    convs = [tuple(m.weight.shape) for m in classifier.modules() if isinstance(m, torch_nn.Conv2d)]
    linears = [(m.in_features, m.out_features) for m in classifier.modules() if isinstance(m, torch_nn.Linear)]
    if data == "gesture":
        assert convs == [(64, c, 3, 3), (64, 64, 3, 3), (32, 64, 3, 3)]
        assert linears == [(512, 128), (128, 110)]
    else:
        assert convs == [(64, c, 3, 3), (64, 64, 3, 3), (32, 64, 3, 3), (32, 32, 3, 3)]
        assert linears == [(2048, 512), (512, 100)]
    assert model.classifier(torch.zeros(20, 1, model.encoder.out_channels, 32, 32, device="meta"))[0].shape == (1, K)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (lambda: built("rsnn-gesture-cl").classifier, 1_407_488),
        (lambda: built("rsnn-cifar10dvs-cl").classifier, 17_432_320),
        (lambda: nn.SCNN(2, 11, (128, 128), (2, 2, 2, 2, 2)), 1_698_304),
    ],
    ids=["3-layer", "4-layer", "5-layer"],
)
def test_parameters_of_the_spiking_networks(network, expected):
    with torch.device("meta"):
        assert count(network()) == expected


def test_the_spiking_network_alone_is_the_one_over_the_encoder():
    """But for its inputs: frames of two channels, average-pooled by 4."""
    for data in ("gesture", "cifar10dvs"):
        alone, over = built(f"scnn-{data}"), built(f"rsnn-{data}-cl").classifier
        assert alone.encoder.pool == 4
        assert count(over) - count(alone) == 128 * (6 - 2) * 9
        assert alone.classifier.pools == over.pools


def test_what_the_printed_sizes_would_cost_alone():
    """The 3- and 4-layer networks on 128 x 128 itself: 0.27 and 4.3 billion weights in one layer."""
    for pools, expected in (((2, 2, 2), 0.27e9), ((2, 1, 2, 1), 4.3e9)):
        with torch.device("meta"):
            network = nn.SCNN(2, 11, (128, 128), pools)
        assert count(network.hidden) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("name", "stages", "parameters"),
    [
        # aggregation by 4: 32; convolutions 5 x 5 and 3 x 3 without biases; 512; 11
        ("slayer-gesture", [(2, 32, 32), (16, 32, 32), (16, 16, 16), (32, 16, 16), (32, 8, 8), (512,)], 1_059_616),
        ("stbp-gesture", [(2, 32, 32), (512,)], 2048 * 512 + 512 + 512 * 11 + 11),
        (  # the count that the authors' own code notes
            "cnnsnn-gesture",
            [(2, 32, 32), (64, 32, 32), (128, 32, 32), (128, 16, 16), (128, 16, 16), (128, 8, 8), (256,)],
            2_322_891,
        ),
        (
            "slayer-nmnist",
            [(16, 34, 34), (16, 17, 17), (32, 17, 17), (32, 8, 8), (64, 8, 8)],
            2 * 25 * 16 + 16 * 9 * 32 + 32 * 9 * 64 + 64 * 8 * 8 * 10,
        ),
        ("stbp-nmnist", [(512,)], 2 * 34 * 34 * 512 + 512 + 512 * 10 + 10),
        (
            "cnnsnn-nmnist",
            [(2, 17, 17), (64, 17, 17), (128, 17, 17), (128, 8, 8), (128, 8, 8), (128, 4, 4), (256,)],
            (2 * 9 + 1) * 64 + (64 * 9 + 1) * 128 + (128 * 9 + 1) * 128 + (128 * 16 + 1) * 256 + 257 * 10,
        ),
        (
            "stbp-cifar10dvs",
            [
                (2, 42, 42),
                (128, 42, 42),
                (128, 42, 42),
                (128, 21, 21),
                (128, 21, 21),
                (128, 10, 10),
                (256, 10, 10),
                (256, 5, 5),
                (1024,),
            ],
            # convolutions, NeuNorm, fully connected layers
            (2 * 9 + 1) * 128
            + 2 * (128 * 9 + 1) * 128
            + (128 * 9 + 1) * 256
            + 128 * (2 * 42**2 + 21**2)
            + 256 * 10**2
            + (256 * 25 + 1) * 1024
            + 1025 * 100,
        ),
    ],
)
def test_layers_of_the_published_networks(name, stages, parameters):
    model, shapes = rsnn.create_model(name), []
    for stage in model.classifier.stages:
        stage.register_forward_hook(
            lambda _, inputs, output: shapes.append(tuple((output[0] if isinstance(output, tuple) else output).shape))
        )
    with torch.no_grad():
        logits = model(torch.zeros(1, 1, 2, *model.preprocessing.frame_size))
    assert [shape[1:] if len(shape) == 4 else shape[2:] for shape in shapes] == stages
    assert logits.shape == (1, model.num_classes)
    assert count(model) == parameters


# Settings


def test_settings_reach_the_model():
    model = built(
        "rsnn-gesture-cl",
        num_classes=3,
        class_names=("a", "b", "c"),
        frame_size=(40, 48),
        num_frames=7,
        in_channels=4,
        split_by="number",
        normalize="log1p",
    )
    assert (model.num_classes, model.class_names) == (3, ("a", "b", "c"))
    assert model.preprocessing == rsnn.Preprocessing((40, 48), 7, "number", "log1p", window_ms=1500)
    assert model.encoder.in_channels == 4
    assert model.classifier.in_size == (10, 12)
    assert built("scnn-nmnist", normalize="clip", clip_at=3).preprocessing.clip_at == 3
    assert built("scnn-nmnist", max_step_ms=50).preprocessing.max_step_ms == 50
    assert built("convlstm-gesture-cl-concat", num_frames=7).classifier.reduction.num_frames == 7


def test_classes_and_names():
    assert built("scnn-gesture", num_classes=11).class_names[0] == "hand_clap"
    assert built("scnn-gesture", num_classes=4).class_names is None
    assert built("scnn-gesture", class_names=("a", "b")).num_classes == 2
    with pytest.raises(InputError, match="got 2 class_names for a classifier of 3 classes"):
        built("scnn-gesture", num_classes=3, class_names=("a", "b"))


@pytest.mark.parametrize("size", [(34, 34), (33, 47), (61, 32)])
@pytest.mark.parametrize("name", ["rsnn-gesture-cl", "rsnn-gesture-cla", "rsnn-gesture-cl-nopool", "slayer-gesture"])
def test_sensors_that_are_no_multiple_of_the_pooling(name, size):
    model = rsnn.create_model(name, frame_size=size)
    assert model(torch.zeros(2, 1, 2, *size)).shape == (1, 11)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("rsnn-gesture-cl", {"framesize": (8, 8)}, "no setting 'framesize'.*Did you mean 'frame_size'"),
        ("rsnn-gesture-cl", {"frame_size": (31, 40)}, r"frame_size=\(31, 40\): .* expected at least 32 on a side"),
        ("rsnn-gesture-cl-nopool", {"frame_size": (3, 3)}, r"frame_size=\(3, 3\): .* at least 32 on a side"),
        ("convlstm-nmnist-cla-lstm", {"frame_size": (3, 3)}, r"frame_size=\(3, 3\): .* at least 4 on a side"),
        ("convlstm-nmnist-cl-sum", {"frame_size": (3, 3)}, r"frame_size=\(3, 3\): .* at least 16 on a side"),
        ("scnn-nmnist", {"frame_size": (7, 7)}, r"frame_size=\(7, 7\): .* at least 8 on a side"),
        ("rsnn-gesture-cl", {"class_names": "ab"}, "class_names='ab': expected a list of text"),
        ("rsnn-gesture-cl", {"class_names": 3}, "class_names=3: expected a list of text"),
        ("rsnn-gesture-cl", {"class_names": ()}, "num_classes=0"),
        ("rsnn-gesture-cl", {"pretrained": "sim"}, r"pretrained='sim': .*create_model\('rsnn-gesture-cl.sim', "),
        (None, {}, "name is None; expected one of list_models"),
        ("rsnn-gesture-cl", {"frame_size": 64}, r"frame_size=64: expected \(height, width\)"),
        ("rsnn-gesture-cl", {"num_classes": -1}, "num_classes=-1"),
        ("rsnn-gesture-cl", {"num_classes": 0}, "num_classes=0"),
        ("rsnn-gesture-cl", {"num_classes": 0, "class_names": ("a", "b")}, "num_classes=0"),
        ("rsnn-gesture-cl", {"num_frames": 0}, "num_frames=0"),
        ("rsnn-gesture-cl", {"max_step_ms": 0}, "max_step_ms=0"),
        ("rsnn-gesture-cl", {"normalize": "max"}, "normalize='max': expected one of"),
        ("rsnn-gesture-cl", {"split_by": "events"}, "split_by='events': expected one of"),
    ],
)
def test_bad_settings(name, settings, message):
    with pytest.raises(InputError, match=message):
        rsnn.create_model(name, **settings)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("rsnn-gesture-lc", "rsnn-gesture-cl"),
        ("rsnn-nmist-cl", "rsnn-nmnist-cl"),
        ("slayer-gestures", "slayer-gesture"),
    ],
)
def test_a_wrong_name_suggests_the_nearest(name, near):
    with pytest.raises(UnknownNameError, match=rf"no model '{name}'.*Did you mean .*'{near}'"):
        rsnn.create_model(name)


@pytest.mark.parametrize("size", [(32, 32), (34, 61)])
def test_the_smallest_frames_that_are_said_to_do_will(size):
    assert built("rsnn-gesture-cl-nopool", frame_size=size).preprocessing.frame_size == size


def test_load_takes_what_finds_a_checkpoint_and_nothing_else():
    with pytest.raises(InputError, match=r"load has no argument 'num_classes'; expected some of revision, .*from_pre"):
        rsnn.load("./mine", num_classes=3)
    with pytest.raises(InputError, match=r"no argument 'device'.* load\(source\)\.to\(device\)"):
        rsnn.load("rsnn-nmnist-cl", device="cuda")
    with pytest.raises(InputError, match=r"no argument 'local_file_only'.* Did you mean 'local_files_only'"):
        rsnn.load("rsnn-nmnist-cl", local_file_only=True)


def test_a_model_of_other_channels_says_that_recordings_are_not_for_it():
    model = rsnn.create_model("rsnn-nmnist-cl", in_channels=1)
    events = rsnn.Events(t=[0, 9], x=[1, 2], y=[3, 4], p=[0, 1], sensor_size=(34, 34))
    with pytest.raises(InputError, match="takes frames of 1 channels, and a recording becomes frames of 2"):
        model.predict(events)
    with pytest.raises(InputError, match="takes frames of 1 channels, and a stream"):
        model.stream()
    assert model.predict(torch.zeros(20, 1, 34, 34)).steps is None


def test_pretrained_takes_the_checkpoints_own_settings():
    with pytest.raises(
        InputError, match=r"\['num_frames'\] cannot be changed in a pretrained model.*revision, cache_dir"
    ):
        rsnn.create_model("rsnn-nmnist-cl", pretrained=True, num_frames=5, local_files_only=True)


def test_pretrained_says_where_to_load_from():
    model = rsnn.create_model("rsnn-nmnist-cl", pretrained=True, num_classes=3, local_files_only=True, token="x")
    assert model.num_classes == 3
    with pytest.raises(InputError, match=r"is a zoo name, whose weights are pinned; revision='v2'"):
        rsnn.create_model("rsnn-nmnist-cl", pretrained=True, revision="v2")
