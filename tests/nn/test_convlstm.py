"""ConvLSTM against Keras, against a NumPy loop of the equations, and a one-pixel image against torch.nn.LSTM."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain_loops import convlstm as loop

from rsnn.errors import InputError
from rsnn.nn import ConvLSTM, ConvLSTMState

GATES = "ifoc"


def random_layer(*args, **options):
    torch.manual_seed(0)
    layer = ConvLSTM(*args, **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.5)
    return layer


def by_gate(layer):
    """Return the layer's weights and biases as dicts by gate."""
    D = layer.hidden_channels
    hidden = layer.hidden_gates.weight.detach().numpy()
    if layer.tie_hidden_gates:  # as printed: W_hi in all three gates
        hidden = np.concatenate([hidden[:D]] * 3 + [hidden[D:]])
    bias = layer.input_gates.bias
    bias = np.zeros(4 * D) if bias is None else bias.detach().numpy()
    whole = (layer.input_gates.weight.detach().numpy(), hidden, bias)
    return [{g: part[n * D : (n + 1) * D] for n, g in enumerate(GATES)} for part in whole]


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((4, 5), {}),
        ((3, 3), {"bias": False}),
        ((4, 3), {"tie_hidden_gates": True}),
        ((3, 4), {"kernel_size": 1}),
        ((5, 4), {"kernel_size": 2}),
        ((5, 5), {"kernel_size": 4, "tie_hidden_gates": True}),
        ((5, 3), {"kernel_size": 5}),  # wider than the image
    ],
    ids=str,
)
def test_same_as_a_loop_of_the_equations(size, options):
    layer = random_layer(2, 3, **options)
    frames = torch.randn(3, 2, 2, *size, dtype=torch.float64)
    start = ConvLSTMState(*torch.randn(2, 2, 3, *size, dtype=torch.float64))
    for state in (None, start):
        features, after = layer(frames, state)
        for n in range(2):
            before = () if state is None else (state.hidden[n].numpy(), state.cell[n].numpy())
            expected, hidden, cell = loop(frames[:, n].numpy(), *by_gate(layer), *before)
            np.testing.assert_allclose(features[:, n].detach().numpy(), expected, rtol=0, atol=1e-12)
            np.testing.assert_allclose(after.hidden[n].detach().numpy(), hidden, rtol=0, atol=1e-12)
            np.testing.assert_allclose(after.cell[n].detach().numpy(), cell, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras, NumPy 2
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4])
def test_same_as_keras(kernel_size, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    layer = random_layer(2, 5, kernel_size).float()
    frames = torch.randn(4, 3, 2, 7, 6)

    theirs = keras.layers.ConvLSTM2D(
        5, kernel_size, padding="same", recurrent_activation="sigmoid", return_sequences=True, return_state=True
    )
    theirs.build((None, None, 7, 6, 2))
    W_x, W_h, b = by_gate(layer)
    order = "ifco"  # theirs
    theirs.set_weights(
        [
            np.concatenate([W_x[g] for g in order]).transpose(2, 3, 1, 0),
            np.concatenate([W_h[g] for g in order]).transpose(2, 3, 1, 0),
            np.concatenate([b[g] for g in order]),
        ]
    )
    outputs, hidden, cell = (
        keras.ops.convert_to_numpy(x) for x in theirs(frames.permute(1, 0, 3, 4, 2).contiguous().numpy())
    )
    features, state = layer(frames)
    np.testing.assert_allclose(features.detach().numpy(), outputs.transpose(1, 0, 4, 2, 3), rtol=0, atol=2e-6)
    np.testing.assert_allclose(state.hidden.detach().numpy(), hidden.transpose(0, 3, 1, 2), rtol=0, atol=2e-6)
    np.testing.assert_allclose(state.cell.detach().numpy(), cell.transpose(0, 3, 1, 2), rtol=0, atol=2e-6)


def test_one_pixel_is_an_lstm():
    layer = random_layer(3, 4)  # of the 3 x 3 kernels only the middle meets the pixel
    lstm = torch.nn.LSTM(3, 4).double()
    ours_to_theirs = [0, 1, 3, 2]  # i, f, o, c -> i, f, c, o
    with torch.no_grad():
        for name, conv in (("weight_ih_l0", layer.input_gates), ("weight_hh_l0", layer.hidden_gates)):
            middle = conv.weight[:, :, 1, 1].unflatten(0, (4, 4))
            getattr(lstm, name).copy_(middle[ours_to_theirs].flatten(0, 1))
        lstm.bias_ih_l0.copy_(layer.input_gates.bias.unflatten(0, (4, 4))[ours_to_theirs].flatten())
        lstm.bias_hh_l0.zero_()
    frames = torch.randn(6, 2, 3, dtype=torch.float64)
    features, state = layer(frames[..., None, None])
    expected, (hidden, cell) = lstm(frames)
    torch.testing.assert_close(features[..., 0, 0], expected)
    torch.testing.assert_close(state.hidden[..., 0, 0], hidden[0])
    torch.testing.assert_close(state.cell[..., 0, 0], cell[0])


def test_gradcheck():
    layer = random_layer(1, 2)
    frames = torch.randn(3, 1, 1, 2, 3, dtype=torch.float64, requires_grad=True)
    state = tuple(torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    names = [name for name, _ in layer.named_parameters()]

    def run(frames, hidden, cell, *parameters):
        weights = dict(zip(names, parameters, strict=True))
        features, after = torch.func.functional_call(layer, weights, (frames, (hidden, cell)))
        return features, after.cell

    assert torch.autograd.gradcheck(run, (frames, *state, *layer.parameters()))


@pytest.mark.parametrize(("tied", "expected"), [(False, 4), (True, 2)])
def test_parameters(tied, expected):
    layer = ConvLSTM(2, 4, tie_hidden_gates=tied)
    assert sum(p.numel() for p in layer.parameters()) == 4 * 4 * 2 * 9 + expected * 4 * 4 * 9 + 4 * 4
    assert sum(p.numel() for p in ConvLSTM(2, 4, bias=False, tie_hidden_gates=tied).parameters()) == (
        4 * 4 * 2 * 9 + expected * 4 * 4 * 9
    )
    assert layer.out_channels == 4


def test_forget_gate_starts_open():
    layer = ConvLSTM(2, 4)
    assert layer.input_gates.bias[4:8].tolist() == [1.0] * 4
    with torch.no_grad():
        layer.input_gates.bias.zero_()
    layer.reset_parameters()
    assert layer.input_gates.bias[4:8].tolist() == [1.0] * 4
    assert layer.input_gates.bias[:4].ne(1).all()


def test_cell_of_every_layer_adds_up_in_float32_under_autocast():
    """The second layer's frames are the first one's bfloat16 output; its cell must not be."""
    layer = ConvLSTM(2, 3)
    frames = torch.randn(4, 1, 2, 5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features, state = layer(frames.bfloat16())
        again, _ = layer(frames, state)
    assert (features.dtype, state.hidden.dtype, state.cell.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    # A state from under autocast goes on outside of it, and the other way round.
    outside, _ = layer(frames, state)
    torch.testing.assert_close(outside, again.float(), rtol=0, atol=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(frames, layer(frames)[1])


@pytest.mark.parametrize("name", ["in_channels", "hidden_channels", "kernel_size"])
@pytest.mark.parametrize("value", [0, -1, 2.0, "3", None, True])
def test_bad_sizes(name, value):
    with pytest.raises(InputError, match=rf"{name}=.*: expected a whole number of at least 1"):
        ConvLSTM(**{"in_channels": 2, "hidden_channels": 3, name: value})
