"""Attention over pixels against a loop of the equation, and the layer that attends first."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain_loops import attention as loop

from rsnn.errors import InputError
from rsnn.nn import ConvLSTM, ConvLSTMAttention
from rsnn.nn.attention import PixelAttention


def weights(attention):
    return [layer.weight.detach().numpy() for layer in (attention.query, attention.key, attention.value)]


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (2, {}),
        (4, {"num_heads": 2}),
        (3, {"key_channels": 5, "value_channels": 3}),
        (4, {"num_heads": 2, "key_channels": 6, "value_channels": 8}),
    ],
    ids=str,
)
@pytest.mark.parametrize("join", ["add", "concat", "replace"])
def test_same_as_a_loop_of_the_equation(channels, options, join):
    torch.manual_seed(0)
    attention = PixelAttention(channels, **options, join=join).double()
    frames = torch.randn(2, 3, channels, 3, 4, dtype=torch.float64)
    result = attention(frames)
    assert result.shape == (2, 3, attention.out_channels, 3, 4)
    for t in range(2):
        for n in range(3):
            frame = frames[t, n].numpy()
            expected = loop(frame, *weights(attention), heads=options.get("num_heads", 1))
            if join == "concat":
                expected = np.concatenate((frame, expected))
            elif join == "add":
                if len(expected) != channels:
                    expected = np.einsum("cd,dhw->chw", attention.project.weight.detach().numpy(), expected)
                expected = frame + expected
            np.testing.assert_allclose(result[t, n].detach().numpy(), expected, rtol=0, atol=1e-12)


def test_weights_are_only_what_the_equation_has():
    assert {name for name, _ in PixelAttention(2).named_parameters()} == {"query.weight", "key.weight", "value.weight"}
    assert sum(p.numel() for p in PixelAttention(2).parameters()) == 3 * 2 * 2
    sizes = {name: tuple(p.shape) for name, p in PixelAttention(4, 2, 6, 8).named_parameters()}
    assert sizes == {
        "query.weight": (6, 4),
        "key.weight": (6, 4),
        "value.weight": (8, 4),
        "project.weight": (4, 8),
    }


def test_frames_do_not_see_each_other():
    attention = PixelAttention(2)
    frames = torch.randn(3, 2, 2, 4, 4)
    expected = attention(frames)
    changed = frames.clone()
    changed[1, 0] += 1
    result = attention(changed)
    same = torch.ones(3, 2, dtype=torch.bool)
    same[1, 0] = False
    torch.testing.assert_close(result[same], expected[same])
    assert not torch.allclose(result[1, 0], expected[1, 0])


@pytest.mark.parametrize(("join", "channels"), [("add", 2), ("concat", 5), ("replace", 3)])
def test_layer_is_attention_and_then_a_convlstm(join, channels):
    torch.manual_seed(0)
    layer = ConvLSTMAttention(2, 4, 5, value_channels=3, join=join, tie_hidden_gates=True)
    plain = ConvLSTM(channels, 4, 5, tie_hidden_gates=True)
    plain.load_state_dict(layer.convlstm.state_dict())
    frames = torch.randn(3, 2, 2, 5, 4)
    features, state = layer(frames)
    expected, expected_state = plain(layer.attention(frames))
    assert torch.equal(features, expected)
    assert torch.equal(state.cell, expected_state.cell)
    assert layer.out_channels == 4
    with_given, _ = layer(frames, state)
    assert torch.equal(with_given, plain(layer.attention(frames), state)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 2}, r"key_channels=3 and value_channels=3 cannot be shared among num_heads=2"),
        ({"num_heads": 0}, "num_heads=0"),
        ({"key_channels": 0}, "key_channels=0"),
        ({"value_channels": 1.5}, "value_channels=1.5"),
        ({"join": "sum"}, "join='sum': expected one of"),
    ],
)
def test_bad_arguments(options, message):
    for build in (lambda **o: PixelAttention(3, **o), lambda **o: ConvLSTMAttention(3, 4, **o)):
        with pytest.raises(InputError, match=message):
            build(**options)
