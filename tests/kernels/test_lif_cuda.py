"""The CUDA kernels of the LIF sequence against plain torch: compiled for the CPU, and on a GPU where there is one."""

from __future__ import annotations

import contextlib
import sys
from itertools import product
from types import SimpleNamespace

import cuda_on_host
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsnn import kernels
from rsnn.kernels import ATan, Exponential, Rectangle, Sigmoid, cuda, lif_cupy, lif_torch

CPU = pytest.param(
    "cpu", marks=pytest.mark.skipif(cuda_on_host.COMPILER is None, reason="no C++ compiler (g++ or clang++)")
)
GPU = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif("cupy" not in kernels.available(), reason="the CuPy kernel cannot run")],
)
SETTINGS = {"tau": 2.0, "v_threshold": 1.0, "v_reset": 0.0, "surrogate": ATan(), "detach_reset": True}
NEURONS = [
    *product([ATan(), ATan(3.5), Sigmoid(), Sigmoid(1.5)], [0.0, -0.5, 0.25, None], [True, False]),
    *product([Rectangle(0.7), Exponential(3.0, 0.5)], [0.0, None], [False]),
]


@pytest.fixture(params=[CPU, GPU])
def device(request, monkeypatch):
    if request.param == "cpu":
        monkeypatch.setattr(cuda, "_compiled", cuda_on_host.compiled)
    return request.param


def run(lif, x, v, **options):
    """Return spikes, potential and the gradients of a loss of both, by x, v and tau where it is a tensor."""
    x, v = x.detach().clone(memory_format=torch.preserve_format).requires_grad_(), v.detach().clone().requires_grad_()
    options = SETTINGS | options
    if isinstance(options["tau"], torch.Tensor):
        options["tau"] = options["tau"].detach().clone().requires_grad_()
    spikes, after = lif(x, v, **options)
    weights = torch.linspace(-1, 1, spikes.numel(), device=x.device).reshape(spikes.shape).to(spikes.dtype)
    ((spikes * weights).sum() + (after * after).sum()).backward()
    result = {"spikes": spikes.detach(), "v": after.detach(), "x.grad": x.grad, "v.grad": v.grad}
    return result | ({"tau.grad": options["tau"].grad} if isinstance(options["tau"], torch.Tensor) else {})


def reference(x, v, **options):
    """Run the torch kernel on the CPU, in float32 (float64 where `x` is), with results in `x`'s type as in `lif`."""
    state = torch.promote_types(x.dtype, torch.float32)

    def lif(x, v, **options):
        spikes, v = lif_torch.lif(x.to(state), v, **options)
        return spikes.to(x.dtype), v

    if isinstance(options.get("tau"), torch.Tensor):
        options["tau"] = options["tau"].cpu()
    return run(lif, x.cpu(), v.cpu(), **options)


def assert_same(x, v, **options):
    expected, found = reference(x, v, **options), run(lif_cupy.lif, x, v, **options)
    assert expected.keys() == found.keys()
    assert torch.equal(found["spikes"].cpu(), expected["spikes"])
    assert torch.equal(found["v"].cpu(), expected["v"])
    for name, value in expected.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape), name
        torch.testing.assert_close(found[name].cpu(), value, msg=lambda text, name=name: f"{name}: {text}")


def current(*shape, device="cpu", dtype=torch.float32, seed=5):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 + 0.5
    return x.to(device, dtype)


@pytest.mark.parametrize(("surrogate", "v_reset", "detach_reset"), NEURONS, ids=str)
def test_spikes_potential_and_gradients_agree(device, surrogate, v_reset, detach_reset):
    x, v = current(12, 3, 4, 2, device=device), current(3, 4, 2, device=device, seed=6)
    spikes = lif_cupy.lif(x, v, **SETTINGS)[0]
    assert 0.1 < spikes.mean() < 0.9
    assert_same(x, v, tau=2.5, surrogate=surrogate, v_reset=v_reset, detach_reset=detach_reset)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("v_reset", [0.0, None])
def test_types(device, dtype, v_reset):
    x = current(6, 2, 5, device=device, dtype=dtype)
    v = torch.zeros(2, 5, dtype=torch.promote_types(dtype, torch.float32), device=device)
    spikes, after = lif_cupy.lif(x, v, **SETTINGS)
    assert (spikes.dtype, after.dtype) == (dtype, v.dtype)
    assert_same(x, v, tau=1.7, v_reset=v_reset)


@given(
    steps=st.integers(1, 6),
    shape=st.lists(st.integers(1, 5), max_size=4),
    tau=st.floats(1.1, 10),
    v_threshold=st.floats(0.3, 2),
    v_reset=st.sampled_from([0.0, -0.5, None]),
    seed=st.integers(0, 999),
)
@settings(max_examples=40)
def test_any_shape_agrees(device, steps, shape, tau, v_threshold, v_reset, seed):
    x, v = current(steps, *shape, device=device, seed=seed), current(*shape, device=device, seed=seed + 1)
    assert_same(x, v, tau=tau, v_threshold=v_threshold, v_reset=v_reset)


@pytest.mark.parametrize("neurons", [256, 1000, 1028, 1030, 1031])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_threads_that_share_and_threads_that_do_not(device, neurons, dtype, monkeypatch):
    monkeypatch.setattr(cuda, "THREADS_TO_FILL", 128)
    x = current(3, neurons, device=device, dtype=dtype)
    v = torch.zeros(neurons, dtype=torch.promote_types(dtype, torch.float32), device=device)
    assert_same(x, v)
    whole = torch.zeros(3 * neurons + 1, dtype=dtype, device=device)
    apart = whole[1:].unflatten(0, (3, neurons))  # no longer aligned to 16 bytes
    apart.copy_(x)
    for alone, shared in zip(lif_cupy.lif(apart, v, **SETTINGS), lif_cupy.lif(x, v, **SETTINGS), strict=True):
        assert torch.equal(alone, shared)


def layouts():
    yield "every other step", lambda x: x.repeat_interleave(2, 0)[::2]
    yield "every other neuron", lambda x: x.repeat_interleave(2, -1)[..., ::2]
    yield "neurons first", lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0)
    yield "channels last", lambda x: x.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, x.shape[:2])
    yield "transposed neurons", lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2)
    yield "one step for all", lambda x: x[:1].expand_as(x)
    yield "backwards", lambda x: x.flip(0)


@pytest.mark.parametrize("layout", [pytest.param(layout, id=name) for name, layout in layouts()])
def test_any_layout(device, layout):
    x, v = layout(current(5, 2, 3, 4, 6, device=device)), current(2, 3, 4, 6, device=device, seed=7)
    assert_same(x, v)
    assert_same(x, v.transpose(-1, -2).contiguous().transpose(-1, -2))
    assert_same(x.contiguous(), layout(v[None].expand_as(x))[0])


def test_dense_layouts_are_not_copied(device):
    x = (
        current(5 * 2, 3, 4, 6, device=device)
        .to(memory_format=torch.channels_last)
        .unflatten(0, (5, 2))
        .requires_grad_()
    )
    spikes, v = lif_cupy.lif(x, torch.zeros(2, 3, 4, 6, device=device), **SETTINGS)
    assert spikes.stride() == x.stride()
    assert v.stride() == x.stride()[1:]
    (gradient,) = torch.autograd.grad(spikes.sum(), x)
    assert gradient.stride() == x.stride()


@pytest.mark.parametrize("learned", [1.3, 2.0, 5.5])
@pytest.mark.parametrize("v_reset", [0.0, -0.4, None])
def test_a_learned_time_constant(device, learned, v_reset):
    x, v = current(8, 2, 5, device=device), current(2, 5, device=device, seed=8)
    tau = torch.tensor(learned, device=device)
    assert_same(x, v, tau=tau, v_reset=v_reset)
    assert_same(x, v, tau=tau[None], v_reset=v_reset)
    assert run(lif_cupy.lif, x, v, tau=tau, v_reset=v_reset)["tau.grad"].abs() > 1e-3


@pytest.mark.parametrize("v_reset", [0.0, -0.4, None])
@pytest.mark.parametrize("tau", [2.5, torch.tensor(2.5)])
def test_no_potential_is_one_at_rest(device, v_reset, tau):
    x = current(5, 6, device=device).requires_grad_()
    tau = tau.clone().to(device).requires_grad_() if isinstance(tau, torch.Tensor) else tau
    found = []
    for v in (None, torch.full((6,), v_reset or 0.0, device=device)):
        spikes, after = lif_cupy.lif(x, v, **SETTINGS | {"tau": tau, "v_reset": v_reset})
        inputs = [y for y in (x, tau) if isinstance(y, torch.Tensor)]
        found.append([spikes, after, *torch.autograd.grad(spikes.sum() + after.sum(), inputs)])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("part", ["spikes", "potential"])
def test_gradients_of_one_output_alone(device, part):
    gradients = []
    for lif in (lif_torch.lif, lif_cupy.lif):
        x, v = current(4, 6, device=device).requires_grad_(), current(6, device=device, seed=9).requires_grad_()
        spikes, after = lif(x, v, **SETTINGS)
        gradients.append(torch.autograd.grad((spikes if part == "spikes" else after).sum(), (x, v)))
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


def test_only_the_gradients_that_are_asked_for(device):
    x, v = current(4, 6, device=device), current(6, device=device, seed=9)
    assert not lif_cupy.lif(x, v, **SETTINGS)[0].requires_grad
    spikes, after = lif_cupy.lif(x.requires_grad_(), v, **SETTINGS)
    (spikes.sum() + after.sum()).backward()
    assert x.grad is not None
    with torch.no_grad():
        assert not lif_cupy.lif(x, v, **SETTINGS)[0].requires_grad


def test_inputs_stay_as_they_were(device):
    x, v = current(4, 6, device=device), current(6, device=device, seed=9)
    before = x.clone(), v.clone()
    run(lif_cupy.lif, x, v)
    assert torch.equal(x, before[0])
    assert torch.equal(v, before[1])


def test_no_neuron_at_all(device):
    x = torch.zeros(3, 0, 4, device=device, requires_grad=True)
    spikes, v = lif_cupy.lif(x, torch.zeros(0, 4, device=device), **SETTINGS)
    assert (spikes.shape, v.shape) == ((3, 0, 4), (0, 4))
    (spikes.sum() + v.sum()).backward()
    assert x.grad.shape == x.shape


def test_not_a_number_stays_where_it_came_in(device):
    x = current(4, 6, device=device)
    x[1, 2] = torch.nan
    expected, found = reference(x, torch.zeros(6)), run(lif_cupy.lif, x, torch.zeros(6, device=device))
    for name, value in expected.items():
        torch.testing.assert_close(found[name].cpu(), value, equal_nan=True)


def test_operator_checks(device):
    """PyTorch's own checks of a custom operator: schema, autograd registration, fake tensors against real ones."""
    x, v = current(3, 2, 3, 4, 4, device=device).requires_grad_(), torch.zeros(2, 3, 4, 4, device=device)
    x_last = x.detach().flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, (3, 2)).requires_grad_()
    tau = torch.tensor(2.5, device=device, requires_grad=True)
    constants = (2.0, 1.0, 0.0, False, 0, 2.0, 1.0, True)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    for arguments in ((x, v, None), (x_last, v, tau)):
        torch.library.opcheck(lif_cupy._lif, (*arguments, *constants, True), test_utils=tests)
    torch.library.opcheck(lif_cupy._lif, (x.detach(), v, None, *constants, False), test_utils=tests)


@pytest.mark.slow
def test_compiled_by_torch_without_graph_breaks(device, monkeypatch):
    if device == "cpu":  # where the choice would be the plain loop
        monkeypatch.setattr("rsnn.kernels.selected", lambda *_: "cupy")

    def network(x, v):
        spikes, v = kernels.lif(x * 2, v)
        return spikes + 1, v

    x, v = current(4, 3, 5, device=device).requires_grad_(), current(3, 5, device=device)
    expected = network(x, v)
    found = torch.compile(network, fullgraph=True, backend="aot_eager")(x, v)
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)
    (expected,) = torch.autograd.grad(expected[0].sum(), x)
    torch.testing.assert_close(torch.autograd.grad(found[0].sum(), x)[0], expected)


def test_the_self_test_passes_and_notices_wrong_arithmetic(device, monkeypatch):
    lif_cupy._self_test(device)
    right = cuda.source
    assert "x * (1 / tau);" in right("lif.cu")
    monkeypatch.setattr(cuda, "source", lambda file: right(file).replace("x * (1 / tau);", "x * tau;"))
    compiled = cuda_on_host.compiled if device == "cpu" else cuda._compiled
    monkeypatch.setattr(cuda, "_compiled", compiled.__wrapped__)
    with pytest.raises(RuntimeError, match="its results are not those of the torch kernel"):
        lif_cupy._self_test(device)


class FakeKernel:
    def __init__(self, calls):
        self.__dict__["calls"] = calls

    def __setattr__(self, name, value):
        self.calls.append((name, value))

    def __call__(self, *launch, shared_mem):
        self.calls.append(("launch", *launch, shared_mem))


class FakeCuPy:
    """Writes down what is asked of CuPy."""

    def __init__(self, before_14):
        self.calls = []
        stream = {"ExternalStream": lambda pointer, device: self.context("stream", pointer, device)}
        if not before_14:
            stream["Stream"] = SimpleNamespace(from_external=lambda of: self.context("stream", *of.__cuda_stream__()))
        self.cuda = SimpleNamespace(
            **{"Stream": object, "Device": lambda index: self.context("device", index)} | stream
        )

    def RawKernel(self, code, name, options):
        self.calls.append(("compile", code, name, options))
        return FakeKernel(self.calls)

    @contextlib.contextmanager
    def context(self, *what):
        self.calls.append(("enter", *what))
        yield
        self.calls.append(("leave", *what))


@pytest.mark.parametrize("shared", [0, 100 << 10])
@pytest.mark.parametrize("before_14", [True, False])
def test_cupy_launches_on_the_device_and_stream_that_torch_is_on(monkeypatch, before_14, shared):
    cupy = FakeCuPy(before_14)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=1000 + device.index))
    launch = cuda._compiled.__wrapped__("lif.cu", "lif_forward", ("-DINPUT=0",), 256, shared)
    launch(5, [1, 2.0], torch.device("cuda", 3))
    stream = ("stream", 1003, 3) if before_14 else ("stream", 0, 1003)
    assert cupy.calls == [
        ("compile", cuda.source("lif.cu"), "lif_forward", ("-std=c++17", "-DINPUT=0")),
        ("enter", "device", 3),
        ("enter", *stream),
        *([("max_dynamic_shared_size_bytes", shared)] if shared else []),
        ("launch", (5,), (256,), (1, 2.0), shared),
        ("leave", *stream),
        ("leave", "device", 3),
    ]
