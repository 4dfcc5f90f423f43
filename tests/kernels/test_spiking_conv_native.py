"""Convolutions that add only what is not zero, against torch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rsnn import kernels
from rsnn.kernels import native, spiking_conv_native
from rsnn.nn import LIF, ConvLSTM
from rsnn.nn.stages import SpikingConv

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("N", "C", "D", "K", "H", "W"),
    [
        *[(3, 5, 7, 3, 4, 6), (1, 16, 128, 3, 8, 8), (7, 3, 200, 5, 3, 4), (2, 40, 64, 1, 5, 5), (4, 2, 3, 7, 2, 2)],
        *[(5, 20, 33, 3, 7, 5), (3, 80, 48, 3, 12, 14), (2, 130, 16, 3, 1, 1)],  # many channels, in tiles of 2 x 2
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_and_gradients(N, C, D, K, H, W, dtype, threads):
    torch.manual_seed(0)
    x = torch.randn(N, C, H, W, dtype=dtype) * (torch.rand(N, C, H, W) < 0.2)
    weight = torch.randn(D, C, K, K, dtype=dtype)
    found = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for ours in (True, False):
            inputs = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
            y = spiking_conv_native.convolution(*inputs) if ours else F.conv2d(*inputs, padding=K // 2)
            weights = torch.linspace(-1, 1, y.numel(), dtype=dtype).reshape(y.shape)
            found.append([y, *torch.autograd.grad(y, inputs, weights)])
    finally:
        torch.set_num_threads(before)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-11
    for mine, expected in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("share", [0.0, 0.29, 0.31, 1.0])
def test_any_share_of_spikes(share):
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(2, 8, 6, 6, generator=generator) < share).float()
    weight = torch.randn(16, 8, 3, 3, generator=generator)
    torch.testing.assert_close(spiking_conv_native.convolution(x, weight), F.conv2d(x, weight, padding=1))


def test_what_it_does_not_take():
    x = torch.zeros(1, 2, 4, 4)
    assert spiking_conv_native.supports(x, torch.zeros(3, 2, 3, 3))
    assert not spiking_conv_native.supports(x, torch.zeros(3, 2, 2, 2))
    assert not spiking_conv_native.supports(x, torch.zeros(3, 2, 3, 1))
    assert not spiking_conv_native.supports(x, torch.zeros(3, 2, 3, 3, dtype=torch.bfloat16))


def stage_of(C, D, pool, side, dtype):
    torch.manual_seed(0)
    stage = SpikingConv(C, D, pool, LIF())
    stage.conv = torch.nn.Conv2d(C, D, side, padding=side // 2, bias=False)
    with torch.no_grad():
        for numbers, low, high in (
            (stage.norm.weight, 0.5, 2.0),
            (stage.norm.bias, 0.0, 1.0),
            (stage.norm.running_mean, -0.1, 0.1),
            (stage.norm.running_var, 0.1, 0.5),
        ):
            numbers.uniform_(low, high)
    return stage.to(dtype).eval()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("share", [0.1, 1.0])
@pytest.mark.parametrize(
    ("N", "C", "D", "K", "H", "W", "pool"),
    [(3, 5, 7, 3, 4, 6, 2), (1, 16, 128, 3, 9, 8, 2), (2, 20, 200, 5, 7, 10, 3), (4, 40, 64, 1, 5, 5, 1)],
)
def test_a_stage_in_one_pass_fires_as_in_single_operations(N, C, D, K, H, W, pool, share, threads):
    stage = stage_of(C, D, pool, K, torch.float64)
    x = torch.rand(4, N, C, H, W, dtype=torch.float64) * (torch.rand(4, N, C, H, W) < share)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for potential in (None, torch.rand(N, D, H, W, dtype=torch.float64)):
            found = []
            for kernel in ("native", "torch"):
                number = torch.zeros((), dtype=torch.int64)
                with kernels.use(kernel), torch.no_grad():
                    found.append((*stage(x, potential, number=number), number))
            assert found[1][2] > 0
            for mine, expected in zip(*found, strict=True):
                torch.testing.assert_close(mine, expected)
    finally:
        torch.set_num_threads(before)


def test_a_stage_in_bfloat16_differs_by_its_rounding_alone():
    stage = stage_of(6, 64, 2, 3, torch.float32)
    x = torch.rand(10, 2, 6, 16, 16).bfloat16()
    with kernels.use("native"), torch.no_grad():
        expected, _ = stage(x.float(), None)
        with torch.autocast("cpu", torch.bfloat16):
            spikes, potential = stage(x, None)
    assert (spikes.dtype, potential.dtype) == (torch.bfloat16, torch.float32)
    assert (spikes == expected).float().mean() > 0.98


def test_gradients_of_maps_in_bfloat16_under_autocast():
    torch.manual_seed(0)
    weight = torch.randn(32, 16, 3, 3)
    found = []
    for autocast in (False, True):
        x = torch.ones(2, 16, 6, 6, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = spiking_conv_native.convolution(x, weight)
        y.backward(torch.linspace(-1, 1, y.numel()).reshape(y.shape))
        found.append(x.grad)
    torch.testing.assert_close(found[1], found[0], rtol=0.02, atol=0.02 * float(found[0].abs().max()))


def test_gradients_by_several_threads_are_the_same_every_time():
    torch.manual_seed(0)
    x = (torch.rand(64, 32, 16, 16) < 0.1).float().requires_grad_()
    weight = torch.randn(64, 32, 3, 3, requires_grad=True)

    def gradient():
        return torch.autograd.grad(spiking_conv_native.convolution(x, weight).square().sum(), weight)[0]

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        first = gradient()
        assert all(torch.equal(first, gradient()) for _ in range(20))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("training", [True, False])
def test_a_normalization_of_another_type(training):
    """Its numbers would be read as floats."""
    torch.manual_seed(0)
    stage = SpikingConv(3, 16, 2, LIF(v_threshold=0.1)).train(training)
    x = torch.rand(2, 2, 3, 6, 6)
    expected = stage(x, None)
    stage.norm.double()
    found = stage(x, None)
    torch.testing.assert_close(found, expected)
    found[0].sum().backward()
    assert stage.norm.weight.grad.dtype == torch.float64
    by_double = stage.conv.weight.grad.clone()
    stage.norm.float()
    stage.zero_grad()
    stage(x, None)[0].sum().backward()
    torch.testing.assert_close(by_double, stage.conv.weight.grad)


@pytest.mark.parametrize("training", [True, False])
def test_autocast_leaves_doubles_alone(training):
    torch.manual_seed(0)
    stage = SpikingConv(3, 16, 2, LIF(v_threshold=0.1)).double().train(training)
    layer = ConvLSTM(2, 3).double()
    frames = torch.rand(2, 1, 2, 8, 8, dtype=torch.float64)
    x = torch.rand(2, 2, 3, 6, 6, dtype=torch.float64)
    results = []
    for enabled in (False, True):
        stage.zero_grad()
        with torch.set_grad_enabled(training), torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            spikes, potential = stage(x, None)
            features, state = layer(frames)
        if training:
            spikes.sum().backward()
        results.append((spikes, potential, features, *state, stage.conv.weight.grad))
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(*results, strict=True))


class Wrapped(torch.Tensor):
    """A weight that is no memory of its own, as a distributed one."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        args = [x.inner if isinstance(x, Wrapped) else x for x in args]
        return function(*args, **(kwargs or {}))


@torch.no_grad()
@pytest.mark.parametrize("make", [lambda: SpikingConv(3, 16, 1, LIF()).eval(), lambda: ConvLSTM(3, 4)])
def test_weights_without_memory_go_another_way(make):
    torch.manual_seed(0)
    module, x = make(), torch.rand(2, 1, 3, 5, 5)
    with kernels.use("torch"):
        expected = module(x, None)[0]
    for each in module.modules():
        if isinstance(each, torch.nn.Conv2d):
            each._parameters["weight"] = Wrapped(each.weight.data)
    torch.testing.assert_close(module(x, None)[0], expected)
