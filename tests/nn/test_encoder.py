"""Encoders put together from their layers, of any size."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rsnn.errors import InputError
from rsnn.nn import ConvLSTM, ConvLSTMAttention, ConvLSTMEncoder, FramePool


def test_cl_is_convlstm_pool_convlstm_pool():
    encoder = ConvLSTMEncoder()
    first, second = encoder.layers
    assert (type(first), type(second)) == (ConvLSTM, ConvLSTM)
    frames = torch.randn(3, 2, 2, 16, 20)
    x = torch.stack([F.max_pool2d(h, 2) for h in first(frames)[0]])
    x = torch.stack([F.max_pool2d(h, 2) for h in second(x)[0]])
    features, _ = encoder(frames)
    assert torch.equal(features, x)
    assert features.shape == (3, 2, 6, 4, 5)
    assert (encoder.out_channels, encoder.output_size((16, 20))) == (6, (4, 5))


def test_cla_is_average_pool_attention_convlstm():
    encoder = ConvLSTMEncoder(hidden_channels=(10,), attention=True, input_pool=4, pool=1)
    (layer,) = encoder.layers
    assert type(layer) is ConvLSTMAttention
    frames = torch.randn(3, 2, 2, 16, 20)
    features, _ = encoder(frames)
    assert torch.equal(features, layer(torch.stack([F.avg_pool2d(x, 4) for x in frames]))[0])
    assert features.shape == (3, 2, 10, 4, 5)


def test_the_papers_sizes():
    with torch.device("meta"):
        frames = torch.zeros(20, 1, 2, 128, 128)
        for options, shape in (
            ({}, (20, 1, 6, 32, 32)),
            ({"hidden_channels": (10,), "attention": True, "input_pool": 4, "pool": 1}, (20, 1, 10, 32, 32)),
            ({"pool": 1}, (20, 1, 6, 128, 128)),
        ):
            encoder = ConvLSTMEncoder(**options)
            assert encoder(frames)[0].shape == shape
            assert encoder.output_size((128, 128)) == shape[3:]


@pytest.mark.parametrize("size", [(34, 34), (13, 9), (4, 7)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kernel_size": 4},
        {"pool": 1, "kernel_size": 5, "tie_hidden_gates": True},
        {"in_channels": 3, "hidden_channels": (5,), "pool": 3},
        {"in_channels": 1, "hidden_channels": (2, 3, 4), "pool": 1, "input_pool": 2},
        {"in_channels": 4, "attention": True, "num_heads": 2, "key_channels": 8, "join": "concat"},
    ],
    ids=str,
)
def test_any_channels_kernels_and_sensor_sizes(options, size):
    encoder = ConvLSTMEncoder(**options)
    features, state = encoder(torch.randn(2, 1, encoder.in_channels, *size))
    assert features.shape == (2, 1, encoder.out_channels, *encoder.output_size(size))
    assert len(state) == len(encoder.layers)


def test_what_does_not_fill_a_window_is_left_out():
    encoder = ConvLSTMEncoder(hidden_channels=(3,), pool=4)
    frames = torch.randn(2, 1, 2, 11, 9)
    features, state = encoder(frames)
    assert features.shape[3:] == (2, 2)
    assert torch.equal(features[-1], F.max_pool2d(state[0].hidden[..., :8, :8], 4))


def test_options_reach_every_layer():
    attention = {"attention": True, "num_heads": 2, "key_channels": 4, "value_channels": 8, "join": "replace"}
    encoder = ConvLSTMEncoder(2, (4, 6), 5, tie_hidden_gates=True, **attention)
    for layer in encoder.layers:
        assert layer.attention.num_heads == 2
        assert layer.attention.key.out_features == 4
        assert layer.attention.value.out_features == 8
        assert layer.convlstm.kernel_size == 5
        assert layer.convlstm.tie_hidden_gates
        assert layer.convlstm.in_channels == 8


def test_frame_pool():
    frames = torch.randn(3, 2, 2, 9, 8)
    pooled, state = FramePool(2, 4)(frames)
    assert torch.equal(pooled, torch.stack([nn.AvgPool2d(4)(x) for x in frames]))
    assert state == ()
    assert FramePool(2, 4).output_size((9, 8)) == (2, 2)
    assert FramePool()(frames)[0] is frames


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_channels": ()}, "hidden_channels=().*at least one layer"),
        ({"hidden_channels": 4}, "hidden_channels=4: expected the hidden channels of each layer"),
        ({"hidden_channels": (4, 0)}, r"hidden_channels=\(4, 0\)"),
        ({"pool": 0}, "pool=0"),
        ({"input_pool": 1.5}, "input_pool=1.5"),
        ({"in_channels": "2"}, "in_channels='2'"),
        ({"kernel_size": 0}, "kernel_size=0"),
        ({"attention": True, "join": "sum"}, "join='sum'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(InputError, match=message):
        ConvLSTMEncoder(**options)


@pytest.mark.parametrize(("encoder", "size"), [(ConvLSTMEncoder(), (8, 3)), (FramePool(2, 4), (3, 8))])
def test_frames_that_pooling_leaves_nothing_of(encoder, size):
    with pytest.raises(InputError, match=rf"got frames of \({size[0]}, {size[1]}\): pooling leaves no pixel"):
        encoder(torch.zeros(1, 1, 2, *size))
