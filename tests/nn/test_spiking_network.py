"""Networks from a list of layers: each published family against a loop of its own equations, layer by layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain_loops import iterative_lif as stbp_loop
from plain_loops import neuron_norm, spike_response
from torch import nn
from torch.nn import functional as F

from rsnn.errors import InputError
from rsnn.kernels import Rectangle
from rsnn.nn import LIF, SRM, SpikingNetwork
from rsnn.nn.spiking_network import iterative_lif


def lively(network, gain):
    """Draw weights with which every layer fires, but not all of the time."""
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(std=gain / weight[0].numel() ** 0.5) if weight.ndim > 1 else weight.normal_(std=0.1)
    return network.double()


def over_time(layer, x):
    """Apply an ordinary layer to every step of NumPy frames (T, C, H, W) or vectors (T, C)."""
    return layer(torch.from_numpy(x)).detach().numpy()


def fires(spikes):
    assert 0.02 < spikes.mean() < 0.9
    return spikes


# STBP's neuron


@pytest.mark.parametrize(("decay", "threshold"), [(0.3, 0.3), (0.8, 1.0), (0.05, 2.0)])
def test_iterative_lif_fires_as_published(decay, threshold):
    x = np.random.default_rng(0).normal(size=(30, 8)) * threshold * 1.5
    potentials, expected = stbp_loop(x, decay, threshold)
    spikes, _ = iterative_lif(decay, threshold)(torch.from_numpy(x))
    assert fires(expected).tolist() == spikes.numpy().tolist()
    assert np.abs(potentials - threshold).min() > 1e-6


class PublishedSpike(torch.autograd.Function):
    """The sources' firing function: 1 / a in a window of width a around the threshold."""

    @staticmethod
    def forward(ctx, u, threshold, width):
        ctx.save_for_backward(u)
        ctx.threshold, ctx.width = threshold, width
        return (u > threshold).to(u.dtype)

    @staticmethod
    def backward(ctx, gradient):
        (u,) = ctx.saved_tensors
        return gradient * ((u - ctx.threshold).abs() < ctx.width / 2) / ctx.width, None, None


@pytest.mark.parametrize("width", [0.5, 1.5])
def test_iterative_lif_learns_as_published(width):
    x = torch.randn(12, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    error = torch.randn(12, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    spikes, _ = iterative_lif(0.6, 0.4, width)(x)
    (ours,) = torch.autograd.grad(spikes, x, error)

    u = s = torch.zeros(40, dtype=torch.float64)
    expected = []
    for x_t in x:
        u = 0.6 * u * (1 - s) + x_t
        s = PublishedSpike.apply(u, 0.4, width)
        expected.append(s)
    expected = torch.stack(expected)
    assert torch.equal(spikes, expected)
    (theirs,) = torch.autograd.grad(expected, x, error)
    torch.testing.assert_close(ours, theirs)
    assert ours.ne(0).any()


@pytest.mark.parametrize("decay", [0, 1, 1.2, "0.3", True])
def test_iterative_lif_with_a_bad_decay(decay):
    with pytest.raises(InputError, match=r"decay=.*: expected a number between 0 and 1"):
        iterative_lif(decay, 0.3)


# Whole networks, in evaluation


def test_the_cnn_based_network_is_its_layers():
    layers = ("MP2", "4C3", "6C3", "AP2", "5C3", "AP2", "7FC")
    network = lively(SpikingNetwork(2, 6, (16, 20), layers, iterative_lif(0.3, 0.3), dropout=0.5), 1.3).eval()
    frames = torch.poisson(torch.full((6, 2, 2, 16, 20), 0.3, dtype=torch.float64))
    rates, _ = network(frames)
    c1, c2, c3, h1, h2 = (m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    for n in range(2):
        x = F.max_pool2d(frames[:, n], 2).numpy()
        x = fires(stbp_loop(over_time(c1, x), 0.3, 0.3)[1])
        x = fires(stbp_loop(over_time(c2, x), 0.3, 0.3)[1])
        x = fires(stbp_loop(over_time(nn.AvgPool2d(2), x), 0.3, 0.3)[1])
        x = fires(stbp_loop(over_time(c3, x), 0.3, 0.3)[1])
        x = fires(stbp_loop(over_time(nn.AvgPool2d(2), x), 0.3, 0.3)[1])
        x = fires(stbp_loop(over_time(h1, x.reshape(6, -1)), 0.3, 0.3)[1])
        x = stbp_loop(over_time(h2, x), 0.3, 0.3)[1]
        np.testing.assert_allclose(rates[n].detach().numpy(), x.mean(0))
    assert 0 < rates.mean() < 1
    assert len(rates.unique()) > 2


def test_neunorm_follows_every_convolution_and_votes_are_averaged():
    layers = ("MP3", "4C3", "5C3", "AP2", "6FC")
    network = SpikingNetwork(2, 3, (14, 13), layers, iterative_lif(0.3, 0.3), votes=4, neunorm=0.8)
    network = lively(network, 1.0).eval()
    frames = torch.poisson(torch.full((6, 2, 2, 14, 13), 0.3, dtype=torch.float64))
    rates, _ = network(frames)
    c1, c2, h1, h2 = (m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    u1, u2 = (w.detach().numpy() for name, w in network.named_parameters() if "norm" in name)
    assert (u1.shape, u2.shape) == ((4, 4, 4), (5, 4, 4))
    for n in range(2):
        x = F.max_pool2d(frames[:, n], 3).numpy()
        x, _ = neuron_norm(fires(stbp_loop(over_time(c1, x), 0.3, 0.3)[1]), u1, 0.8)
        x, _ = neuron_norm(fires(stbp_loop(over_time(c2, x), 0.3, 0.3)[1]), u2, 0.8)
        x = fires(stbp_loop(over_time(nn.AvgPool2d(2), x), 0.3, 0.3)[1])
        x = fires(stbp_loop(over_time(h1, x.reshape(6, -1)), 0.3, 0.3)[1])
        x = stbp_loop(over_time(h2, x), 0.3, 0.3)[1]
        np.testing.assert_allclose(rates[n].detach().numpy(), x.mean(0).reshape(3, 4).mean(1))
    assert len(rates.unique()) > 2


def test_slayers_network_is_its_layers():
    """Aggregation is a convolution with equal weights of 1.1 thresholds, each followed by neurons of its own."""
    theta = 1.5
    neuron = SRM(2.0, 1.0, theta, 2.0)
    network = lively(SpikingNetwork(2, 3, (17, 16), ("SP4", "4C5", "SP2", "6FC"), neuron, bias=False), 2.5).eval()
    frames = torch.poisson(torch.full((8, 2, 2, 17, 16), 0.05, dtype=torch.float64))
    rates, _ = network(frames)
    c1, h1, h2 = (m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    assert all(m.bias is None for m in (c1, h1, h2))

    def neurons(x):
        flat = x.reshape(len(x), -1)
        return fires(spike_response(flat, 2.0, 1.0, theta, 2.0)[1]).reshape(x.shape)

    def aggregate(x, side):
        steps, channels, height, width = x.shape
        sums = np.zeros((steps, channels, height // side, width // side))
        for i, j in np.ndindex(sums.shape[2:]):
            sums[:, :, i, j] = 1.1 * theta * x[:, :, i * side : (i + 1) * side, j * side : (j + 1) * side].sum((2, 3))
        return sums

    for n in range(2):
        x = neurons(aggregate(frames[:, n].numpy(), 4))
        x = neurons(over_time(c1, x))
        x = neurons(aggregate(x, 2))
        x = neurons(over_time(h1, x.reshape(8, -1)))
        x = spike_response(over_time(h2, x), 2.0, 1.0, theta, 2.0)[1]
        np.testing.assert_allclose(rates[n].detach().numpy(), x.mean(0))
    assert len(rates.unique()) > 2


def test_convolutions_keep_the_size():
    network = SpikingNetwork(2, 3, (9, 7), ("4C1", "4C3", "4C5", "4C7"), LIF())
    shapes = []
    for stage in network.stages:
        stage.register_forward_hook(lambda _, inputs, output: shapes.append(output[0].shape[2:]))
    network(torch.zeros(1, 1, 2, 9, 7))
    assert shapes == [(4, 9, 7)] * 4


# Training


def test_dropout_is_between_the_layers_and_the_same_at_every_step():
    layers = ("MP2", "4C3", "AP2", "8FC")
    network = SpikingNetwork(2, 3, (16, 16), layers, LIF(v_threshold=0.1), dropout=0.5)
    seen = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
    frames = torch.ones(5, 3, 2, 16, 16)
    network.train()(frames)
    first, hidden, output = seen.values()
    assert torch.equal(first, torch.ones(15, 2, 8, 8))  # nothing of the frames is left out
    assert set(torch.cat((hidden.unique(), output.unique())).tolist()) <= {0.0, 2.0}
    dropped = (hidden.unflatten(0, (5, 3)) == 0).all(0)
    assert dropped.any()
    network.eval()
    assert torch.equal(network(frames)[0], network(frames)[0])


def test_gains_scale_the_initial_weights():
    made = []
    for options in ({}, {"conv_gain": 10.0, "linear_gain": 3.0}):
        torch.manual_seed(0)
        made.append(dict(SpikingNetwork(2, 3, (8, 8), ("4C3", "5FC"), SRM(), **options).named_parameters()))
    for name, weight in made[1].items():
        plain = made[0][name]
        torch.testing.assert_close(weight, plain * (10.0 if "stages.0" in name else 3.0))


def test_each_layer_has_its_own_neurons():
    network = SpikingNetwork(2, 3, (8, 8), ("4C3", "AP2", "5FC"), LIF(learn_tau=True))
    assert sum(name.endswith("neuron.w") for name, _ in network.named_parameters()) == 4
    assert network.neuron is network.output.neuron


def test_reset_classifier_leaves_the_rest():
    network = SpikingNetwork(2, 3, (8, 8), ("4C3", "5FC"), LIF(), votes=2, linear_gain=2.0, bias=False)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    network.reset_classifier(7)
    changed = [name for name, weight in network.state_dict().items() if not torch.equal(weight, before[name])]
    assert changed == ["output.synapses.weight"]
    assert network.output.synapses.weight.shape == (14, 5)
    assert network.output.synapses.weight.abs().max() > 1 / 5**0.5  # drawn, then scaled as the first one was
    assert network(torch.zeros(2, 1, 2, 8, 8))[0].shape == (1, 7)
    assert network.num_classes == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ("64C4",)}, r"layers has '64C4'; expected layers as in \"64C3\" \(an odd kernel\)"),
        ({"layers": ("C3",)}, "layers has 'C3'"),
        ({"layers": ("XP2",)}, "layers has 'XP2'"),
        ({"layers": ("64",)}, "layers has '64'"),
        ({"layers": (512,)}, "layers has 512"),
        ({"layers": "64C3"}, "layers='64C3': expected a tuple of layers"),
        ({"layers": ("8FC", "4C3")}, "layers has '4C3' after '8FC'; expected fully connected layers last"),
        ({"layers": ("8FC", "AP2")}, "layers has 'AP2' after '8FC'"),
        ({"layers": ("MP4", "AP4")}, r"leave no pixel of in_size=\(8, 8\).*less pooling than 'AP4'"),
        ({"neuron": "lif"}, "neuron is a str; expected a rsnn.nn.LIF or a rsnn.nn.SRM"),
        ({"dropout": 1}, "dropout=1: expected a share from 0 to below 1"),
        ({"conv_gain": 0}, "conv_gain=0: expected a number above 0"),
        ({"linear_gain": True}, "linear_gain=True"),
        ({"neunorm": 1.0}, "decay=1.0"),
        ({"votes": 0}, "votes=0"),
        ({"num_classes": None}, "num_classes=None"),
        ({"in_size": (8,)}, r"in_size=\(8,\)"),
    ],
)
def test_bad_arguments(options, message):
    given = {"in_channels": 2, "num_classes": 3, "in_size": (8, 8), "layers": ("4C3",), "neuron": LIF(), **options}
    with pytest.raises(InputError, match=message):
        SpikingNetwork(**given)


def test_the_rectangle_is_the_windows_in_the_neurons_own_units():
    lif = iterative_lif(0.75, 2.0, 0.5)
    assert (lif.tau, lif.v_threshold, lif.v_reset) == (4.0, 0.5, 0.0)
    assert lif.surrogate == Rectangle(8.0)
    assert not lif.detach_reset
