from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

import rsnn
from rsnn.errors import ConfigError
from rsnn.training import losses
from rsnn.training.objective import Objective
from rsnn.training.recipe import Loss

VOTES = torch.tensor([[[1.0, 0.0]], [[0.0, 0.5]]])  # two steps, one recording, two classes
WANTED = torch.tensor([[1.0, 0.0]])


def test_smoothed_targets_by_hand():
    assert losses.targets(torch.tensor([2, 0]), 4, 0.2).tolist() == [
        pytest.approx([0.05, 0.05, 0.85, 0.05]),
        pytest.approx([0.85, 0.05, 0.05, 0.05]),
    ]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_targets_is_torchs_of_labels(smoothing):
    logits, labels = torch.randn(5, 7), torch.tensor([0, 3, 6, 2, 2])
    ours = losses.cross_entropy(logits, losses.targets(labels, 7, smoothing))
    torch.testing.assert_close(ours, F.cross_entropy(logits, labels, label_smoothing=smoothing))


def test_rate_mse_by_hand():
    # rates (0.5, 0.25), wanted (1, 0): (0.25 + 0.0625) / 2
    assert losses.rate_mse(VOTES, WANTED).item() == pytest.approx(0.15625)


def test_tet_by_hand():
    # CE at step 1: log(1 + e^-1), at step 2: log(1 + e^0.5); distances from 1: 0, 1, 1, 0.25 (squares of 0, 1, 1, 0.5)
    entropy = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(0.5))) / 2
    level = (0 + 1 + 1 + 0.25) / 4
    assert losses.tet(VOTES, WANTED, weight=0.1).item() == pytest.approx(0.9 * entropy + 0.1 * level, rel=1e-6)
    assert losses.tet(VOTES, WANTED, weight=0).item() == pytest.approx(entropy, rel=1e-6)


def test_mixup_mixes_frames_and_targets_alike():
    torch.manual_seed(3)
    frames, wanted = torch.rand(4, 6, 2, 3, 3), losses.targets(torch.arange(6), 6)
    mixed, mixed_wanted = losses.mixed(frames, wanted, 0.4)
    # The targets are one-hot, so they say with what and how much each was mixed: frames are that sum.
    torch.testing.assert_close(mixed, torch.einsum("nm,tmchw->tnchw", mixed_wanted, frames))
    torch.testing.assert_close(mixed_wanted.sum(1), torch.ones(6))


@pytest.fixture(scope="module")
def scnn():
    torch.manual_seed(0)
    return rsnn.create_model("scnn-nmnist", frame_size=(16, 16), num_frames=3, num_classes=3).train()


@pytest.mark.parametrize("kind", ["cross_entropy", "rate_mse", "tet"])
def test_the_objective_computes_the_loss_of_the_models_own_output(scnn, kind):
    frames, wanted = torch.poisson(torch.ones(3, 4, 2, 16, 16)), losses.targets(torch.tensor([0, 1, 2, 0]), 3)
    loss, logits = Objective(scnn, kind, Loss(tet_weight=0.2))(frames, wanted)
    votes, _ = scnn.classifier.step_votes(scnn.forward_features(frames))
    expected = {
        "cross_entropy": losses.cross_entropy(scnn(frames), wanted),
        "rate_mse": losses.rate_mse(votes, wanted),
        "tet": losses.tet(votes, wanted, scale=10.0, weight=0.2),
    }[kind]
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(logits, scnn(frames).detach())


def test_rates_of_a_head_that_has_none_are_refused():
    model = rsnn.create_model("convlstm-nmnist-cl-sum")
    with pytest.raises(ConfigError, match='loss = "cross_entropy"'):
        Objective(model, "tet")
