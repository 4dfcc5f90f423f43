"""The paper's second phase: a trained encoder goes under a spiking network."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import rsnn
from rsnn import nn
from rsnn.errors import InputError

SIZE, T = (16, 16), 4


def trained(num_classes=3, class_names=("a", "b", "c")):
    """A small RNN module that is not where it started."""
    torch.manual_seed(0)
    head = nn.DecisionHead(nn.SumFrames(), nn.ConvClassifier(6, num_classes, (4, 4), (8,), (2,)), 6)
    preprocessing = rsnn.Preprocessing(frame_size=SIZE, num_frames=T, normalize="log1p")
    rnn = rsnn.ConvLSTMClassifier(
        nn.ConvLSTMEncoder(), head, class_names=class_names, preprocessing=preprocessing, logit_scale=2.0
    )
    step(rnn, lr=1.0)
    return rnn


def frames(samples=4):
    return torch.poisson(torch.full((T, samples, 2, *SIZE), 0.7))


def step(model, lr=0.1):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    F.cross_entropy(model.train()(frames()), torch.arange(4) % 3).backward()
    optimizer.step()
    return model


def weights(module):
    return {name: weight.clone() for name, weight in module.state_dict().items()}


def same(module, before):
    return all(torch.equal(weight, before[name]) for name, weight in module.state_dict().items())


def scnn(num_classes=3):
    return nn.SCNN(6, num_classes, (4, 4), (2,), 8)


def test_the_encoder_and_all_that_belongs_to_it_comes_along():
    rnn = trained()
    model = rsnn.RSNN.from_rnn(rnn, scnn())
    x = frames()
    assert torch.equal(model.forward_features(x), rnn.forward_features(x))
    assert (model.preprocessing, model.class_names) == (rnn.preprocessing, rnn.class_names)
    assert model.logit_scale == 10.0
    assert rsnn.RSNN.from_rnn(rnn, scnn(), logit_scale=3.0).logit_scale == 3.0


def test_frozen_only_the_classifier_trains():
    model = rsnn.RSNN.from_rnn(trained(), scnn())
    encoder, classifier = weights(model.encoder), weights(model.classifier)
    assert model.training
    assert not model.encoder.training
    step(model)
    assert same(model.encoder, encoder)
    assert not same(model.classifier, classifier)
    assert not model.train().encoder.training
    assert all(p.grad is None for p in model.encoder.parameters())
    # ... until it is let go.
    assert step(model.unfreeze("encoder")) is model
    assert not same(model.encoder, encoder)


def test_not_frozen_both_train():
    model = rsnn.RSNN.from_rnn(trained(), scnn(), freeze_encoder=False)
    encoder, classifier = weights(model.encoder), weights(model.classifier)
    assert model.encoder.training
    step(model)
    assert not same(model.encoder, encoder)
    assert not same(model.classifier, classifier)


def test_not_frozen_trains_an_encoder_that_was_frozen_before():
    rnn = trained().freeze("encoder").eval()
    model = rsnn.RSNN.from_rnn(rnn, scnn(), freeze_encoder=False)
    encoder = weights(model.encoder)
    assert model.encoder.training
    step(model)
    assert not same(model.encoder, encoder)
    assert not any(p.requires_grad for p in rnn.encoder.parameters())


def test_the_rnn_stays_as_it_is():
    rnn = trained()
    before = weights(rnn)
    for freeze in (True, False):
        step(rsnn.RSNN.from_rnn(rnn, scnn(), freeze_encoder=freeze))
    assert same(rnn, before)
    assert all(p.requires_grad for p in rnn.parameters())
    assert rnn.encoder.training


def test_another_number_of_classes_has_no_names():
    model = rsnn.RSNN.from_rnn(trained(), scnn(5))
    assert (model.num_classes, model.class_names) == (5, None)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="gives features of 6 channels, but SCNN takes 4"):
        rsnn.RSNN.from_rnn(trained(), nn.SCNN(4, 3, (4, 4), (2,)))
    with pytest.raises(InputError, match=r"features of \(4, 4\) pixels, but SCNN takes \(8, 8\)"):
        rsnn.RSNN.from_rnn(trained(), nn.SCNN(6, 3, (8, 8)))


def test_from_a_zoo_name_to_a_zoo_name():
    """The RNN module and the RSNN of one encoder fit each other by name."""
    for data in ("gesture", "nmnist"):
        rnn = rsnn.create_model(f"convlstm-{data}-cl-sum", frame_size=(32, 32), num_frames=T)
        spiking = rsnn.create_model(f"rsnn-{data}-cl", frame_size=(32, 32), num_frames=T)
        model = rsnn.RSNN.from_rnn(rnn, spiking.classifier)
        assert [tuple(w.shape) for w in model.state_dict().values()] == [
            tuple(w.shape) for w in spiking.state_dict().values()
        ]
        assert model(torch.rand(T, 1, 2, 32, 32)).shape == (1, rnn.num_classes)


def test_a_name_in_place_of_a_model_is_refused():
    with pytest.raises(InputError, match=r"rnn is 'convlstm-nmnist-cl-sum'; expected a model, as rsnn\.load"):
        rsnn.RSNN.from_rnn("convlstm-nmnist-cl-sum", nn.SCNN(6, 3, (8, 8)))
