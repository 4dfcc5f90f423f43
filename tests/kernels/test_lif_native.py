"""LIF in C++ with what stands around it: normalization and pooling, against the same in single operations of torch."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch.nn import functional as F

from rsnn import kernels
from rsnn.kernels import ATan, Exponential, Rectangle, Sigmoid, lif, lif_native, native
from rsnn.kernels.layout import channels_last
from rsnn.nn import LIF
from rsnn.nn.stages import SpikingConv

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))


def results(kernel, x, v, tau, **options):
    """Return spikes, potential and all gradients for random gradients of both."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    v = None if v is None else v.clone().requires_grad_()
    tau = tau.clone().requires_grad_() if isinstance(tau, torch.Tensor) else tau
    with kernels.use(kernel):
        spikes, after = lif(x, v, tau=tau, **options)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype) for y in (spikes, after)]
    inputs = [y for y in (x, v, tau) if isinstance(y, torch.Tensor)]
    return [spikes, after, *torch.autograd.grad((spikes, after), inputs, weights)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("surrogate", [ATan(), Sigmoid(), Rectangle(), Exponential(3.0, 0.7)], ids=str)
@pytest.mark.parametrize(("v_reset", "detach_reset"), list(product([0.0, -0.3, None], [True, False])))
def test_neurons(dtype, surrogate, v_reset, detach_reset):
    torch.manual_seed(0)
    options = {"v_threshold": 0.8, "v_reset": v_reset, "surrogate": surrogate, "detach_reset": detach_reset}
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for shape in ((7, 5), (3, 2, 3, 4, 5), (4, 700), (5, 3, 64)):  # the last in whole vectors
        x, v = 2 * torch.randn(shape, dtype=dtype), torch.randn(shape[1:], dtype=dtype)
        for start, tau in product((v, None), (1.7, 2.0, torch.tensor(1.7, dtype=dtype))):
            plain, ours = (results(kernel, x, start, tau, **options) for kernel in ("torch", "native"))
            assert torch.equal(ours[0], plain[0])
            for mine, expected in zip(ours, plain, strict=True):
                torch.testing.assert_close(mine, expected, rtol=tolerance, atol=tolerance * 10)


def test_layouts():
    torch.manual_seed(0)
    x = 2 * torch.randn(4, 2, 3, 5, 6)
    v = torch.randn(2, 3, 5, 6)
    expected = results("torch", x, v, 2.0)
    last = channels_last(x)
    assert not last.is_contiguous()
    gaps = torch.randn(4, 2, 3, 5, 12)[..., ::2].copy_(x)
    for other in (last, gaps, x.transpose(0, 1).contiguous().transpose(0, 1)):
        ours = results("native", other, v, 2.0)
        for mine, wanted in zip(ours, expected, strict=True):
            torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-6)
    with kernels.use("native"):
        assert lif(last)[0].stride() == last.stride()


def test_bfloat16_in_and_out_float32_between():
    torch.manual_seed(0)
    x = (2 * torch.randn(30, 2, 50)).bfloat16()
    plain, ours = (results(kernel, x, None, 2.0) for kernel in ("torch", "native"))
    assert (ours[0].dtype, ours[1].dtype) == (torch.bfloat16, torch.float32)
    for mine, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-2, atol=1e-2)
    assert torch.equal(ours[0], plain[0])


@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize("batch", [True, False], ids=["batch statistics", "running statistics"])
@pytest.mark.parametrize("size", [(4, 2, 8, 6, 6), (3, 1, 20, 7, 9), (20, 3, 3, 5, 8), (9, 2, 80, 4, 6)], ids=str)
def test_with_normalization_and_pooling(size, batch, pool):
    torch.manual_seed(0)
    T, N, C, H, W = size
    x = 2 * torch.randn(size, dtype=torch.float64) + 0.7
    parameters = [torch.rand(C) + 0.5, 0.3 * torch.randn(C)]
    mean, variance = 0.1 * torch.randn(C).double(), torch.rand(C).double() + 0.5
    options = {"v_threshold": 1.0, "v_reset": 0.0, "surrogate": ATan(), "detach_reset": True}
    for start in (None, torch.randn(N, C, H, W, dtype=torch.float64)):
        found = []
        for ours in (True, False):
            inputs = [x, *(p.double() for p in parameters)] + ([] if start is None else [start])
            inputs = [y.clone().requires_grad_() for y in inputs]
            current, weight, bias, v = (*inputs, None)[:4]
            if ours:
                moments = (None, None) if batch else (mean, variance)
                current = channels_last(current)
                spikes, after, used, _ = lif_native.norm_lif(
                    current,
                    v,
                    (weight, bias, *moments),
                    tau=2.0,
                    **options,
                    batch_statistics=batch,
                    eps=1e-5,
                    pool=pool,
                )
                expected = x.mean((0, 1, 3, 4)) if batch else mean
                torch.testing.assert_close(used, expected)
            else:
                normal = F.batch_norm(current.flatten(0, 1), mean.clone(), variance.clone(), weight, bias, batch)
                with kernels.use("torch"):
                    spikes, after = lif(normal.unflatten(0, (T, N)), v, tau=2.0, **options)
                if pool > 1:
                    spikes = F.max_pool2d(spikes.flatten(0, 1), pool).unflatten(0, (T, N))
            generator = torch.Generator().manual_seed(1)
            weights = [torch.randn(y.shape, generator=generator, dtype=torch.float64) for y in (spikes, after)]
            found.append([spikes, after, *torch.autograd.grad((spikes, after), inputs, weights)])
        for mine, expected in zip(*found, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_stage_keeps_the_books_of_its_normalization(momentum):
    torch.manual_seed(0)
    x = torch.randn(3, 2, 4, 6, 6)
    stages = []
    for kernel in ("torch", "native"):
        torch.manual_seed(1)
        stage = SpikingConv(4, 8, 2, LIF())
        stage.norm.momentum = momentum
        with kernels.use(kernel):
            stage(x, None)
            stage(2 * x + 1, None)
        stages.append(stage.norm)
    assert stages[0].num_batches_tracked == stages[1].num_batches_tracked == 2
    torch.testing.assert_close(stages[1].running_mean, stages[0].running_mean)
    torch.testing.assert_close(stages[1].running_var, stages[0].running_var)


def test_hooks_and_foreign_parts_get_the_single_operations():
    torch.manual_seed(0)
    stage = SpikingConv(4, 8, 2, LIF())
    x = 3 * torch.randn(3, 2, 4, 6, 6)
    with kernels.use("native"):
        expected, potential = stage(x, None)
        seen = []
        for part in (stage.conv, stage.norm, stage.lif):
            part.register_forward_hook(lambda module, *_: seen.append(type(module).__name__))
        spikes, again = stage(x, None)
        assert seen == ["Conv2d", "BatchNorm2d", "LIF"]
        torch.testing.assert_close(spikes, expected)
        torch.testing.assert_close(again, potential, rtol=1e-4, atol=1e-5)
        assert len(seen) == 3
        stage = SpikingConv(4, 8, 2, LIF()).eval()
        for part in (stage.conv, stage.norm, stage.lif):
            part.forward = lambda *inputs, part=part: (seen.append(part), type(part).forward(part, *inputs))[1]
        stage(x, None)
        assert seen[3:] == [stage.conv, stage.norm, stage.lif]
        other = SpikingConv(4, 8, 2, LIF())
        other.norm = torch.nn.GroupNorm(2, 8)
        other.conv = torch.nn.Conv2d(4, 8, 3, padding=1, stride=2)
        assert other(x, None)[0].shape == (3, 2, 8, 1, 1)


class Doubled(torch.nn.Module):
    """A convolution in a wrapper that says nothing of it."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return 2 * self.conv(x)


class Sign(torch.nn.Module):
    """Neurons of a user's that remember nothing."""

    def forward(self, x, state=None):
        return (x > 0).to(x.dtype), x[-1]


@pytest.mark.parametrize("training", [True, False])
def test_foreign_parts_give_the_same_with_every_kernel(training):
    x = 3 * torch.randn(3, 2, 4, 6, 6)
    for name, wrap in (("conv", Doubled), ("lif", lambda _: Sign())):
        stage = SpikingConv(4, 8, 2, LIF()).train(training)
        setattr(stage, name, wrap(getattr(stage, name)))
        found = []
        for kernel in ("native", "torch"):
            with kernels.use(kernel), torch.no_grad():
                found.append(stage(x, None)[0])
        assert found[0].any()
        assert torch.equal(*found)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("conv", torch.nn.Conv2d(5, 8, 3, padding=1, bias=False)),
        ("conv", torch.nn.Conv2d(4, 16, 3, padding=1, bias=False)),
        ("norm", torch.nn.BatchNorm2d(4)),
    ],
    ids=str,
)
def test_parts_of_other_channels_are_an_error(name, part, training):
    stage = SpikingConv(4, 8, 2, LIF())
    setattr(stage, name, part)
    stage.train(training)
    with kernels.use("native"), torch.no_grad(), pytest.raises(RuntimeError, match=r"channels|elements"):
        stage(torch.randn(3, 2, 4, 6, 6), None)
