"""ConvLSTM against Keras, against a NumPy loop of the equations, and a one-pixel image against torch.nn.LSTM."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain_loops import convlstm as loop

from rsnn.errors import InputError
from rsnn.nn import ConvLSTM, ConvLSTMAttention, ConvLSTMState

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


@pytest.mark.parametrize("layer", [ConvLSTM(2, 3), ConvLSTMAttention(2, 3)], ids=["ConvLSTM", "ConvLSTMAttention"])
def test_bad_pooling(layer):
    frames = torch.zeros(2, 1, 2, 4, 6)
    for pool in (0, -1, 2.0, None):
        with pytest.raises(InputError, match=rf"pool={pool}: expected a whole number of at least 1"):
            layer(frames, pool=pool)
    with pytest.raises(InputError, match=r"frames of \(4, 6\): pool=5 leaves no pixel of them"):
        layer(frames, pool=5)


class Adapted(torch.nn.Module):
    """A convolution, and beside it one of low rank (LoRA)."""

    def __init__(self, conv, rank=1):
        super().__init__()
        self.conv = conv
        self.down = torch.nn.Conv2d(conv.in_channels, rank, conv.kernel_size, bias=False)
        self.up = torch.nn.Conv2d(rank, conv.out_channels, 1, bias=False)

    def forward(self, x):
        return self.conv(x) + self.up(self.down(x))

    def merged(self):
        return self.conv.weight + torch.einsum("drij,rckl->dckl", self.up.weight, self.down.weight)


@pytest.mark.parametrize("options", [{}, {"tie_hidden_gates": True, "kernel_size": 4}], ids=str)
def test_modules_in_place_of_the_gates_are_called(options):
    layer, merged = random_layer(2, 3, **options), random_layer(2, 3, **options)
    for name in ("input_gates", "hidden_gates"):
        adapted = Adapted(getattr(layer, name)).double()
        setattr(layer, name, adapted)
        getattr(merged, name).weight = torch.nn.Parameter(adapted.merged().detach())
    frames = torch.randn(3, 2, 2, 5, 4, dtype=torch.float64)
    state = ConvLSTMState(*torch.randn(2, 2, 3, 5, 4, dtype=torch.float64))
    for ours, expected in zip(layer(frames, state, pool=2), merged(frames, state, pool=2), strict=True):
        torch.testing.assert_close(ours, expected)
    layer(frames)[0].sum().backward()
    assert layer.hidden_gates.up.weight.grad.any()


def test_hooks_of_the_gates_are_called():
    layer, calls = ConvLSTM(2, 3), []
    frames = torch.randn(4, 1, 2, 5, 5)
    expected, _ = layer(frames)
    layer.input_gates.register_forward_hook(lambda _, inputs, output: calls.append((inputs[0].shape, output.shape)))
    layer.hidden_gates.forward = lambda x: 0 * torch.nn.Conv2d.forward(layer.hidden_gates, x)
    features, _ = layer(frames)
    assert calls == [((4, 2, 7, 7), (4, 12, 5, 5))]
    torch.testing.assert_close(features[0], expected[0])
    assert not torch.allclose(features[1], expected[1])


@pytest.mark.parametrize("wrap", [torch.nn.utils.weight_norm, torch.nn.utils.parametrizations.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_gates_with_normalized_weights_train(wrap):
    layer = random_layer(2, 3)
    wrap(layer.input_gates, "weight")
    wrap(layer.hidden_gates, "weight")
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    frames = torch.randn(3, 2, 2, 4, 4, dtype=torch.float64)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        losses.append(layer(frames)[0].square().sum())
        losses[-1].backward()
        optimizer.step()
    assert losses[0] > losses[1] > losses[2]


def test_pruned_gates_stay_pruned_in_training():
    import torch.nn.utils.prune

    layer = random_layer(2, 3)
    for gates in (layer.input_gates, layer.hidden_gates):
        torch.nn.utils.prune.random_unstructured(gates, "weight", 0.5)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    frames = torch.randn(3, 2, 2, 4, 4, dtype=torch.float64)
    for _ in range(2):
        layer(frames)[0].square().sum().backward()
        optimizer.step()
    features, _ = layer(frames)
    torch.nn.utils.prune.remove(layer.input_gates, "weight")
    torch.nn.utils.prune.remove(layer.hidden_gates, "weight")
    assert (layer.input_gates.weight == 0).sum() == 108
    torch.testing.assert_close(layer(frames)[0], features)


@pytest.mark.parametrize(
    ("name", "conv", "message"),
    [
        ("input_gates", torch.nn.Conv2d(2, 12, 3, padding=1), r"input_gates \(Conv2d\) made \(3, 12, 7, 6\) of"),
        ("input_gates", torch.nn.Conv2d(2, 12, 3, dilation=2), r"\(3, 2, 7, 6\), which is padded already; expected"),
        ("hidden_gates", torch.nn.Conv2d(3, 8, 3, groups=1, bias=True), r"expected \(1, 12, 5, 4\)"),
    ],
)
def test_gates_of_other_sizes(name, conv, message):
    layer = ConvLSTM(2, 3)
    setattr(layer, name, conv)
    with pytest.raises(InputError, match=message):
        layer(torch.randn(3, 1, 2, 5, 4))


def test_a_bias_of_the_hidden_gates_counts():
    layer = random_layer(2, 3)
    frames = torch.randn(3, 1, 2, 5, 4, dtype=torch.float64)
    expected, _ = layer(frames)
    plain = layer.hidden_gates
    layer.hidden_gates = torch.nn.Conv2d(3, 12, 3, dtype=torch.float64)
    layer.hidden_gates.weight = plain.weight
    layer.hidden_gates.bias = torch.nn.Parameter(layer.input_gates.bias.detach().clone())
    with torch.no_grad():
        layer.input_gates.bias.zero_()
    torch.testing.assert_close(layer(frames)[0], expected)
