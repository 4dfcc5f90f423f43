"""The spiking CNN against the same network made of SpikingJelly's layers."""

from __future__ import annotations

import copy
from math import prod

import pytest
import torch
from torch import nn

from rsnn import kernels
from rsnn.errors import InputError
from rsnn.kernels import Sigmoid
from rsnn.nn import SCNN


def theirs(in_channels, classes, size, pools, channels, neuron_options, learn_tau=False):
    from spikingjelly.activation_based import layer, neuron, surrogate

    def lif():
        options = {"surrogate_function": surrogate.ATan(), "detach_reset": True, "step_mode": "m", **neuron_options}
        tau = options.pop("tau", 2.0)
        if learn_tau:
            return neuron.ParametricLIFNode(init_tau=tau, **options)
        return neuron.LIFNode(tau=tau, **options)

    layers = []
    for pool in pools:
        layers += [
            layer.Conv2d(in_channels, channels, 3, padding=1, bias=False, step_mode="m"),
            layer.BatchNorm2d(channels, step_mode="m"),
            lif(),
        ]
        if pool > 1:
            layers.append(layer.MaxPool2d(pool, pool, step_mode="m"))
        in_channels = channels
    pixels = (size[0] // prod(pools)) * (size[1] // prod(pools))
    layers += [
        layer.Flatten(step_mode="m"),
        layer.Linear(channels * pixels, channels // 4 * pixels, bias=False, step_mode="m"),
        lif(),
        layer.Linear(channels // 4 * pixels, classes * 10, bias=False, step_mode="m"),
        lif(),
    ]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("size", "pools", "options"),
    [
        ((16, 16), (2, 2, 2), {}),
        ((8, 12), (2, 1, 2, 1), {"v_reset": None}),
        ((32, 32), (2, 2, 2, 2, 2), {"v_reset": -0.1, "v_threshold": 0.5, "tau": 1.5}),
        ((9, 8), (2, 2), {"learn_tau": True}),
    ],
    ids=["3 layers", "4 layers", "5 layers", "PLIF"],
)
@pytest.mark.parametrize("training", [True, False])
def test_same_spikes_as_a_network_of_spikingjelly(size, pools, options, training):
    torch.manual_seed(0)
    scnn = SCNN(3, 4, size, pools, channels=16, **options)
    with torch.no_grad():
        for weight in scnn.parameters():
            if weight.ndim > 1:  # the default's are so small that the last layers would stay silent
                weight.normal_(std=8 / weight[0].numel() ** 0.5)
    neuron_options = dict(options)
    other = theirs(3, 4, size, pools, 16, neuron_options, neuron_options.pop("learn_tau", False))
    # Equal names are not needed: both list their weights from the input to the output.
    weights = list(scnn.state_dict().values())
    other.load_state_dict(dict(zip(other.state_dict(), weights, strict=True)))
    features = torch.randn(6, 2, 3, *size)
    scnn.train(training)
    other.train(training)
    spikes = other(features)
    assert 0.01 < spikes.mean() < 0.99
    votes, potentials = scnn.step_votes(features)
    torch.testing.assert_close(votes, spikes.unflatten(2, (4, 10)).mean(3))
    rates, state = scnn(features)
    torch.testing.assert_close(rates, spikes.mean(0).unflatten(1, (4, 10)).mean(2))
    assert state.steps == 6
    from spikingjelly.activation_based import neuron

    nodes = [module for module in other if isinstance(module, neuron.BaseNode)]
    for node, potential in zip(nodes, potentials, strict=True):
        torch.testing.assert_close(potential, node.v)


@pytest.mark.parametrize("kernel", ["torch", "native"])
@pytest.mark.parametrize("training", [True, False])
def test_a_stage_tells_how_many_spikes_were_pooled(kernel, training):
    """Channels that fill no vector, and a row and a column that fill no window."""
    if kernel not in kernels.available():
        pytest.skip(f"{kernel} is not available")
    torch.manual_seed(3)
    stage = SCNN(5, 2, (7, 9), pools=(2,), channels=19).train(training).convs[0]
    features, number = torch.randn(4, 3, 5, 7, 9), torch.tensor(10)
    with kernels.use(kernel), torch.no_grad():
        spikes, potential = stage(features, None, number=number)
        again, _ = stage(features, None)
        stage.pool = 1
        unpooled, _ = stage(features, None)
    assert number == 10 + unpooled.count_nonzero() > 20
    assert torch.equal(spikes, again)
    assert spikes.shape == (4, 3, 19, 3, 4)
    assert potential.shape == (3, 19, 7, 9)


def test_frames_are_average_pooled_first():
    torch.manual_seed(0)
    pooling = SCNN(2, 3, (35, 33), (2, 2), 8, in_pool=4)
    plain = SCNN(2, 3, (8, 8), (2, 2), 8)
    plain.load_state_dict(pooling.state_dict())
    pooling.eval()
    plain.eval()
    frames = torch.randn(3, 2, 2, 35, 33) * 5
    pooled = torch.stack([nn.functional.avg_pool2d(x, 4) for x in frames])
    votes, potentials = pooling.step_votes(frames)
    expected, expected_potentials = plain.step_votes(pooled)
    assert torch.equal(votes, expected)
    assert all(map(torch.equal, potentials, expected_potentials))


def test_neurons_get_their_arguments():
    scnn = SCNN(2, 3, (8, 8), surrogate=Sigmoid(3.0), tau=3.0, v_threshold=0.5, v_reset=None, detach_reset=False)
    neurons = [*(stage.lif for stage in scnn.convs), scnn.hidden.lif, scnn.output.lif]
    assert len({id(lif) for lif in neurons}) == 5
    for lif in neurons:
        assert (lif.surrogate, lif.tau, lif.v_threshold, lif.v_reset) == (Sigmoid(3.0), 3.0, 0.5, None)
        assert not lif.detach_reset
    plif = SCNN(2, 3, (8, 8), learn_tau=True)
    assert sum(name.endswith("lif.w") for name, _ in plif.named_parameters()) == 5


def test_dropout_leaves_out_the_same_inputs_at_every_step_and_only_in_training():
    torch.manual_seed(0)
    scnn = SCNN(2, 3, (8, 8), (2,), 8, dropout=0.5)
    layer = scnn.hidden
    seen = []
    layer.linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.ones(5, 4, 8 * 16)
    layer.train()(x, None)
    layer.eval()(x, None)
    in_training, in_evaluation = seen
    assert torch.equal(in_training, in_training[:1].expand_as(in_training))
    assert set(in_training.unique().tolist()) == {0.0, 2.0}
    assert 0.4 < in_training[0].count_nonzero() / in_training[0].numel() < 0.6
    assert torch.equal(in_evaluation, x)


def test_reset_classifier_leaves_the_rest():
    scnn = SCNN(2, 3, (8, 8), (2,), 8)
    before = {name: weight.clone() for name, weight in scnn.state_dict().items()}
    scnn.reset_classifier(5)
    changed = [name for name, weight in scnn.state_dict().items() if not torch.equal(weight, before[name])]
    assert changed == ["output.linear.weight"]
    assert scnn.num_classes == 5
    assert scnn(torch.randn(2, 1, 2, 8, 8))[0].shape == (1, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_size": (4, 8)}, r"pools=\(2, 2, 2\) leave no pixel of in_size=\(4, 8\); expected at least 8"),
        ({"in_size": 32}, r"in_size=32: expected \(height, width\)"),
        ({"in_size": (8, 8, 8)}, r"in_size=\(8, 8, 8\)"),
        ({"pools": ()}, r"pools=\(\)"),
        ({"pools": (2, 0)}, r"pools=\(2, 0\)"),
        ({"pools": 2}, "pools=2"),
        ({"channels": 0}, "channels=0"),
        ({"votes": -1}, "votes=-1"),
        ({"num_classes": 1.0}, "num_classes=1.0"),
        ({"in_pool": 8}, "in_pool=8"),
        ({"dropout": 1.0}, "dropout=1.0: expected a share from 0 to below 1"),
        ({"dropout": "half"}, "dropout='half'"),
        ({"tau": 0.5}, "tau=0.5"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(InputError, match=message):
        SCNN(**{"in_channels": 2, "num_classes": 3, "in_size": (32, 32), **options})


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_weights_in_channels_last_are_the_same_weights(mode):
    """Outputs and gradients do not depend on how `model.to(memory_format=...)` lays weights out."""
    torch.manual_seed(0)
    plain = SCNN(10, 11, (16, 16), channels=32)
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    features = 4 * torch.randn(6, 3, 10, 16, 16).abs()
    rates = []
    for network in (plain, last):
        getattr(network, mode)()
        out, _ = network(features)
        (out * torch.arange(11.0)).sum().backward()
        rates.append(out.detach())
    assert plain.convs[1].conv.weight.grad.abs().sum() > 0
    torch.testing.assert_close(*rates)
    for one, other in zip(plain.parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kernel", ["torch", "native"])
def test_gradients_of_each_sample_by_torch_func(kernel):
    """Spikes tie in most windows of a pooling: the gradient goes to one of them, whoever asks for it."""
    if kernel not in kernels.available():
        pytest.skip(kernels.status()[kernel])
    torch.manual_seed(0)
    scnn = SCNN(2, 3, (8, 8), (2, 2), 8, v_threshold=0.1).eval()
    features = torch.rand(4, 3, 2, 8, 8)
    weights = {name: p.detach() for name, p in scnn.named_parameters()}

    def scores(weights, features):
        return torch.func.functional_call(scnn, weights, (features,))[0]

    def loss(weights, sample):
        return scores(weights, sample[:, None]).square().sum()

    def losses(weights):
        return torch.func.vmap(loss, in_dims=(None, 1))(weights, features).sum()

    with kernels.use(kernel):
        expected = torch.autograd.grad(
            scores(dict(scnn.named_parameters()), features).square().sum(), scnn.parameters()
        )
        of_each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))(weights, features)
        of_all = torch.func.grad(losses)(weights)
    assert all(gradient.any() for gradient in expected)
    for gradient, samples, whole in zip(expected, of_each.values(), of_all.values(), strict=True):
        torch.testing.assert_close(samples.sum(0), gradient, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(whole, gradient, rtol=1e-4, atol=1e-6)
