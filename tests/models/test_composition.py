"""Models put together from parts: what fits runs, what does not is refused when it is built."""

from __future__ import annotations

import pickle
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn as torch_nn

import rsnn
from rsnn import nn
from rsnn.errors import ConfigError, InputError
from rsnn.models import EventClassifier

SIZE, T, K = (16, 16), 5, 4
PREPROCESSING = rsnn.Preprocessing(frame_size=SIZE, num_frames=T)

ENCODERS = {
    "CL": lambda: nn.ConvLSTMEncoder(),
    "CL without pooling": lambda: nn.ConvLSTMEncoder(pool=1),
    "CLA": lambda: nn.ConvLSTMEncoder(2, (10,), attention=True, input_pool=4, pool=1),
    "one layer": lambda: nn.ConvLSTM(2, 3),
    "one layer with attention": lambda: nn.ConvLSTMAttention(2, 3),
    "frames": lambda: nn.FramePool(2, 2),
}


def output_of(encoder):
    size = encoder.output_size(SIZE) if hasattr(encoder, "output_size") else SIZE
    return encoder.out_channels, size


def pools_for(size):
    return (2, 2, 2) if min(size) >= 8 else (2, 2)


def conv_head(reduction, channels, size):
    reduced = reduction.out_channels(channels)
    pools = pools_for(size)
    return nn.DecisionHead(reduction, nn.ConvClassifier(reduced, K, size, (8,) * len(pools), pools), channels)


CLASSIFIERS = {
    "SCNN": lambda c, size: nn.SCNN(c, K, size, pools_for(size), 8),
    "last": lambda c, size: conv_head(nn.LastFrame(), c, size),
    "sum": lambda c, size: conv_head(nn.SumFrames(), c, size),
    "mean": lambda c, size: conv_head(nn.MeanFrames(), c, size),
    "concat": lambda c, size: conv_head(nn.ConcatFrames(T), c, size),
    "lstm": lambda c, size: nn.LSTMHead(c, K, size),
    "SLAYER": lambda c, size: nn.SpikingNetwork(c, K, size, ("4C3", "SP2"), nn.SRM()),
    "STBP": lambda c, size: nn.SpikingNetwork(c, K, size, ("4C3", "AP2", "8FC"), nn.LIF(), neunorm=0.9),
}


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_any_encoder_under_any_classifier(encoder, classifier):
    bottom = ENCODERS[encoder]()
    top = CLASSIFIERS[classifier](*output_of(bottom))
    model = rsnn.RSNN(encoder=bottom, classifier=top, preprocessing=PREPROCESSING)
    frames = torch.rand(T, 2, 2, *SIZE)
    logits = model(frames)
    assert logits.shape == (2, K)
    logits.sum().backward()
    features, _ = bottom(frames)
    assert torch.equal(model.forward_features(frames), features)
    assert torch.equal(model(frames), top(features)[0])


# The user's own parts


class Brightness(torch_nn.Module):
    """An encoder of a user's that tells no sizes and keeps no state."""

    def forward(self, frames):
        return frames.sum(2, keepdim=True)


class Largest(torch_nn.Module):
    """A classifier of a user's over sequences."""

    def __init__(self, channels, classes):
        super().__init__()
        self.linear = torch_nn.Linear(channels, classes)

    def forward(self, features):
        return self.linear(features.amax((0, 3, 4)))


class Decay(torch_nn.Module):
    """A reduction of a user's: later steps count more. With a state, so that it works on chunks too."""

    def out_channels(self, in_channels):
        return in_channels

    def forward(self, features, state=None):
        total = torch.zeros_like(features[0]) if state is None else state
        for step in features:
            total = 0.5 * total + step
        return total, total


def test_a_users_own_encoder_and_classifier():
    model = rsnn.RSNN(Brightness(), Largest(1, K), preprocessing=PREPROCESSING, class_names=tuple("abcd"))
    frames = torch.rand(T, 3, 2, *SIZE)
    assert torch.equal(model(frames), model.classifier.linear(frames.sum(2, keepdim=True).amax((0, 3, 4))))
    prediction = model.predict(frames[:, 0])
    assert prediction.label == "abcd"[prediction.index]
    with pytest.raises(InputError, match="Largest has no reset_classifier"):
        model.reset_classifier(2)


def test_a_classifier_without_a_state_wants_all_frames_at_once():
    model = rsnn.RSNN(Brightness(), Largest(1, K), preprocessing=PREPROCESSING)
    frames = torch.rand(T, 1, 2, *SIZE)
    _, state = model.advance(frames[:2])
    with pytest.raises(InputError, match=r"Largest returns logits alone .*; expected all of them in one call"):
        model.advance(frames[2:], state)
    with pytest.raises(InputError, match="Largest returns logits alone"):
        model.predict(frames[:, 0], until=1.0)
    assert model.predict(frames[:, 0], until=0.01).steps == 1
    with pytest.raises(InputError, match="got a tuple as its state; expected the ModelState"):
        model.advance(frames, (None, None))


def test_a_users_own_reduction_and_map_classifier():
    own = torch_nn.Sequential(torch_nn.Flatten(), torch_nn.Linear(6 * 4 * 4, K))
    for classifier in (nn.ConvClassifier(6, K, (4, 4), (8,), (2,)), own):
        head = nn.DecisionHead(Decay(), classifier, in_channels=6)
        model = rsnn.ConvLSTMClassifier(nn.ConvLSTMEncoder(), head, preprocessing=PREPROCESSING).eval()
        frames = torch.rand(T, 2, 2, *SIZE)
        logits, state = model.advance(frames[:2])
        logits, state = model.advance(frames[2:], state)
        torch.testing.assert_close(logits, model(frames))
        weights = 0.5 ** torch.arange(T - 1, -1, -1.0)
        weighted = torch.einsum("t,tnchw->nchw", weights, model.forward_features(frames))
        torch.testing.assert_close(model(frames), classifier(weighted))


def test_a_users_own_module_under_the_librarys_trains_with_it():
    model = rsnn.RSNN(Brightness(), nn.SCNN(1, K, SIZE, (2, 2), 8), preprocessing=PREPROCESSING)
    model(torch.rand(T, 2, 2, *SIZE)).sum().backward()
    (stage, *_) = model.classifier.convs
    assert stage.conv.weight.grad.any()


# Parts of parts in other hands


class Adapted(torch_nn.Module):
    """A fully connected layer, and beside it one of low rank (LoRA)."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear
        self.down = torch_nn.Linear(linear.in_features, 1, bias=False)
        self.up = torch_nn.Linear(1, linear.out_features, bias=False)

    def forward(self, x):
        return self.linear(x) + self.up(self.down(x))


def adapt(module):
    for name, child in list(module.named_children()):
        if type(child) is torch_nn.Linear:
            setattr(module, name, Adapted(child))
        else:
            adapt(child)


@pytest.mark.parametrize("classifier", sorted(set(CLASSIFIERS) - {"lstm"}))
@pytest.mark.parametrize("encoder", ["CL", "CLA"])
def test_fully_connected_layers_with_adapters(encoder, classifier):
    torch.manual_seed(0)
    bottom = ENCODERS[encoder]()
    model = rsnn.RSNN(bottom, CLASSIFIERS[classifier](*output_of(bottom)), preprocessing=PREPROCESSING).eval()
    frames = 9 * torch.rand(T, 2, 2, *SIZE)
    expected = model(frames)
    adapt(model)
    for name, parameter in model.named_parameters():
        if name.endswith("up.weight"):
            torch_nn.init.zeros_(parameter)
    torch.testing.assert_close(model(frames), expected)
    model(frames).sum().backward()
    with pytest.raises(InputError, match=r"the last layer is a \S+\.Adapted; expected a torch\.nn\.Linear"):
        model.reset_classifier(3)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("encoder", ["CL", "CLA"])
@pytest.mark.filterwarnings("ignore:.*quantiz.*")
def test_quantized_layers(encoder, classifier):
    from torch.ao.quantization import quantize_dynamic

    torch.manual_seed(0)
    bottom = ENCODERS[encoder]()
    model = rsnn.RSNN(bottom, CLASSIFIERS[classifier](*output_of(bottom)), preprocessing=PREPROCESSING).eval()
    quantized = quantize_dynamic(model, {torch_nn.Linear, torch_nn.LSTM})
    frames = 9 * torch.rand(T, 2, *SIZE)
    probabilities = quantized.predict(frames).probabilities
    torch.testing.assert_close(probabilities, model.predict(frames).probabilities, rtol=0, atol=0.2)
    assert quantized.predict(frames, until=0.99).steps == T


@pytest.mark.parametrize("classifier", ["SCNN", "lstm"])
@pytest.mark.filterwarnings("ignore:.*quantiz.*")
def test_what_quantized_models_cannot_do_is_said(tmp_path, classifier):
    from torch.ao.quantization import quantize_dynamic

    bottom = ENCODERS["CL"]()
    model = rsnn.RSNN(bottom, CLASSIFIERS[classifier](*output_of(bottom)), preprocessing=PREPROCESSING).eval()
    model = quantize_dynamic(model, {torch_nn.Linear, torch_nn.LSTM})
    frames = torch.rand(T, 2, *SIZE)
    kind = r"torch\.ao\.nn\.quantized\.dynamic\.modules\.\w+\.(Linear|LSTM)"
    with pytest.raises(ConfigError, match=rf"classifier\.\S+ \(a {kind}\) is quantized.*expected the model before"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    with pytest.raises(InputError, match=rf"the last layer is a {kind}; expected a torch\.nn\.(Linear|LSTM)"):
        model.reset_classifier(3)
    pytest.importorskip("onnxruntime")
    with pytest.raises(InputError, match=rf"\(a {kind}\) is quantized, which the ONNX exporter"):
        rsnn.export.to_onnx(model, tmp_path / "model.onnx")
    assert rsnn.energy_report(model, frames[:, None]).not_counted
    with pytest.raises(InputError, match=r"weights of torch\.float16, and .* is quantized.*model\.float\(\)"):
        model.half().predict(frames)
    assert model.float().predict(frames).index < 10


# What does not fit


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            lambda: (nn.ConvLSTMEncoder(), nn.SCNN(10, K, (4, 4), (2,))),
            r"ConvLSTMEncoder gives features of 6 channels, but SCNN takes 10; expected .* in_channels=6",
        ),
        (
            lambda: (nn.ConvLSTMEncoder(), nn.SCNN(6, K, (8, 8))),
            r"frames of \(16, 16\) into features of \(4, 4\) pixels, but SCNN takes \(8, 8\); .*in_size=\(4, 4\)",
        ),
        (
            lambda: (nn.ConvLSTMEncoder(), nn.LSTMHead(6, K, (4, 5))),
            r"features of \(4, 4\) pixels, but LSTMHead takes \(4, 5\)",
        ),
        (
            lambda: (nn.ConvLSTMEncoder(), conv_head(nn.SumFrames(), 6, (8, 8))),
            r"features of \(4, 4\) pixels, but DecisionHead takes \(8, 8\)",
        ),
        (
            lambda: (nn.ConvLSTMEncoder(), conv_head(nn.ConcatFrames(3), 6, (4, 4))),
            "DecisionHead has room for 3 frames, but preprocessing makes 5 of a recording; expected num_frames=3",
        ),
        (
            lambda: (nn.ConvLSTM(2, 3), nn.SCNN(3, K, (8, 8))),
            r"SCNN does not take features \(1, 1, 3, 16, 16\): SCNN got feature maps of \(16, 16\)",
        ),
        (
            lambda: (Brightness(), nn.SCNN(2, K, SIZE)),
            r"SCNN does not take features \(1, 1, 1, 16, 16\): SCNN got shape",
        ),
        (lambda: (Brightness(), Largest(2, K)), r"Largest does not take features \(1, 1, 1, 16, 16\): mat1 and mat2"),
        (lambda: (nn.FramePool(), torch_nn.Identity()), r"Identity makes \(1, 1, 2, 16, 16\) of .* expected logits"),
    ],
)
@pytest.mark.parametrize("kind", [rsnn.RSNN, rsnn.ConvLSTMClassifier, rsnn.SCNN])
def test_a_mismatch_is_refused_at_construction(parts, message, kind):
    encoder, classifier = parts()
    with pytest.raises(InputError, match=message):
        kind(encoder=encoder, classifier=classifier, preprocessing=PREPROCESSING)


def test_channels_are_checked_without_preprocessing_too():
    with pytest.raises(InputError, match="gives features of 6 channels, but SCNN takes 2"):
        rsnn.RSNN(nn.ConvLSTMEncoder(), nn.SCNN(2, K, SIZE))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("abcd", "class_names='abcd': expected a list of text, a name for each class"),
        (set("abcd"), "expected a list of text"),
        (4, "class_names=4: expected a list of text"),
        (("a", "b", "c", 4), r"class_names\[3\] is 4; expected text"),
        (("a", "b", "c", "b"), "class_names 1 and 3 are both 'b'; expected another for each class"),
        (("a", "b"), "got 2 class_names for a classifier of 4 classes"),
    ],
)
def test_class_names_are_different_texts_one_for_each_class(names, message):
    parts = nn.ConvLSTMEncoder(), nn.LSTMHead(6, 4, (4, 4))
    with pytest.raises(InputError, match=message):
        EventClassifier(*parts, class_names=names)
    model = EventClassifier(*parts, class_names=list("wxyz"))
    with pytest.raises(InputError, match=message):
        model.class_names = names
    with pytest.raises(InputError, match=message):
        model.reset_classifier(4, names)
    assert (model.class_names, model.num_classes) == (tuple("wxyz"), 4)


def test_class_names_set_later_are_kept(tmp_path):
    model = rsnn.RSNN(nn.ConvLSTMEncoder(), nn.SCNN(6, 2, (32, 32)))
    assert model.class_names is None
    model.class_names = np.array(["left", "right"])
    model.save_pretrained(tmp_path)
    for copied in (rsnn.load(tmp_path), deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied.class_names == ("left", "right")
    model.class_names = None
    assert model.class_names is None


def test_encoder_and_classifier_in_the_wrong_order_are_refused():
    encoder, classifier = nn.ConvLSTMEncoder(2, (3, 4)), nn.SCNN(4, 3, (4, 4), channels=4, pools=(1,), votes=2)
    with pytest.raises(InputError, match="encoder is the classifier SCNN, and classifier ConvLSTMEncoder; expected"):
        rsnn.RSNN(classifier, encoder)


def test_what_is_no_module_is_refused():
    with pytest.raises(InputError, match=r"encoder=3: expected a torch\.nn\.Module"):
        rsnn.RSNN(3, 4)
    with pytest.raises(InputError, match=r"classifier=<class .*: expected a torch"):
        rsnn.RSNN(nn.ConvLSTMEncoder(), nn.SCNN)
    with pytest.raises(InputError, match=r"preprocessing=\(16, 16\): expected an rsnn.Preprocessing"):
        rsnn.RSNN(nn.ConvLSTMEncoder(), nn.LSTMHead(6, 4), preprocessing=(16, 16))


def test_class_names_and_logit_scale_are_checked():
    parts = (nn.FramePool(), nn.LSTMHead(2, K, SIZE))
    with pytest.raises(InputError, match="got 2 class_names for a classifier of 4 classes"):
        EventClassifier(*parts, class_names=("a", "b"))
    with pytest.raises(InputError, match=r"logit_scale=0: expected a positive number"):
        EventClassifier(*parts, logit_scale=0)


def test_frames_of_another_size_are_refused_at_the_door():
    model = rsnn.RSNN(nn.ConvLSTMEncoder(), nn.SCNN(6, K, (4, 4), (2,), 8), preprocessing=PREPROCESSING)
    with pytest.raises(InputError, match=r"RSNN got frames of \(20, 16\) pixels; it is built for \(16, 16\)"):
        model(torch.zeros(T, 1, 2, 20, 16))
    with pytest.raises(InputError, match=r"RSNN got shape \(5, 2, 16, 16\), which has no batch dimension"):
        model(torch.zeros(T, 2, *SIZE))
    with pytest.raises(InputError, match="RSNN is on cpu and the frames are on meta"):
        model(torch.zeros(T, 1, 2, *SIZE, device="meta"))


def test_whole_counts_and_arrays_are_taken_as_frames():
    model = rsnn.RSNN(nn.ConvLSTMEncoder(), nn.SCNN(6, K, (4, 4), (2,), 8), preprocessing=PREPROCESSING).eval()
    counts = torch.randint(0, 5, (T, 1, 2, *SIZE))
    assert torch.equal(model(counts), model(counts.float()))
    assert torch.equal(model(counts.to(torch.int32).numpy()), model(counts.float()))


def test_another_default_device_does_not_matter():
    """Of all devices meta shows best what came to lie on the wrong one."""
    model = rsnn.RSNN(nn.ConvLSTMEncoder(), nn.SCNN(6, K, (4, 4), (2,), 8), preprocessing=PREPROCESSING).eval()
    counts = torch.poisson(torch.full((T, 2, *SIZE), 0.5))
    expected, joules = model.predict(counts), rsnn.energy_report(model, counts[:, None]).total.joules
    with torch.device("meta"):
        found = [model.predict(counts), model.predict(counts.numpy())]
        assert rsnn.energy_report(model, counts[:, None]).total.joules == joules
        model.train()(counts[:, None]).sum().backward()
    for prediction in found:
        assert prediction.probabilities.tolist() == expected.probabilities.tolist()


def test_sizes_may_be_whole_numbers_of_numpy(tmp_path):
    """`num_classes=labels.max() + 1` is one; what is stored is Python's."""
    two, three = np.array([2, 3])
    model = rsnn.create_model("rsnn-gesture-cl", num_classes=three, frame_size=(16 * two, 32), num_frames=two)
    encoder = nn.ConvLSTMEncoder(two, (three, three), pool=two)
    composed = rsnn.RSNN(encoder, nn.SCNN(three, three, encoder.output_size((32, 32)), pools=(two,)))
    for place, each in enumerate((model, composed)):
        each.save_pretrained(tmp_path / str(place))
        again = rsnn.load(tmp_path / str(place))
        frames = torch.zeros(2, 1, 2, 32, 32)
        torch.testing.assert_close(again.eval()(frames), each.eval()(frames))
        assert type(again.num_classes) is int
    model.reset_classifier(two)
    assert model(frames).shape == (1, 2)
    with pytest.raises(InputError, match="num_classes"):
        rsnn.create_model("rsnn-gesture-cl", num_classes=np.float64(3.0))
    with pytest.raises(InputError, match="num_classes"):
        rsnn.create_model("rsnn-gesture-cl", num_classes=np.True_)


def test_numbers_of_numpy_are_stored_as_pythons(tmp_path):
    half, off = np.linspace(0.5, 1, 3)[0], np.bool_(0)
    encoder = nn.ConvLSTMEncoder(2, (3,), attention=off)
    classifier = nn.SCNN(3, 2, encoder.output_size((32, 32)), pools=(2,), v_threshold=half)
    rsnn.RSNN(encoder, classifier).save_pretrained(tmp_path)
    again = rsnn.load(tmp_path).classifier
    assert type(again.v_threshold) is float
    assert again.v_threshold == 0.5


@pytest.mark.parametrize("name", ["hand\u00a0clap", "\u0645\u06cc\u200c\u062e", "\U0001f469\u200d\U0001f680"])
def test_class_names_are_any_text(tmp_path, name):
    model = rsnn.create_model("rsnn-nmnist-cl", num_classes=2, class_names=(name, "b"))
    model.save_pretrained(tmp_path)
    assert rsnn.load(tmp_path).class_names == (name, "b")


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2J", "\u202eabc", "a\u2028b", "n" * 257, "cat\u200b", "a\u200e"])
def test_class_names_that_would_not_load_again(name):
    with pytest.raises(InputError, match=r"class_names\[1\] is .*at most 256 characters"):
        rsnn.create_model("rsnn-nmnist-cl", num_classes=2, class_names=("a", name))


def test_names_of_another_classifier_are_not_given():
    model = rsnn.create_model("rsnn-nmnist-cl")
    model.classifier = torch.nn.Module()
    for classes in (3, 12):
        with pytest.raises(InputError, match=f"{classes} classes apart and the model has 10 class_names"):
            model.predictions(torch.zeros(1, classes))


def test_what_a_subclass_adds_is_trained():
    class Wider(rsnn.RSNN):
        pass

    plain = rsnn.create_model("rsnn-nmnist-cl")
    model = Wider(plain.encoder, plain.classifier)
    model.extra = torch.nn.Linear(2, 3)
    groups = {group["name"]: group["params"] for group in model.parameter_groups()}
    assert groups["others"] == [model.extra.weight, model.extra.bias]
    assert sum(map(len, groups.values())) == len(list(model.parameters()))


@pytest.mark.parametrize("scale", [0, -1.0, float("inf"), float("nan"), "a", True])
def test_logit_scales_that_are_none(scale):
    plain = rsnn.create_model("rsnn-nmnist-cl")
    with pytest.raises(InputError, match="logit_scale"):
        rsnn.RSNN(plain.encoder, plain.classifier, logit_scale=scale)
