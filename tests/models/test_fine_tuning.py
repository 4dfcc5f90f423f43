"""What a user changes of a trained model: its classes, which parts train, and how fast."""

from __future__ import annotations

import pytest
import torch

import rsnn
from rsnn import nn
from rsnn.errors import InputError
from rsnn.models import SLAYER, STBP

SIZE, T = (16, 16), 4


def small(classifier=None):
    torch.manual_seed(0)
    return rsnn.RSNN(
        nn.ConvLSTMEncoder(),
        classifier or nn.SCNN(6, 3, (4, 4), (2,), 8),
        class_names=("a", "b", "c"),
        preprocessing=rsnn.Preprocessing(frame_size=SIZE, num_frames=T),
    )


CLASSIFIERS = {
    "SCNN": lambda: nn.SCNN(6, 3, (4, 4), (2,), 8),
    "DecisionHead": lambda: nn.DecisionHead(nn.MeanFrames(), nn.ConvClassifier(6, 3, (4, 4), (8,), (2,)), 6),
    "LSTMHead": lambda: nn.LSTMHead(6, 3, (4, 4)),
    "SpikingNetwork": lambda: nn.SpikingNetwork(6, 3, (4, 4), ("4C3", "8FC"), nn.SRM()),
}


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_reset_classifier_replaces_the_last_layer_only(classifier):
    model = small(CLASSIFIERS[classifier]())
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert model.get_classifier() is model.classifier
    model.reset_classifier(5, tuple("vwxyz"))
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed
    assert all(".output" in name or ".layers.2" in name for name in changed)
    assert (model.num_classes, model.class_names) == (5, tuple("vwxyz"))
    assert model(torch.rand(T, 2, 2, *SIZE)).shape == (2, 5)
    model.reset_classifier(2)
    assert model.class_names is None


def test_reset_classifier_checks_the_names():
    with pytest.raises(InputError, match="got 2 class_names for a classifier of 3 classes"):
        small().reset_classifier(3, ("a", "b"))
    with pytest.raises(InputError, match="num_classes=0"):
        small().reset_classifier(0)


@pytest.mark.parametrize("build", [lambda: rsnn.create_model("rsnn-nmnist-cl", pretrained=True, num_classes=5)])
def test_a_pretrained_model_with_other_classes(build):
    model, original = build(), rsnn.RSNN.from_pretrained("rsnn-nmnist-cl")
    again = rsnn.RSNN.from_pretrained("rsnn-nmnist-cl", num_classes=5)
    for other in (model, again):
        assert (other.num_classes, other.class_names, other.training) == (5, None, False)
        different = [
            name
            for name, weight in other.state_dict().items()
            if weight.shape != original.state_dict()[name].shape or not torch.equal(weight, original.state_dict()[name])
        ]
        assert different == ["classifier.output.linear.weight"]
    frames = torch.rand(20, 1, 2, 34, 34)
    assert torch.equal(model.forward_features(frames), original.forward_features(frames))


def test_the_same_number_of_classes_replaces_nothing():
    model, original = (rsnn.RSNN.from_pretrained("rsnn-nmnist-cl", num_classes=k) for k in (10, None))
    assert all(torch.equal(w, original.state_dict()[name]) for name, w in model.state_dict().items())
    assert model.class_names == original.class_names


@pytest.mark.parametrize("part", ["encoder", "classifier"])
def test_freezing_by_part(part):
    model, other = small(), {"encoder": "classifier", "classifier": "encoder"}[part]
    assert model.freeze(part) is model
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.train()(torch.rand(T, 2, 2, *SIZE)).sum().backward()
    trainable = {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {other}
    assert {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None} == {other}
    # Nor do its batch norms go on counting.
    frozen = [name for name in before if name.startswith(part)]
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in frozen)
    assert not getattr(model, part).training
    assert getattr(model, other).training
    model.unfreeze(part)
    assert getattr(model, part).training
    assert all(p.requires_grad for p in model.parameters())
    model.eval().unfreeze(part)
    assert not getattr(model, part).training


def test_freezing_something_else():
    with pytest.raises(InputError, match="part='head': expected 'encoder' or 'classifier'"):
        small().freeze("head")


def test_parameter_groups_hold_every_parameter_once():
    model = small()
    groups = model.parameter_groups(weight_decay=0.01, encoder_lr=1e-4, classifier_lr=1e-3)
    assert [(g["name"], g["weight_decay"], g["lr"]) for g in groups] == [
        ("encoder", 0.01, 1e-4),
        ("encoder biases and norms", 0.0, 1e-4),
        ("classifier", 0.01, 1e-3),
        ("classifier biases and norms", 0.0, 1e-3),
    ]
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    names = {id(p): name for name, p in model.named_parameters()}
    for group in groups:
        for p in group["params"]:
            name = names[id(p)]
            assert name.startswith(group["name"].split()[0])
            assert ("bias" in name or "norm" in name) == group["name"].endswith("biases and norms")


def test_parameter_groups_without_rates_or_of_a_frozen_part():
    groups = small().freeze("encoder").parameter_groups(weight_decay=0.1)
    assert [group["name"] for group in groups] == ["classifier", "classifier biases and norms"]
    assert all("lr" not in group for group in groups)
    optimizer = torch.optim.AdamW(groups, lr=0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


def test_each_group_trains_at_its_own_rate():
    model = small()
    encoder = {name: weight.clone() for name, weight in model.encoder.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameter_groups(encoder_lr=0.0, classifier_lr=0.1))
    before = model.classifier.hidden.linear.weight.clone()
    model(torch.rand(T, 2, 2, *SIZE)).sum().backward()
    optimizer.step()
    assert all(torch.equal(weight, encoder[name]) for name, weight in model.encoder.state_dict().items())
    assert not torch.equal(model.classifier.hidden.linear.weight, before)


def test_a_model_without_weights_below_has_no_empty_groups():
    model = rsnn.create_model("scnn-nmnist", frame_size=(32, 32))
    assert [group["name"] for group in model.parameter_groups()] == ["classifier", "classifier biases and norms"]


def test_fine_tuned_it_is_saved_and_comes_back(tmp_path):
    model = rsnn.create_model("rsnn-nmnist-cl", pretrained=True, num_classes=3)
    model.freeze("encoder").class_names = ("x", "y", "z")
    model.eval().save_pretrained(tmp_path / "mine")
    loaded = rsnn.load(tmp_path / "mine")
    frames = torch.poisson(torch.full((20, 1, 2, 34, 34), 0.1))
    assert torch.equal(loaded(frames), model(frames))
    assert loaded.predict(frames[:, 0]).label in ("x", "y", "z")


@pytest.mark.parametrize(("name", "kind"), [("slayer-gesture", SLAYER), ("stbp-gesture", STBP)])
def test_baselines_have_the_same_surface(name, kind):
    model = rsnn.create_model(name, frame_size=(32, 32), num_frames=T)
    assert type(model) is kind
    model.reset_classifier(4, tuple("abcd"))
    frames = torch.poisson(torch.full((T, 2, 2, 32, 32), 0.5))
    assert model(frames).shape == (2, 4)
    assert torch.equal(model.forward_features(frames), frames)
    assert model.predict(frames[:, 0]).label in "abcd"
