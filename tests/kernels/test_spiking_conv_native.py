"""Convolutions that add only what is not zero, against torch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rsnn.kernels import native, spiking_conv_native

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("N", "C", "D", "K", "H", "W"),
    [(3, 5, 7, 3, 4, 6), (1, 16, 128, 3, 8, 8), (7, 3, 200, 5, 3, 4), (2, 40, 64, 1, 5, 5), (4, 2, 3, 7, 2, 2)],
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
