"""The CUDA kernels of LIF between a normalization and a pooling, against the same in single operations of torch."""

from __future__ import annotations

import copy
from itertools import product

import cuda_on_host
import pytest
import torch
from test_lif_cuda import CPU, GPU
from torch.nn import functional as F

from rsnn import kernels
from rsnn.kernels import ATan, Exponential, Rectangle, Sigmoid, cuda, lif_torch, norm_lif_cupy
from rsnn.kernels.layout import channels_last
from rsnn.nn import LIF, SCNN
from rsnn.nn.stages import SpikingConv

NEURON = {"tau": 2.0, "v_threshold": 1.0, "v_reset": 0.0, "surrogate": ATan(), "detach_reset": True}


@pytest.fixture(params=[CPU, GPU])
def device(request, monkeypatch):
    if request.param == "cpu":
        monkeypatch.setattr(cuda, "_compiled", cuda_on_host.compiled)
    return request.param


@pytest.fixture
def chosen(device, monkeypatch):
    """The device, with these kernels the chosen ones on the CPU too."""
    if device == "cpu":
        monkeypatch.setattr("rsnn.kernels.selected", lambda *_: "cupy")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return device


def case(*size, dtype=torch.float64, start=True, seed=0):
    """Return x, weight, bias, and the potential before the first step."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    state = torch.promote_types(dtype, torch.float32)
    _, _, C, _, _ = size
    x, v = (2 * noise(*size) + 0.7).to(dtype), noise(*size[1:]).to(state) if start else None
    return x, (0.5 + noise(C).abs()).to(state), (0.3 * noise(C)).to(state), v


def moments_of(C, state):
    generator = torch.Generator().manual_seed(9)
    mean = 0.1 * torch.randn(C, generator=generator, dtype=torch.float64)
    return mean.to(state), (torch.rand(C, generator=generator, dtype=torch.float64) + 3).to(state)


def reference(x, v, norm, *, batch_statistics, eps, pool, **neuron):
    """Compute in single operations, in the types of `norm`'s weight."""
    weight, bias, mean, variance = norm
    normal = F.batch_norm(x.to(weight.dtype).flatten(0, 1), mean, variance, weight, bias, batch_statistics, 0.0, eps)
    normal = normal.unflatten(0, x.shape[:2])
    v = torch.full_like(normal[0], neuron["v_reset"] or 0.0) if v is None else v
    spikes, v = lif_torch.lif(normal, v, **neuron)
    return (F.max_pool2d(spikes.flatten(0, 1), pool).unflatten(0, spikes.shape[:2]) if pool > 1 else spikes), v


def results(run, device, x, weight, bias, v, *, batch=True, pool=2, outputs=(0, 1), **neuron):
    """Return spikes, potential and the gradients of a random loss of both by x, weight, bias and v."""
    options = {"batch_statistics": batch, "eps": 1e-5, "pool": pool, **NEURON, **neuron}
    inputs = [None if y is None else y.to(device).requires_grad_() for y in (x, weight, bias, v)]
    x, weight, bias, v = inputs
    moments = (None, None) if batch else [y.to(device) for y in moments_of(weight.numel(), weight.dtype)]
    found = run(x, v, (weight, bias, *moments), **options)[:2]
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(device, y.dtype) for y in found]
    inputs = [y for y in inputs if y is not None]
    gradients = torch.autograd.grad([found[i] for i in outputs], inputs, [weights[i] for i in outputs])
    return [y.detach().cpu() for y in (*found, *gradients)]


def assert_same(device, *inputs, tolerance=1e-10, **options):
    expected, found = (
        results(run, at, *inputs, **options) for run, at in ((reference, "cpu"), (norm_lif_cupy.norm_lif, device))
    )
    assert 0.02 < expected[0].mean() < 0.98
    for one, other in zip(expected, found, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize("batch", [True, False], ids=["batch statistics", "running statistics"])
@pytest.mark.parametrize("size", [(4, 2, 8, 6, 6), (3, 1, 20, 7, 9), (20, 3, 3, 5, 8)], ids=str)
def test_values_and_gradients(device, size, batch, pool):
    assert_same(device, *case(*size), batch=batch, pool=pool)
    assert_same(device, *case(*size, start=False), batch=batch, pool=pool)


@pytest.mark.parametrize(
    ("surrogate", "v_reset", "detach_reset"),
    [
        *product([ATan(), Sigmoid()], [0.0, -0.3, None], [True, False]),
        (Rectangle(0.7), 0.0, True),
        (Exponential(3.0, 0.5), None, False),
    ],
    ids=str,
)
def test_neurons(device, surrogate, v_reset, detach_reset):
    neuron = {"surrogate": surrogate, "v_reset": v_reset, "detach_reset": detach_reset, "v_threshold": 0.8, "tau": 1.7}
    assert_same(device, *case(6, 2, 3, 5, 4), **neuron)
    assert_same(device, *case(6, 2, 3, 5, 4, start=False), **neuron)


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_types(device, dtype, batch):
    """A potential within rounding of the threshold may fire in one and not in the other: few do."""
    inputs = case(20, 2, 8, 6, 7, dtype=dtype)
    expected = results(reference, "cpu", *inputs, batch=batch)
    found = results(norm_lif_cupy.norm_lif, device, *inputs, batch=batch)
    assert found[0].dtype == found[2].dtype == dtype
    assert (found[0].to(expected[0].dtype) == expected[0]).double().mean() > 0.998
    for one, other in zip(expected[1:], found[1:], strict=True):
        distance = (other.double() - one.double()).norm() / one.double().norm()
        assert distance < (1e-4 if dtype == torch.float32 else 0.01)


@pytest.mark.parametrize("channels", [5, 6, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_threads_that_have_several_channels(device, channels, dtype, monkeypatch):
    inputs = case(3, 2, channels, 4, 6, dtype=dtype)
    expected = results(norm_lif_cupy.norm_lif, device, *inputs, batch=False)
    monkeypatch.setattr(cuda, "THREADS_TO_FILL", 1)
    x = inputs[0]
    odd = torch.zeros(x.numel() + 1, dtype=dtype)[1:].view(3, 2, 4, 6, channels).permute(0, 1, 4, 2, 3).copy_(x)
    for y in (x, odd):  # the second is not aligned
        found = results(norm_lif_cupy.norm_lif, device, y, *inputs[1:], batch=False)
        for one, other in zip(expected, found, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("steps", [1, 6, 7, 11])
@pytest.mark.parametrize("chunk", [4, 12, 100])
def test_backward_in_chunks_of_steps(device, steps, chunk, monkeypatch):
    monkeypatch.setattr(norm_lif_cupy, "CHUNK", chunk)
    monkeypatch.setattr(norm_lif_cupy, "POOLED_BYTES_AHEAD", 16 * chunk)
    assert_same(device, *case(steps, 2, 3, 4, 5))


def test_pieces_that_share_threads(device, monkeypatch):
    for name in ("SUMS_THREADS", "MOMENTS_THREADS"):
        monkeypatch.setattr(norm_lif_cupy, name, 7)
    assert_same(device, *case(3, 5, 3, 9, 11))
    assert_same(device, *case(3, 2, 150, 3, 4))


@pytest.mark.parametrize("outputs", [(0,), (1,)], ids=["spikes", "potential"])
def test_gradients_of_one_output_alone(device, outputs):
    x, weight, bias, v = case(4, 2, 3, 4, 4)
    assert_same(device, x, weight, bias, v, outputs=outputs)


def test_only_the_gradients_that_are_asked_for(device):
    x, weight, bias, v = (y.to(device) for y in case(4, 2, 3, 4, 4))
    options = {**NEURON, "eps": 1e-5, "pool": 2}
    moments = tuple(y.to(device) for y in moments_of(3, torch.float64))
    assert not norm_lif_cupy.norm_lif(x, v, (weight, bias, *moments), **options)[0].requires_grad
    expected = results(reference, "cpu", *(y.cpu() for y in (x, weight, bias, v)), batch=False, outputs=(0,))
    found = norm_lif_cupy.norm_lif(x.requires_grad_(), v, (weight, bias, *moments), **options)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(found[0].shape, generator=generator, dtype=torch.float64).to(device)
    (gradient,) = torch.autograd.grad(found[0], x, weights)
    torch.testing.assert_close(gradient.cpu(), expected[2])
    no_affine = norm_lif_cupy.norm_lif(x, None, (None, None, *moments), **options)
    ones = norm_lif_cupy.norm_lif(x, None, (torch.ones_like(bias), torch.zeros_like(bias), *moments), **options)
    assert torch.equal(no_affine[0], ones[0])
    torch.autograd.grad(no_affine[0].sum(), x)


def test_moments_of_channels_far_from_zero(device):
    x = case(5, 3, 6, 7, 8)[0]
    x = (x * torch.logspace(-2, 2, 6)[:, None, None] + 300 * torch.arange(6)[:, None, None]).float()
    norm = (None, None, None, None)
    _, _, mean, variance = norm_lif_cupy.norm_lif(x.to(device), None, norm, batch_statistics=True, eps=1e-5, **NEURON)
    expected = torch.var_mean(x.double(), (0, 1, 3, 4), correction=0)
    torch.testing.assert_close(mean.cpu().double(), expected[1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(variance.cpu().double(), expected[0], rtol=1e-5, atol=0)


def test_operator_checks(device):
    """PyTorch's own checks of a custom operator: schema, autograd registration, fake tensors against real ones."""
    x, weight, bias, v = (y.to(device).requires_grad_() for y in case(3, 2, 4, 5, 6))
    x = channels_last(x.detach()).requires_grad_()
    moments = tuple(y.to(device) for y in moments_of(4, torch.float64))
    constants = (2.0, 1.0, 0.0, False, 0, 2.0, 1.0, True, 1e-5)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    for arguments in (
        (x, v, weight, bias, None, None, *constants, 2, True),
        (x, None, None, None, *moments, *constants, 1, True),
        (x.detach(), None, weight.detach(), bias.detach(), *moments, *constants, 2, False),
    ):
        torch.library.opcheck(norm_lif_cupy._norm_lif, arguments, test_utils=tests)


def test_no_sample_at_all(device):
    x, weight, bias, _ = (
        None if y is None else y.to(device).requires_grad_() for y in case(3, 0, 4, 5, 6, start=False)
    )
    moments = tuple(y.to(device) for y in moments_of(4, torch.float64))
    spikes, v, *_ = norm_lif_cupy.norm_lif(x, None, (weight, bias, *moments), pool=2, eps=1e-5, **NEURON)
    assert (spikes.shape, v.shape) == ((3, 0, 4, 2, 3), (0, 4, 5, 6))
    gradients = torch.autograd.grad(spikes.sum() + v.sum(), (x, weight, bias))
    assert [gradient.count_nonzero() for gradient in gradients] == [0, 0, 0]


def test_what_it_does_not_take():
    assert norm_lif_cupy.supports_norm((2, 3, 4, 4), 2.0, 4)
    assert not norm_lif_cupy.supports_norm((2, 3, 4, 4), 2.0, 5)
    assert not norm_lif_cupy.supports_norm((2, 3, 4, 4), torch.tensor(2.0), 2)
    assert not norm_lif_cupy.supports_norm((1 << 10, 1 << 10, 32, 32), 2.0, 2)


def stages(channels=6, out=16, pool=2, **options):
    torch.manual_seed(0)
    stage = SpikingConv(channels, out, pool, LIF(**options))
    with torch.no_grad():
        stage.conv.weight.mul_(3)
        stage.norm.running_mean.normal_()
        stage.norm.running_var.uniform_(0.5, 2)
        stage.norm.bias.normal_(std=0.3)
    return stage, copy.deepcopy(stage)


def run_stage(stage, x, kernel=None):
    """Return spikes, potential and all gradients of a stage, in the chosen kernels or in `kernel`."""
    x = x.detach().clone().requires_grad_()
    with kernels.use(*([kernel] if kernel else ["auto"])):
        spikes, potential = stage(x, None)
    weights = torch.linspace(-1, 1, spikes.numel(), dtype=torch.float64).reshape(spikes.shape).to(spikes)
    loss = (spikes * weights).sum() + potential.square().mean()
    return [spikes, potential, *torch.autograd.grad(loss, (x, *stage.parameters()))]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_stage(chosen, training, momentum):
    mine, plain = (stage.train(training) for stage in stages())
    mine.to(chosen)
    mine.norm.momentum = plain.norm.momentum = momentum
    x = torch.randn(5, 2, 6, 7, 8)
    spikes, potential, *gradients = run_stage(mine, x.to(chosen))
    single = plain.lif(plain.norm(plain.conv(x.flatten(0, 1))).unflatten(0, (5, 2)))
    expected = F.max_pool2d(single[0].flatten(0, 1), 2).unflatten(0, (5, 2))
    assert (spikes.cpu() == expected).double().mean() > 0.999
    torch.testing.assert_close(potential.cpu(), single[1], rtol=1e-4, atol=1e-4)
    assert all(gradient is not None for gradient in gradients)
    assert channels_last(spikes) is spikes
    for one, other in zip(plain.norm.buffers(), mine.norm.buffers(), strict=True):
        torch.testing.assert_close(other.cpu(), one, rtol=1e-4, atol=1e-5)


def test_a_stage_in_double(chosen, monkeypatch):
    mine, plain = (stage.double() for stage in stages(channels=3, out=5))
    x = torch.randn(4, 2, 3, 6, 6, dtype=torch.float64)
    found = run_stage(mine.to(chosen), x.to(chosen))
    monkeypatch.setattr("rsnn.kernels.selected", lambda *_: "torch")
    for one, other in zip(run_stage(plain, x), found, strict=True):
        torch.testing.assert_close(other.cpu(), one, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("learn_tau", [False, True])
def test_a_stage_under_autocast(chosen, learn_tau, monkeypatch):
    """Six channels, which are filled up to eight."""
    mine, plain = (stage.eval() for stage in stages(learn_tau=learn_tau))
    x = torch.randn(5, 2, 6, 8, 8)
    with torch.autocast(chosen, torch.bfloat16):
        found = run_stage(mine.to(chosen), x.to(chosen))
    monkeypatch.setattr("rsnn.kernels.selected", lambda *_: "torch")
    expected = run_stage(plain, x)
    assert (found[0].dtype, found[1].dtype) == (torch.bfloat16, torch.float32)
    assert (found[0].cpu() == expected[0]).double().mean() > 0.97
    for one, other in zip(expected[2:], found[2:], strict=True):
        assert (other.cpu() - one).norm() / one.norm() < (0.3 if one.ndim else 0.5)


def test_a_stage_tells_how_many_spikes_were_pooled(chosen):
    stage = stages()[0].eval().to(chosen)
    x, number = torch.randn(4, 2, 6, 7, 9, device=chosen), torch.tensor(10, device=chosen)
    with torch.no_grad():
        spikes, potential = stage(x, None, number=number)
        again, after = stage(x, None)
        stage.pool = 1
        unpooled, _ = stage(x, None)
    assert number == 10 + unpooled.count_nonzero() > 20
    assert torch.equal(spikes, again)
    assert torch.equal(potential, after)


def test_a_stage_goes_on_from_a_potential(chosen):
    stage = stages()[0].eval().to(chosen)
    x = torch.randn(6, 2, 6, 7, 8, device=chosen)
    with torch.no_grad():
        whole, after = stage(x, None)
        first, between = stage(x[:2], None)
        second, end = stage(x[2:], between.contiguous())
    assert torch.equal(torch.cat((first, second)), whole)
    assert torch.equal(end, after)


def test_hooks_and_foreign_parts_get_the_single_operations(chosen):
    stage = stages()[0].to(chosen).eval()
    x = torch.randn(3, 2, 6, 6, 6, device=chosen)
    expected, potential = stage(x, None)
    seen = []
    for part in (stage.conv, stage.norm, stage.lif):
        part.register_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    spikes, again = stage(x, None)
    assert seen == ["Conv2d", "BatchNorm2d", "LIF"]
    torch.testing.assert_close(spikes, expected)
    torch.testing.assert_close(again, potential, rtol=1e-4, atol=1e-5)
    large_pool = SpikingConv(6, 4, 5, LIF()).to(chosen)
    assert large_pool(x, None)[0].shape == (3, 2, 4, 1, 1)


@pytest.mark.parametrize("training", [True, False])
def test_a_whole_network(chosen, training, monkeypatch):
    torch.manual_seed(0)
    mine = SCNN(6, 5, (9, 8), pools=(2, 1, 2), channels=16).double().train(training)
    plain = copy.deepcopy(mine)
    features = 4 * torch.randn(4, 3, 6, 9, 8, dtype=torch.float64)
    votes, potentials = mine.to(chosen).step_votes(features.to(chosen))
    monkeypatch.setattr("rsnn.kernels.selected", lambda *_: "torch")
    expected, expected_potentials = plain.step_votes(features)
    torch.testing.assert_close(votes.cpu(), expected)
    for one, other in zip(expected_potentials, potentials, strict=True):
        torch.testing.assert_close(other.cpu(), one)


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_compiled_by_torch_without_graph_breaks(chosen, training):
    stage = stages()[0].to(chosen).train(training)
    x = torch.randn(3, 2, 6, 6, 6, device=chosen).requires_grad_()
    state = copy.deepcopy(stage.state_dict())
    expected = stage(x, None)
    (expected_gradient,) = torch.autograd.grad(expected[0].sum() + expected[1].sum(), x)
    stage.load_state_dict(state)
    found = torch.compile(stage, fullgraph=True, backend="aot_eager")(x, None)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other)
    (gradient,) = torch.autograd.grad(found[0].sum() + found[1].sum(), x)
    torch.testing.assert_close(gradient, expected_gradient)
