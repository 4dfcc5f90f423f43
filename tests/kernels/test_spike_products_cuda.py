"""Products of weights with spikes in half precision, against those of float64."""

from __future__ import annotations

from copy import deepcopy

import cuda_on_host
import pytest
import torch
from test_lif_cuda import CPU, GPU
from torch.nn import functional as F

from rsnn import kernels
from rsnn.kernels import cuda, gpu, lif_torch, spike_products_cupy
from rsnn.nn import SCNN


@pytest.fixture(params=[CPU, GPU])
def device(request, monkeypatch):
    gpu.works.cache_clear()
    if request.param == "cpu":
        monkeypatch.setattr(cuda, "_compiled", cuda_on_host.compiled)
        monkeypatch.setattr("rsnn.kernels.selected", lambda *_: "cupy")
        monkeypatch.setattr(spike_products_cupy, "_sum_of_products", sum_of_products)
    monkeypatch.setattr(spike_products_cupy, "CONVOLUTION", 0)
    monkeypatch.setattr(spike_products_cupy, "LINEAR", 0)
    yield request.param
    gpu.works.cache_clear()


def sum_of_products(spikes, high, low):
    """Stand in for `_sum_of_products`: PyTorch's products of halves with sums of float32 are for GPUs."""
    return spikes.float() @ (high.float() + low.float() / 2048).t()


def spikes_of(*shape):
    return (torch.rand(shape) < 0.3).half()


@pytest.mark.parametrize("size", [1.0, 1e-7, 1e5])
@pytest.mark.parametrize("gained", [True, False])
def test_convolution(device, size, gained):
    torch.manual_seed(0)
    D, C = 24, 16
    weight = size * torch.randn(D, C, 3, 3) * torch.logspace(-2, 2, D)[:, None, None, None]
    mean, gain = size * torch.randn(D), torch.rand(D) + 0.5 if gained else None
    spikes = spikes_of(3, C, 6, 5)
    norm = tuple(None if x is None else x.to(device) for x in (gain, None, mean, torch.ones(D)))
    sums, (found_gain, bias, found_mean, variance) = spike_products_cupy.convolution(
        spikes.to(device), weight.to(device), norm
    )
    assert (sums.dtype, sums.shape, bias) == (torch.float16, (3, D, 6, 5), None)
    assert sums.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(variance, norm[3])
    per_channel = (..., None, None)
    found = (sums.double() - found_mean.double()[per_channel]) * found_gain.double()[per_channel]
    expected = F.conv2d(spikes.double(), weight.double(), padding=1) - mean.double()[per_channel]
    expected = expected * (1 if gain is None else gain.double()[per_channel])
    scale = weight.double().abs().sum((1, 2, 3))[per_channel] * (1 if gain is None else gain.double()[per_channel])
    assert ((found.cpu() - expected) / scale).abs().max() < 2.0**-12
    assert (found.cpu() - expected).norm() / expected.norm() < 2.0**-11


def test_sums_are_never_beyond_a_half(device):
    D, C = 8, 512
    weight = torch.full((D, C, 3, 3), 1000.0, device=device)
    ones = torch.ones(D, device=device)
    sums, (gain, _, mean, _) = spike_products_cupy.convolution(
        torch.ones(1, C, 3, 3, device=device).half(), weight, (ones, None, 0 * ones, ones)
    )
    assert 2.0**14 <= sums.max() <= 2.0**15
    assert sums[0, 0, 1, 1].item() * gain[0].item() == pytest.approx(1000 * C * 9, rel=2.0**-11)
    assert torch.equal(mean, 0 * ones)


@pytest.mark.parametrize("weight", [0.0, float("inf"), float("nan"), 1e-45, 3e38])
def test_weights_at_the_limits(device, weight):
    D, C = 8, 8
    given = torch.zeros(D, C, 3, 3, device=device)
    given[3, 2, 1, 1] = weight
    ones = torch.ones(D, device=device)
    spikes = torch.ones(1, C, 3, 3, device=device).half()
    sums, (gain, _, mean, _) = spike_products_cupy.convolution(spikes, given, (ones, None, ones, ones))
    found = sums.double() * gain.double()[:, None, None]
    assert (found[0, [0, 1, 2, 4, 5, 6, 7]] == 0).all()
    assert (mean.double() * gain.double() == 1).all()
    if weight != weight:
        assert found[0, 3].isnan().all()
    elif weight < 1:
        assert found[0, 3].max() <= 1e-44
    else:
        assert (found[0, 3] > 1e16).all()


@pytest.mark.parametrize("shape", [(24, 64), (16, 8), (8, 24)])
@pytest.mark.parametrize("size", [1.0, 1e-4, 1e3])
def test_linear(device, shape, size):
    torch.manual_seed(0)
    weight, spikes = size * torch.randn(shape) * torch.logspace(-3, 0, shape[1]), spikes_of(4, 3, shape[1])
    found = spike_products_cupy.linear(spikes.to(device), weight.to(device))
    expected = spikes.double() @ weight.double().t()
    assert (found.dtype, found.shape) == (torch.float32, expected.shape)
    rounding = 2.0**-23 * weight.double().abs() + 2.0**-36  # of a weight
    sums = spikes.double() @ rounding.t()
    assert ((found.cpu() - expected).abs() <= sums + 2.0**-22 * (spikes.double() @ weight.double().abs().t())).all()
    assert (found.cpu() - expected).norm() / expected.norm() < 1e-6


def test_what_it_takes(device, monkeypatch):
    weight = torch.zeros(16, 8, 3, 3, device=device)

    def takes(weight=weight, rows=64):
        return spike_products_cupy.supports(weight, rows)

    assert takes()
    assert not takes(weight[:, :4])
    assert not takes(weight[:12])
    assert not takes(weight.double())
    with torch.autocast(device, torch.bfloat16):
        assert not takes()
    with monkeypatch.context() as patch:
        patch.setattr(spike_products_cupy, "CONVOLUTION", 64 * weight.numel() + 1)
        assert not takes()
        assert takes(rows=65)
        assert takes(weight[:, :, 0, 0])
        patch.setattr(spike_products_cupy, "LINEAR", 64 * 16 * 8 + 1)
        assert not takes(weight[:, :, 0, 0])
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert not takes()


def test_a_kernel_with_wrong_results_is_left_out(device, monkeypatch):
    right = cuda.source
    monkeypatch.setattr(cuda, "source", lambda file: right(file).replace("* 2048.0f", "* 1024.0f"))
    compiled = cuda_on_host.compiled if device == "cpu" else cuda._compiled
    monkeypatch.setattr(cuda, "_compiled", compiled.__wrapped__)
    with pytest.warns(UserWarning, match="left out: its results are not those of the single operations"):
        assert not spike_products_cupy.supports(torch.zeros(8, 8, 3, 3, device=device), 8)


def network(device):
    torch.manual_seed(0)
    network = SCNN(6, 3, (4, 16), pools=(2, 2), channels=128, votes=2).to(device).eval()
    with torch.no_grad():
        for stage in network.convs:
            stage.norm.running_mean.normal_(std=0.1)
            stage.norm.running_var.uniform_(0.05, 0.1)
    return network


class Seen:
    """The types of what the products got."""

    def __init__(self, monkeypatch):
        self.types = []
        for name in ("convolution", "linear"):
            monkeypatch.setattr(spike_products_cupy, name, self.noting(getattr(spike_products_cupy, name)))

    def noting(self, function):
        def noted(spikes, *others):
            self.types.append(spikes.dtype)
            return function(spikes, *others)

        return noted


def test_a_network_in_inference(device, monkeypatch):
    scnn, x = network(device), torch.randn(3, 1, 6, 4, 16, device=device)
    assert spike_products_cupy.supports(scnn.convs[1].conv.weight, 1)
    seen = Seen(monkeypatch)
    with torch.no_grad():
        rates, after = scnn.step_votes(x)
        assert seen.types == [torch.float16] * 2
        first, state = scnn.step_votes(x[:1])
        rest, state = scnn.step_votes(x[1:], state)
        assert seen.types == [torch.float16] * 6
    assert torch.equal(torch.cat((first, rest)), rates)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(state, after, strict=True))
    assert {x.dtype for x in (rates, *after)} == {torch.float32}
    assert all(x.std() > 0.05 for x in after)
    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(spike_products_cupy, "CONVOLUTION", 1 << 40)
        patch.setattr(spike_products_cupy, "LINEAR", 1 << 40)
        _, potentials = scnn.step_votes(x)
        assert len(seen.types) == 6
    assert torch.equal(after[0], potentials[0])
    for found, wanted in zip(after[1:3], potentials[1:3], strict=True):
        assert (found - wanted).norm() / wanted.norm() < 0.1


def test_a_stage(device):
    """Spikes of a stage that takes halves, and of exact sums."""
    stage = network(device).convs[1]
    spikes, v = spikes_of(4, 2, 128, 6, 4).to(device), torch.randn(2, 128, 6, 4, device=device)
    with torch.no_grad():
        assert stage.takes_halves(spikes, v)
        halves, potential = stage(spikes, v, halves=True)
        single, _ = stage(spikes, v)
        exact = deepcopy(stage).double()
        current = exact.norm(exact.conv(spikes.double().flatten(0, 1))).unflatten(0, spikes.shape[:2])
        expected, expected_potential = lif_torch.lif(current, v.double(), **stage._neuron())
        expected = F.max_pool2d(expected.flatten(0, 1), 2).unflatten(0, spikes.shape[:2])
    assert (halves.dtype, single.dtype, potential.dtype) == (torch.float16, torch.float32, torch.float32)
    assert torch.equal(halves.float(), single)
    assert 0.05 < expected.mean() < 0.95
    assert (single.double() == expected).double().mean() > 0.998
    assert (potential - expected_potential).norm() / expected_potential.norm() < 0.03


def test_who_looks_gets_spikes_of_float32(device, monkeypatch):
    scnn, x = network(device), torch.randn(2, 1, 6, 4, 16, device=device)
    seen, types = Seen(monkeypatch), []

    def look(module, given, result):
        types.extend((given[0].dtype, result[0].dtype if isinstance(result, tuple) else result.dtype))

    for module in (*scnn.convs, scnn.hidden):
        hook = module.register_forward_hook(look)
        with torch.no_grad():
            scnn.step_votes(x)
        hook.remove()
    assert set(types) == {torch.float32}
    assert len(types) == 6
    seen.types.clear()
    scnn.step_votes(x)[0].sum().backward()
    scnn.train()
    with torch.no_grad():
        scnn.step_votes(x)
        scnn.eval()
        with torch.autocast(device, torch.bfloat16):
            scnn.step_votes(x)
    assert not seen.types
    assert kernels.selected(device) == "cupy"
