"""Decision heads: each reduction by its definition, the classifiers layer by layer, and the user's own parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rsnn.errors import InputError
from rsnn.nn import (
    ConcatFrames,
    ConvClassifier,
    DecisionHead,
    LastFrame,
    LSTMHead,
    MeanFrames,
    SumFrames,
    Voting,
)


def test_reductions_worked_by_hand():
    features = torch.tensor([[1.0, -2.0], [3.0, 4.0], [5.0, 4.0]]).reshape(3, 1, 2, 1, 1)
    for reduction, expected in (
        (LastFrame(), [5.0, 4.0]),
        (SumFrames(), [9.0, 6.0]),
        (MeanFrames(), [3.0, 2.0]),
        (ConcatFrames(3), [1.0, -2.0, 3.0, 4.0, 5.0, 4.0]),
        (ConcatFrames(4), [1.0, -2.0, 3.0, 4.0, 5.0, 4.0, 0.0, 0.0]),
    ):
        reduced, _ = reduction(features)
        assert reduced.shape == (1, reduction.out_channels(2), 1, 1)
        assert reduced.flatten().tolist() == expected


def test_concat_keeps_the_samples_apart():
    features = torch.arange(2 * 3 * 2 * 4 * 5.0).reshape(2, 3, 2, 4, 5)
    reduced, _ = ConcatFrames(2)(features)
    for n in range(3):
        assert torch.equal(reduced[n], torch.cat((features[0, n], features[1, n])))


def test_concat_has_room_for_its_frames_only():
    concat = ConcatFrames(3)
    with pytest.raises(InputError, match="got 4 steps; expected at most num_frames=3"):
        concat(torch.zeros(4, 1, 2, 3, 3))
    _, state = concat(torch.zeros(2, 1, 2, 3, 3))
    with pytest.raises(InputError, match="got 4 steps"):
        concat(torch.zeros(2, 1, 2, 3, 3), state)


@pytest.mark.parametrize("reduction", [SumFrames(), MeanFrames()], ids=lambda reduction: type(reduction).__name__)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_chunks_in_half_precision_lose_nothing(reduction, dtype):
    """A sum in bfloat16 would stop at 256 when ones are added to it."""
    features, state = torch.ones(3000, 1, 2, 3, 3, dtype=dtype), None
    whole, _ = reduction(features)
    for chunk in features.split(1):
        found, state = reduction(chunk, state)
    assert found.dtype == whole.dtype == dtype
    assert torch.equal(found, whole)
    assert whole.unique().tolist() == [
        1 if isinstance(reduction, MeanFrames) else torch.tensor(3000, dtype=dtype).item()
    ]


def test_voting_worked_by_hand():
    assert Voting(2)(torch.tensor([[1.0, 3.0, -2.0, 0.0]])).tolist() == [[2.0, -1.0]]
    assert torch.equal(Voting(10)(torch.ones(4, 3, 110)), torch.ones(4, 3, 11))
    for dtype in (torch.bfloat16, torch.float16):  # neither holds 0.3
        assert Voting(10)(torch.tensor([1, 1, 1] + 7 * [0], dtype=dtype)).item() == torch.tensor(0.3).item()


@pytest.mark.parametrize(
    ("channels", "pools"), [((64, 64, 32), (2, 2, 2)), ((64, 64, 32, 32), (2, 1, 2, 1))], ids=["gesture", "cifar10dvs"]
)
def test_conv_classifier_is_table_1(channels, pools):
    """The layers of Table 1, written down once more."""
    classifier = ConvClassifier(6, 11, (16, 16), channels, pools)
    layers, c = [], 6
    for out, pool in zip(channels, pools, strict=True):
        layers += [nn.Conv2d(c, out, 3, stride=1, padding=1), nn.ReLU()] + [nn.MaxPool2d(2)] * (pool == 2)
        c = out
    m = 16 // (8 if len(pools) == 3 else 4)
    layers += [nn.Flatten(), nn.Linear(32 * m * m, 8 * m * m), nn.ReLU(), nn.Linear(8 * m * m, 110), nn.AvgPool1d(10)]
    plain = nn.Sequential(*layers)
    plain.load_state_dict(dict(zip(plain.state_dict(), classifier.state_dict().values(), strict=True)))
    x = torch.randn(3, 6, 16, 16)
    torch.testing.assert_close(classifier(x), plain(x))


def test_lstm_head_is_three_lstms_whose_outputs_are_added():
    head = LSTMHead(2, 3, (4, 4), votes=5)
    assert [(layer.input_size, layer.hidden_size) for layer in head.layers] == [(32, 8), (8, 2), (2, 15)]
    features = torch.randn(6, 2, 2, 4, 4)
    x = features.reshape(6, 2, 32)
    for layer in head.layers:
        x, _ = layer(x)
    scores, _ = head(features)
    torch.testing.assert_close(scores, x.sum(0).reshape(2, 3, 5).mean(2))


@pytest.mark.parametrize("reduction", [LastFrame(), SumFrames(), MeanFrames(), ConcatFrames(4)])
def test_head_is_reduction_and_then_classifier(reduction):
    classifier = ConvClassifier(reduction.out_channels(3), 5, (8, 8))
    head = DecisionHead(reduction, classifier, in_channels=3)
    features = torch.randn(4, 2, 3, 8, 8)
    scores, _ = head(features)
    assert torch.equal(scores, classifier(reduction(features)[0]))
    assert (scores.shape, head.num_classes, head.in_size) == ((2, 5), 5, (8, 8))


@pytest.mark.parametrize(
    "build",
    [
        lambda: DecisionHead(SumFrames(), ConvClassifier(3, 5, (8, 8)), 3),
        lambda: LSTMHead(3, 5, (8, 8)),
        lambda: ConvClassifier(3, 5, (8, 8)),
    ],
    ids=["DecisionHead", "LSTMHead", "ConvClassifier"],
)
def test_reset_classifier_leaves_the_rest(build):
    head = build()
    before = {name: weight.clone() for name, weight in head.state_dict().items()}
    head.double().reset_classifier(7)
    changed = {name for name, weight in head.state_dict().items() if not torch.equal(weight, before[name].double())}
    assert changed
    assert all("output" in name or "layers.2" in name for name in changed)
    assert {weight.dtype for weight in head.parameters()} == {torch.float64}
    assert head.num_classes == 7
    x = torch.randn(2, 4, 3, 8, 8, dtype=torch.float64)
    scores = head(x[0]) if isinstance(head, ConvClassifier) else head(x)[0]
    assert scores.shape == (4, 7)
    with pytest.raises(InputError, match="num_classes=0"):
        head.reset_classifier(0)


class LastMinusFirst(nn.Module):
    """A reduction that the library does not have."""

    def out_channels(self, in_channels):
        return in_channels

    def forward(self, features, state=None):
        first = features[0] if state is None else state
        return features[-1] - first, first


class Means(nn.Module):
    """A classifier that the library does not have: it tells no sizes and knows no state."""

    def __init__(self, channels, classes):
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, x):
        return self.linear(x.mean((-2, -1)))


def test_a_users_own_reduction_and_classifier():
    features = torch.randn(5, 2, 3, 8, 8)
    own = Means(3, 4)
    for classifier in (ConvClassifier(3, 4, (8, 8)), own):
        head = DecisionHead(LastMinusFirst(), classifier, 3)
        scores, _ = head(features)
        assert torch.equal(scores, classifier(features[4] - features[0]))
        _, state = head(features[:2])
        torch.testing.assert_close(head(features[2:], state)[0], scores)
    assert head.num_classes is None
    assert head.in_size is None
    with pytest.raises(InputError, match="Means has no reset_classifier"):
        head.reset_classifier(3)


def test_parts_that_do_not_fit():
    with pytest.raises(InputError, match=r"ConcatFrames makes 12 channels of in_channels=3, .* ConvClassifier takes 3"):
        DecisionHead(ConcatFrames(4), ConvClassifier(3, 5, (8, 8)), 3)
    with pytest.raises(InputError, match=r"Linear is no reduction: it has no method out_channels\(in_channels\)"):
        DecisionHead(nn.Linear(2, 2), ConvClassifier(3, 5, (8, 8)), 3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ConvClassifier(3, 5, (4, 8)), r"pools=\(2, 2, 2\) leave no pixel of in_size=\(4, 8\).*at least 8"),
        (lambda: ConvClassifier(3, 5, 32), r"in_size=32: expected \(height, width\)"),
        (lambda: ConvClassifier(3, 5, (8, 8), (4, 4)), r"channels=\(4, 4\) and pools=\(2, 2, 2\)"),
        (lambda: ConvClassifier(3, 5, (8, 8), (), ()), r"channels=\(\)"),
        (lambda: ConvClassifier(3, 0), "num_classes=0"),
        (lambda: ConvClassifier(3, 5, votes=0), "votes=0"),
        (lambda: LSTMHead(3, 5, (8,)), r"in_size=\(8,\): expected \(height, width\)"),
        (lambda: LSTMHead(3, 5, (8, 0)), r"in_size=\(8, 0\)"),
        (lambda: ConcatFrames(0), "num_frames=0"),
        (lambda: Voting(0), "votes=0"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(InputError, match=message):
        build()


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("reduction", [SumFrames(), MeanFrames(), ConcatFrames(4)], ids=repr)
def test_states_are_of_their_own(reduction, mode):
    """Neither what came in nor what is done with what goes out changes them."""
    torch.manual_seed(0)
    frames = torch.randn(4, 2, 3, 5, 5)
    expected, _ = reduction(frames)
    with mode():
        buffer, state = torch.empty(1, 2, 3, 5, 5), None
        for frame in frames:
            buffer.copy_(frame)
            found, state = reduction(buffer, state)
            last = found.clone()
            found.zero_()
    torch.testing.assert_close(last, expected)
