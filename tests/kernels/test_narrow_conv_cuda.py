"""The CUDA kernels of a convolution of few channels and of its gradients, against PyTorch's."""

from __future__ import annotations

import cuda_on_host
import pytest
import torch
from test_lif_cuda import CPU, GPU
from torch.nn import functional as F

from rsnn.kernels import cuda, gpu, narrow_conv_cupy
from rsnn.kernels.layout import channels_last
from rsnn.nn import LIF
from rsnn.nn.stages import SpikingConv


@pytest.fixture(params=[CPU, GPU])
def device(request, monkeypatch):
    gpu.works.cache_clear()
    if request.param == "cpu":
        monkeypatch.setattr(cuda, "_compiled", cuda_on_host.compiled)
        monkeypatch.setattr("rsnn.kernels.selected", lambda *_: "cupy")
    yield request.param
    gpu.works.cache_clear()


def tensors(N, C, H, W):
    torch.manual_seed(0)
    return torch.randn(N, C, H, W), 0.3 * torch.randn(128, C, 3, 3), torch.randn(N, 128, H, W)


def close(found, expected, share):
    return (found.cpu().double() - expected).norm() <= share * expected.norm()


@pytest.mark.parametrize("size", [(1, 6, 3, 32), (2, 8, 2, 16), (1, 1, 1, 48), (1, 3, 5, 64)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_results_and_gradients(device, size, dtype, monkeypatch):
    if size[2] == 5:
        monkeypatch.setattr(narrow_conv_cupy, "ROWS", 2)
        monkeypatch.setattr(narrow_conv_cupy, "SLOTS", 3)
    x, weight, grad = (y.to(dtype).double() for y in tensors(*size))
    by_x = F.conv_transpose2d(grad, weight, padding=1)
    by_weight = torch.nn.grad.conv2d_weight(x, weight.shape, grad, padding=1)
    expected = F.conv2d(x, weight, padding=1)
    grad = channels_last(grad.to(device, dtype))
    exact = 1e-6 if device == "cpu" else 1e-3  # else products of TF32
    found = narrow_conv_cupy.convolution(x.to(device), weight.float().to(device), dtype)
    assert (found.shape, found.dtype, found.is_contiguous(memory_format=torch.channels_last)) == (
        expected.shape,
        dtype,
        True,
    )
    assert close(found, expected, exact if dtype == torch.float32 else 5e-3)
    found = narrow_conv_cupy.input_gradient(grad, weight.float().to(device))
    assert (found.shape, found.dtype) == (by_x.shape, dtype)
    assert close(found, by_x, exact if dtype == torch.float32 else 5e-3)
    found = narrow_conv_cupy.weight_gradient(grad, x.to(device, dtype))
    assert (found.shape, found.dtype) == (weight.shape, torch.float32)
    assert close(found, by_weight, exact)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_stage_trains_as_with_pytorch(device, monkeypatch, autocast):
    torch.manual_seed(0)
    stage = SpikingConv(6, 128, 2, LIF()).to(device)
    x = torch.randn(2, 1, 6, 2, 16, device=device, requires_grad=True)
    results = []
    for takes in (narrow_conv_cupy.supports, lambda *_: False):
        monkeypatch.setattr(narrow_conv_cupy, "supports", takes)
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            spikes, potential = stage(x, None)
            assert narrow_conv_cupy.supports(x[0], stage.conv.weight, spikes.dtype) == (not results)
        loss = (spikes.float() * torch.linspace(-1, 1, spikes.numel(), device=device).view(spikes.shape)).sum()
        results.append([spikes, *torch.autograd.grad(loss + potential.square().sum(), [x, *stage.parameters()])])
    assert (results[0][0] == results[1][0]).double().mean() > (0.999 if device == "cpu" and not autocast else 0.98)
    for found, expected in zip(*(result[1:] for result in results), strict=True):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert close(found, expected.cpu().double(), 1e-2 if autocast or device != "cpu" else 1e-5)


def test_only_what_is_needed_is_computed(device, monkeypatch):
    stage = SpikingConv(6, 128, 1, LIF()).to(device)
    x = torch.randn(2, 1, 6, 2, 16, device=device)
    launched = []
    launch = cuda.launch
    monkeypatch.setattr(cuda, "launch", lambda file, name, *rest: launched.append(name) or launch(file, name, *rest))
    assert narrow_conv_cupy.supports(x[0], stage.conv.weight, torch.float32)
    launched.clear()
    stage(x, None)[0].sum().backward()
    assert "weight_gradient" in launched
    assert "input_gradient" not in launched
    with torch.no_grad():
        stage(x, None)


def test_what_it_takes(device, monkeypatch):
    x, weight = torch.zeros(2, 6, 4, 16, device=device), torch.zeros(128, 6, 3, 3, device=device)

    def takes(x=x, weight=weight, dtype=torch.float32):
        return narrow_conv_cupy.supports(x, weight, dtype)

    assert takes()
    assert takes(x[:, :, :3])
    assert not takes(x[..., :8])
    assert not takes(x[:0])
    assert not takes(dtype=torch.float64)
    assert not takes(weight=weight[:64])
    assert not takes(weight=weight[..., :1, :1])
    assert not takes(x.repeat(1, 2, 1, 1), weight.repeat(1, 2, 1, 1))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert not takes()
    assert takes(dtype=torch.bfloat16)


@pytest.mark.parametrize(
    "change",
    [("2 - j", "j"), ("(y + tap / 3 - 1)", "(y + 1 - tap / 3)"), ("2 * n + g % 2", "2 * n"), ("? pixel & 3", "? 0")],
)
def test_a_kernel_with_wrong_results_is_left_out(device, monkeypatch, change):
    right = cuda.source
    assert change[0] in right("narrow_conv.cu")
    monkeypatch.setattr(cuda, "source", lambda file: right(file).replace(*change))
    compiled = cuda_on_host.compiled if device == "cpu" else cuda._compiled
    monkeypatch.setattr(cuda, "_compiled", compiled.__wrapped__)
    if change[1] == "? 0":  # another order in shared memory
        assert narrow_conv_cupy._works(torch.device(device))
        return
    with pytest.warns(UserWarning, match="left out: its results are not those of the single operations"):
        assert not narrow_conv_cupy._works(torch.device(device))
