"""The ConvLSTM in C++ against the plain loop: states, features and gradients, in float32 and float64."""

from __future__ import annotations

import pytest
import torch

from rsnn import kernels
from rsnn.errors import InputError
from rsnn.kernels import native
from rsnn.nn import ConvLSTM, ConvLSTMEncoder

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))

# Channels, hidden channels, side of the kernel, height, width, batch, steps, pooling.
CASES = [
    (2, 4, 3, 16, 16, 2, 3, 2),
    (3, 5, 3, 13, 21, 3, 4, 3),  # sizes that fill neither a vector nor a window
    (2, 3, 2, 9, 7, 1, 3, 1),
    (1, 2, 4, 5, 40, 5, 2, 2),
    (4, 6, 5, 33, 70, 3, 3, 2),
    (2, 10, 3, 6, 100, 1, 2, 1),
    (3, 5, 3, 37, 18, 4, 2, 1),  # an odd number of rows, several blocks of them
    (2, 3, 1, 4, 4, 1, 1, 1),
    (1, 1, 7, 2, 1, 2, 3, 1),  # a kernel wider than the frame
]


@pytest.fixture(autouse=True, params=[1, 3], ids=["1 thread", "3 threads"])
def _threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def everything(layer, frames, state, pool):
    """Return outputs and gradients of a layer for random gradients of all its outputs."""
    frames = frames.clone().requires_grad_()
    state = None if state is None else tuple(s.clone().requires_grad_() for s in state)
    features, after = layer(frames, state, pool=pool)
    torch.manual_seed(1)
    outputs = (features, *after)
    inputs = [frames, *(state or ()), *layer.parameters()]
    gradients = torch.autograd.grad(outputs, inputs, [torch.randn_like(x) for x in outputs])
    with torch.no_grad():
        unkept, after = layer(frames, state, pool=pool)
    return [*outputs, *gradients, unkept, *after]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("options", [{}, {"bias": False, "tie_hidden_gates": True}], ids=str)
def test_same_as_the_plain_loop(case, options, dtype):
    C, D, K, H, W, N, T, pool = case
    torch.manual_seed(0)
    layer = ConvLSTM(C, D, K, **options).to(dtype)
    frames = torch.randn(T, N, C, H, W, dtype=dtype)
    tolerance = 2e-5 if dtype == torch.float32 else 1e-12
    for state in (None, tuple(torch.randn(2, N, D, H, W, dtype=dtype))):
        with kernels.use("native"):
            ours = everything(layer, frames, state, pool)
        with kernels.use("torch"):
            plain = everything(layer, frames, state, pool)
        for mine, expected in zip(ours, plain, strict=True):
            largest = expected.abs().max().clamp_min(1).item()
            torch.testing.assert_close(mine, expected, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_hidden_states_are_counted_on_the_way(case, dtype):
    C, D, K, H, W, N, T, pool = case
    torch.manual_seed(0)
    layer = ConvLSTM(C, D, K, bias=False)  # without a bias, hidden states are zero until an event comes near
    frames = torch.zeros(T, N, C, H, W)
    frames[torch.rand_like(frames) < 0.02] = 1.0
    frames[0, 0, 0, 0, 0] = 1.0
    if dtype == torch.float64:
        layer, frames = layer.double(), frames.double()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        for state in (None, layer(frames, None)[1]):
            with kernels.use("native"):
                hidden, _ = layer(frames, state)
                plainly, after = layer(frames, state, pool=pool)
                places = torch.full((D, H, W), 7)
                pooled, counted_after = layer(frames, state, pool=pool, places=places)
            assert torch.equal(pooled, plainly)
            assert all(map(torch.equal, counted_after, after))
            expected = (hidden != 0).sum((0, 1))
            assert 0 < expected.sum() <= hidden.numel()
            assert torch.equal(places - 7, expected)


@pytest.mark.parametrize("kernel", ["native", "torch"])
def test_hidden_states_are_counted_with_gradients_too(kernel):
    layer = ConvLSTM(2, 3, bias=False)
    frames = (torch.rand(3, 2, 2, 9, 8) < 0.02).float().requires_grad_()
    places = torch.zeros(3, 9, 8, dtype=torch.int64)
    with kernels.use(kernel):
        hidden, _ = layer(frames)
        pooled, _ = layer(frames, pool=2, places=places)
        pooled.sum().backward()
    assert frames.grad is not None
    assert torch.equal(places, (hidden != 0).sum((0, 1)))
    assert 0 < places.sum() < hidden.numel()


def test_gradcheck():
    torch.manual_seed(0)
    layer = ConvLSTM(2, 2).double()
    frames = torch.randn(3, 2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    state = tuple(torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    names = [name for name, _ in layer.named_parameters()]

    def run(frames, hidden, cell, *parameters):
        weights = dict(zip(names, parameters, strict=True))
        features, after = torch.func.functional_call(layer, weights, (frames, (hidden, cell)), {"pool": 2})
        return features, *after

    with kernels.use("native"):
        assert torch.autograd.gradcheck(run, (frames, *state, *layer.parameters()))


def test_ties_within_a_window_go_to_its_first_pixel():
    """Where nothing happens neighbours are equal; their gradient goes where torch's max pooling sends it."""
    torch.manual_seed(0)
    layer = ConvLSTM(2, 3, 1)
    frames = torch.ones(2, 1, 2, 6, 8)
    for pool in (2, 3):
        with kernels.use("native"):
            ours = everything(layer, frames, None, pool)
        with kernels.use("torch"):
            plain = everything(layer, frames, None, pool)
        torch.testing.assert_close(ours[3], plain[3], rtol=0, atol=1e-6)


def test_equal_rows_stay_equal():
    """Down the columns sums are taken another way than along the rows: ties must not come apart."""
    torch.manual_seed(0)
    layer = ConvLSTM(2, 4)
    frames = torch.randn(3, 1, 2, 1, 40).expand(3, 1, 2, 20, 40).contiguous()
    with kernels.use("native"):
        features, _ = layer(frames)
    inner = features[..., 4:-4, :]  # beyond the reach of the zeros around
    assert torch.equal(inner, inner[..., :1, :].expand_as(inner))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 30.0, 1e4])
def test_saturated_and_tiny_activations(scale):
    torch.manual_seed(0)
    layer = ConvLSTM(2, 4, bias=False)
    frames = scale * torch.randn(3, 1, 2, 8, 16)
    with kernels.use("native"):
        ours, _ = layer(frames)
    with kernels.use("torch"):
        plain, _ = layer.double()(frames.double())
    # Sums of thousands in float32 keep three digits behind the point.
    torch.testing.assert_close(ours.double(), plain, rtol=2e-5, atol=1e-7 * scale)


def test_any_layout_of_the_frames():
    torch.manual_seed(0)
    layer = ConvLSTM(2, 4)
    frames = torch.randn(3, 2, 2, 8, 12)
    expected, _ = layer(frames)
    last = frames.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, (3, 2))
    strided = torch.randn(6, 2, 2, 8, 24)[::2, ..., ::2].copy_(frames)
    for other in (last, strided, frames.transpose(0, 1).contiguous().transpose(0, 1)):
        assert not other.is_contiguous()
        assert torch.equal(layer(other)[0], expected)


def test_only_the_gradients_that_are_asked_for():
    layer = ConvLSTM(2, 4)
    layer.input_gates.weight.requires_grad_(False)
    features, _ = layer(torch.randn(2, 1, 2, 8, 8), None)
    features.sum().backward()
    assert layer.input_gates.weight.grad is None
    assert layer.hidden_gates.weight.grad is not None


def test_the_encoder_pools_on_the_way_unless_a_hook_watches():
    encoder = ConvLSTMEncoder()
    frames = torch.randn(2, 1, 2, 12, 16)
    features, _ = encoder(frames)
    seen = []
    handle = encoder.layers[0].register_forward_hook(lambda *call: seen.append(call[2][0].shape))
    assert torch.equal(encoder(frames)[0], features)
    assert seen == [(2, 1, 4, 12, 16)]
    handle.remove()

    class Hook:
        takes = frozenset({"pooling"})

        def __call__(self, *call):
            seen.append(call[2][0].shape)

    with_hook = encoder.layers[0].register_forward_hook(Hook())
    assert torch.equal(encoder(frames)[0], features)
    assert seen[1:] == [(2, 1, 4, 6, 8)]
    with_hook.remove()


def test_hooks_within_a_layer_with_attention_see_hidden_states_too():
    encoder = ConvLSTMEncoder(attention=True)
    frames = torch.randn(2, 1, 2, 12, 16)
    features, _ = encoder(frames)
    seen = []
    encoder.layers[0].convlstm.register_forward_hook(lambda *call: seen.append(call[2][0].shape))
    assert torch.equal(encoder(frames)[0], features)
    assert seen == [(2, 1, 4, 12, 16)]


@pytest.mark.parametrize("side", [1, 5])
def test_gates_of_two_sizes_are_left_to_torch(side):
    layer = ConvLSTM(2, 3)
    layer.hidden_gates = torch.nn.Conv2d(3, 12, side, bias=False)
    frames = torch.randn(3, 1, 2, 6, 6)
    found = []
    for kernel in ("native", "torch"):
        with kernels.use(kernel), torch.no_grad():
            found.append(layer(frames)[0])
    assert torch.equal(*found)


def test_weights_that_do_not_fit_are_an_error():
    for gates in (torch.nn.Conv2d(1, 12, 3), torch.nn.Conv2d(2, 8, 3)):
        layer = ConvLSTM(2, 3)
        layer.input_gates.weight, layer.input_gates.bias = gates.weight, gates.bias
        with kernels.use("native"), pytest.raises(RuntimeError):
            layer(torch.randn(3, 1, 2, 6, 6))


def test_what_watches_single_operations_gets_them():
    from torch.utils.flop_counter import FlopCounterMode

    layer = ConvLSTM(2, 4)
    with kernels.use("native"), FlopCounterMode(display=False) as counter:
        layer(torch.randn(2, 1, 2, 8, 8))
    assert counter.get_total_flops() == 2 * 2 * 64 * 9 * 16 * (2 + 4)
    with kernels.use("native"):
        per_sample = torch.func.vmap(lambda x: layer(x)[0])(torch.randn(3, 2, 1, 2, 8, 8))
    assert per_sample.shape == (3, 2, 1, 4, 8, 8)


def test_second_derivatives_are_refused_not_wrong():
    layer = ConvLSTM(1, 2)
    frames = torch.randn(2, 1, 1, 4, 4, requires_grad=True)
    for kernel in ("native", "torch"):
        with kernels.use(kernel):
            (gradient,) = torch.autograd.grad(layer(frames)[0].square().sum(), frames, create_graph=True)
            if kernel == "torch":
                gradient.sum().backward()
            else:
                with pytest.raises(InputError, match=r"no derivatives of gradients .*rsnn.kernels.use\('torch'\)"):
                    gradient.sum().backward()
