"""A network's step in one call, its layers against the modules; tests/streaming/test_step.py has whole models."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from rsnn import nn
from rsnn.kernels import ATan, lif_native, native
from rsnn.kernels.step_native import (
    AttentionLayer,
    AveragePoolLayer,
    ConvLSTMLayer,
    Network,
    Runner,
    SpikingLayer,
    States,
)
from rsnn.nn.attention import PixelAttention
from rsnn.nn.pooling import average_pool
from rsnn.nn.stages import SpikingConv

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))

NEURON = lif_native.neuron_numbers(2.0, 0.5, 0.0, ATan(), True)


def convlstm(C, D, size, pool=1, kernel_size=3, bias=True):
    layer = nn.ConvLSTM(C, D, kernel_size, bias=bias)
    gates = layer.input_gates
    return layer, ConvLSTMLayer(size, pool, gates.weight, layer.hidden_gates.weight, gates.bias)


def spiking(C, D, size, pool=1):
    stage = SpikingConv(C, D, pool, nn.LIF(2.0, 0.5)).eval()
    with torch.no_grad():
        stage.conv.weight.mul_(4.0)
    scale, shift = lif_native.scale_shift(*stage._moments(), stage.norm.eps)
    return stage, SpikingLayer(size, pool, NEURON, stage.conv.weight, scale, shift)


def attention(C, size, **options):
    layer = PixelAttention(C, **options)
    weights = [part.weight for part in (layer.query, layer.key, layer.value)]
    project = layer.project.weight if isinstance(layer.project, torch.nn.Linear) else None
    return layer, AttentionLayer(size, layer.num_heads, *weights, project, layer.join)


def runner(*layers, threads=1):
    return Runner(Network(layers), threads)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("size", "pool", "kernel_size"), [((6, 16), 2, 3), ((7, 9), 1, 3), ((8, 33), 3, 4)])
@torch.no_grad()
def test_a_convlstm(size, pool, kernel_size, bias):
    torch.manual_seed(0)
    layer, described = convlstm(2, 3, size, pool, kernel_size, bias)
    run, state = runner(described), None
    states = States(tensors := [torch.full((3, *size), torch.nan) for _ in range(2)])  # nothing counts
    for steps in range(1, 4):
        frame = torch.randn(1, 1, 2, *size)
        features, state = layer(frame, state, pool=pool)
        out = torch.empty_like(features)
        assert run.step(frame.data_ptr(), None, states, steps, out)
        for mine, expected in zip((out, *tensors), (features, *(x[0] for x in state)), strict=True):
            assert torch.equal(mine, expected)


@pytest.mark.parametrize("threads", [1, 2])
@torch.no_grad()
def test_spiking_stages_give_their_spikes(threads):
    torch.manual_seed(0)
    size = (9, 6)
    stages, layers = zip(spiking(3, 5, size, 2), spiking(5, 20, (4, 3)), strict=True)
    run, states = runner(*layers, threads=threads), [None, None]
    tensors = [torch.full((1, 9, 6, 5), torch.nan), torch.full((1, 4, 3, 20), torch.nan)]
    for steps in range(1, 4):
        x = frame = 2 * torch.randn(1, 1, 3, *size)
        for i, stage in enumerate(stages):
            x, states[i] = stage(x, states[i])
        out = torch.empty(x.shape)
        assert run.step(frame.data_ptr(), None, States(tensors), steps, out)
        assert 0 < out.sum() < out.numel()
        assert torch.equal(out, x)
        for mine, expected in zip(tensors, states, strict=True):
            assert torch.equal(mine.permute(0, 3, 1, 2), expected)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("silent", [0.0, 0.8, 1.0])
@pytest.mark.parametrize(
    ("C", "options"),
    [
        (2, {}),
        (1, {}),
        (2, {"join": "concat"}),
        (3, {"join": "replace", "value_channels": 5}),
        (4, {"num_heads": 2}),
        (3, {"num_heads": 2, "key_channels": 6, "value_channels": 4}),
        (3, {"num_heads": 3, "key_channels": 3, "value_channels": 6, "join": "concat"}),
    ],
    ids=str,
)
@torch.no_grad()
def test_an_attention(C, options, silent, threads):
    torch.manual_seed(0)
    layer, described = attention(C, (9, 13), **options)
    for weight in layer.parameters():
        weight.mul_(3.0)
    run, states = runner(described, threads=threads), States([])
    for _ in range(2):
        frame = 2 * torch.randn(1, 1, C, 9, 13) * (torch.rand(9, 13) >= silent)
        expected = layer(frame)
        out = torch.full(expected.shape, torch.nan)
        assert described.output((C, 9, 13)) == out.shape[2:]
        assert run.step(frame.data_ptr(), None, states, 1, out)
        torch.testing.assert_close(out, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(("size", "pool"), [((8, 6), 2), ((9, 7), 2), ((14, 21), 3), ((19, 18), 4), ((5, 11), 5)])
def test_an_average_pooling(size, pool):
    frame = torch.randn(1, 1, 3, *size)
    expected = average_pool(frame, pool)
    out = torch.empty_like(expected)
    assert runner(AveragePoolLayer(size, 3, pool)).step(frame.data_ptr(), None, States([]), 1, out)
    assert torch.equal(out, expected)


@torch.no_grad()
def test_counts_are_looked_up():
    layer, described = convlstm(2, 3, (4, 18))
    run, seen = runner(described), torch.tensor([-1.0, 0.5, 7.0])
    counts = torch.randint(0, 3, (2, 4, 18)).float()
    out, states = torch.empty(3, 4, 18), States([torch.zeros(3, 4, 18) for _ in range(2)])
    assert run.step(counts.data_ptr(), seen, states, 1, out)
    assert torch.equal(out, layer(seen[counts.long()][None, None])[0][0, 0])
    assert run.step(None, seen, states, 1, out)  # silence
    assert torch.equal(out, layer(torch.full((1, 1, 2, 4, 18), -1.0))[0][0, 0])


@pytest.mark.parametrize("other", [3.0, 0.5, -1.0, float("nan"), float("inf")])
def test_what_is_no_known_count_is_not_run(other):
    _, described = convlstm(2, 3, (4, 5))
    counts = torch.zeros(2, 4, 5)
    counts[1, 3, 4] = other
    out, tensors = torch.full((3, 4, 5), 9.0), [torch.full((3, 4, 5), 9.0) for _ in range(2)]
    assert not runner(described).step(counts.data_ptr(), torch.arange(3.0), States(tensors), 2, out)
    assert all((x == 9).all() for x in (out, *tensors))


def test_what_fits_what():
    _, first = convlstm(2, 3, (8, 8), 2)
    _, stage = spiking(3, 5, (4, 4), 2)
    assert first.output((2, 8, 8)) == first.output(None) == (3, 4, 4)
    assert stage.output((3, 4, 4)) == (5, 2, 2)
    full = SpikingLayer((1, 1), 1, NEURON, torch.empty(7, 20, 1, 1), torch.empty(7), torch.empty(7))
    assert full.output((5, 2, 2)) == (7, 1, 1)
    assert full.output((5, 2, 3)) is None
    assert first.output((3, 8, 8)) is None
    assert stage.output((3, 4, 5)) is None
    assert stage._replace(pool=5).output((3, 4, 4)) is None
    assert stage._replace(shift=torch.empty(4)).output((3, 4, 4)) is None
    assert stage._replace(weight=torch.empty(5, 3, 2, 2)).output((3, 4, 4)) is None
    assert first._replace(w_hidden=torch.empty(12, 4, 3, 3)).output((2, 8, 8)) is None
    assert first._replace(bias=torch.empty(3)).output((2, 8, 8)) is None
    pooling = AveragePoolLayer((8, 9), 2, 4)
    assert pooling.output((2, 8, 9)) == pooling.output(None) == (2, 2, 2)
    assert pooling.output((3, 8, 9)) is None
    assert pooling._replace(pool=9).output((2, 8, 9)) is None


def test_which_attention_fits_what():
    _, plain = attention(4, (8, 8), num_heads=2)
    assert plain.output((4, 8, 8)) == plain.output(None) == (4, 8, 8)
    assert plain._replace(join="concat").output((4, 8, 8)) == (8, 8, 8)
    assert plain.output((3, 8, 8)) is None
    for wrong in (
        {"heads": 3},
        {"key": torch.empty(6, 4)},
        {"value": torch.empty(4, 3)},
        {"value": torch.empty(6, 4)},  # a sum of 4 and 6
        {"project": torch.empty(4, 6)},
        {"project": torch.empty(4, 4), "join": "replace"},
    ):
        assert plain._replace(**wrong).output((4, 8, 8)) is None


def test_weights_live_as_long_as_their_runners():
    _, described = convlstm(2, 3, (4, 5))
    network = Network([described])
    run, seen = Runner(network, 1), weakref.ref(network)
    del network
    gc.collect()
    assert seen() is run.network
    del run
    gc.collect()
    assert seen() is None
