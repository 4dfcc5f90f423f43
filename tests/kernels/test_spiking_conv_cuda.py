"""The CUDA kernel of a whole stage of the spiking CNN, against the same in single operations of torch."""

from __future__ import annotations

import cuda_on_host
import pytest
import torch
from test_lif_cuda import CPU, GPU
from torch.nn import functional as F

from rsnn import kernels
from rsnn.kernels import ATan, cuda, gpu, lif_torch, spiking_conv_cupy
from rsnn.nn import LIF
from rsnn.nn.stages import SpikingConv

NEURON = {"tau": 2.0, "v_threshold": 1.0, "v_reset": 0.0, "surrogate": ATan(), "detach_reset": True}


@pytest.fixture(params=[CPU, GPU])
def device(request, monkeypatch):
    gpu.works.cache_clear()
    if request.param == "cpu":
        monkeypatch.setattr(cuda, "_compiled", cuda_on_host.compiled)
        monkeypatch.setattr("rsnn.kernels.selected", lambda *_: "cupy")
    yield request.param
    gpu.works.cache_clear()


def case(T=3, N=1, C=6, H=4, W=32, D=128):
    torch.manual_seed(0)
    norm = (torch.rand(D) + 0.5, 0.3 * torch.randn(D), 0.1 * torch.randn(D), torch.rand(D) + 0.5)
    return torch.randn(T, N, C, H, W), 0.3 * torch.randn(D, C, 3, 3), norm, torch.randn(N, D, H, W)


def reference(x, weight, v, norm, eps, **neuron):
    current = F.conv2d(x.flatten(0, 1), weight, padding=1)
    gain, bias, mean, variance = norm
    normal = F.batch_norm(current, mean, variance, gain, bias, False, 0.0, eps).unflatten(0, x.shape[:2])
    v = torch.full_like(normal[0], neuron["v_reset"] or 0.0) if v is None else v
    spikes, v = lif_torch.lif(normal, v, **neuron)
    return F.max_pool2d(spikes.flatten(0, 1), 2).unflatten(0, x.shape[:2]), v


def rounded(weight, norm, eps, dtype):
    """Return weights and normalization so that a kernel, which multiplies with scaled weights in `dtype`, is exact."""
    gain, bias, mean, variance = norm
    scale = (1.0 if gain is None else gain) / (variance + eps).sqrt()
    shift = (0.0 if bias is None else bias) - mean * scale
    D = len(weight)
    return (weight * scale[:, None, None, None]).to(dtype).float(), (None, shift, torch.zeros(D), torch.ones(D))


def to(device, norm):
    return tuple(None if y is None else y.to(device) for y in norm)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ({"N": 2}, {}),
        ({"D": 256, "W": 16, "C": 3}, {"v_reset": None, "tau": 1.7}),
        ({"C": 8, "H": 2, "T": 7}, {"v_reset": -0.2, "v_threshold": 0.8}),
        ({"T": 1, "W": 16, "C": 1}, {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("start", [True, False])
def test_spikes_and_potential(device, size, options, start):
    x, weight, norm, v = case(**size)
    v, options = v if start else None, NEURON | options
    norm = norm if start else (None, None, *norm[2:])
    x = x.half().float()
    of_halves, shift = rounded(weight, norm, 1e-3, torch.half)
    expected, after = reference(x, of_halves, v, shift, 1e-12, **options)
    found = spiking_conv_cupy.spiking_convolution(
        x.to(device), weight.to(device), None if v is None else v.to(device), to(device, norm), eps=1e-3, **options
    )
    assert (found[0].dtype, found[0].shape, found[1].shape) == (torch.float32, expected.shape, after.shape)
    assert 0.02 < expected.mean() < 0.98
    exact = device == "cpu"  # else sums are in another order, and a weight in a thousand is rounded the other way
    assert (found[0].cpu() == expected).double().mean() > (0.9999 if exact else 0.998)
    assert (found[1].cpu() - after).norm() / after.norm() < (1e-5 if exact else 0.02)


@pytest.mark.parametrize("autocast", [False, True])
def test_spikes_in_half_precision(device, autocast):
    x, weight, norm, v = case(T=2, W=16)
    given = (x.to(device), weight.to(device), v.to(device), to(device, norm))
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        found, after = spiking_conv_cupy.spiking_convolution(*given, eps=1e-3, halves=True, **NEURON)
        expected, potential = spiking_conv_cupy.spiking_convolution(*given, eps=1e-3, **NEURON)
    assert (found.dtype, expected.dtype) == (torch.float16, torch.bfloat16 if autocast else torch.float32)
    assert torch.equal(found.float(), expected.float())
    assert torch.equal(after, potential)
    assert found.float().mean() > 0.02


def test_bfloat16_under_autocast(device):
    x, weight, norm, v = case()
    x = x.bfloat16().float()
    of_bfloat16, shift = rounded(weight, norm, 1e-3, torch.bfloat16)
    expected, after = reference(x, of_bfloat16, v, shift, 1e-12, **NEURON)
    with torch.autocast(device, torch.bfloat16):
        found = spiking_conv_cupy.spiking_convolution(
            x.to(device), weight.to(device), v.to(device), to(device, norm), eps=1e-3, **NEURON
        )
    assert (found[0].dtype, found[1].dtype) == (torch.bfloat16, torch.float32)
    assert (found[0].cpu().float() == expected).double().mean() > 0.998
    assert (found[1].cpu() - after).norm() / after.norm() < 0.02


def test_what_it_takes(device, monkeypatch):
    x, weight = torch.zeros(2, 1, 6, 4, 16, device=device), torch.zeros(128, 6, 3, 3, device=device)

    def takes(x=x, weight=weight, tau=2.0, pool=2):
        return spiking_conv_cupy.supports(x, weight, tau, pool)

    assert takes()
    assert not takes(x[..., :8])
    assert not takes(x[..., :3, :])
    assert not takes(x[:, :0])
    assert not takes(x.double(), weight.double())
    assert not takes(weight=weight[:64])
    assert not takes(weight=weight[..., :1, :1])
    assert not takes(x.repeat(1, 1, 2, 1, 1), weight.repeat(1, 2, 1, 1))
    assert not takes(pool=1)
    assert not takes(tau=torch.tensor(2.0))
    with torch.autocast(device, torch.float16):
        assert not takes()
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert not takes()


def test_a_kernel_with_wrong_results_is_left_out(device, monkeypatch):
    right = cuda.source
    monkeypatch.setattr(cuda, "source", lambda file: right(file).replace("x * (1 / tau);", "x * tau;"))
    compiled = cuda_on_host.compiled if device == "cpu" else cuda._compiled
    monkeypatch.setattr(cuda, "_compiled", compiled.__wrapped__)
    with pytest.warns(UserWarning, match="left out: its results are not those of the single operations"):
        assert not spiking_conv_cupy._works(torch.device(device))


def test_a_stage_in_inference(device, monkeypatch):
    torch.manual_seed(0)
    stage = SpikingConv(6, 128, 2, LIF()).eval().to(device)
    with torch.no_grad():
        stage.norm.running_mean.normal_(std=0.1)
        stage.norm.running_var.uniform_(0.1, 0.2)
    x, number = torch.randn(3, 1, 6, 4, 16, device=device), torch.tensor(0, device=device)
    assert spiking_conv_cupy._works(x.device)
    calls = []
    kernel = spiking_conv_cupy.spiking_convolution
    monkeypatch.setattr(spiking_conv_cupy, "spiking_convolution", lambda *a, **k: calls.append(1) or kernel(*a, **k))
    with torch.no_grad():
        spikes, potential = stage(x, None)
        again, after = stage(x[:2], None)
        rest, after = stage(x[2:], after)
    assert len(calls) == 3
    assert torch.equal(torch.cat((again, rest)), spikes)
    assert torch.equal(after, potential)
    with torch.no_grad():
        expected, expected_potential = stage(x, None, number=number)
    with_gradients, _ = stage(x, None)
    with torch.no_grad():
        stage.train()(x, None)
    assert len(calls) == 3
    assert number > 0
    assert with_gradients.requires_grad
    assert (spikes == expected).double().mean() > 0.98
    assert (potential - expected_potential).norm() / potential.norm() < 0.1
    assert kernels.selected(device) == "cupy"
