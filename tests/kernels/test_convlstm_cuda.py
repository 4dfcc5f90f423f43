"""The CUDA kernel of a ConvLSTM's steps, against the same in single operations of torch."""

from __future__ import annotations

import importlib

import cuda_on_host
import pytest
import torch
from test_lif_cuda import CPU, GPU
from torch.nn import functional as F

from rsnn.kernels import convlstm_cupy, convlstm_triton, cuda, gpu
from rsnn.kernels.convlstm import _convolve, _steps

LAYER_ONE, LAYER_TWO = {"C": 2, "D": 4}, {"C": 4, "D": 6}
convlstm_module = importlib.import_module("rsnn.kernels.convlstm")


@pytest.fixture(params=[CPU, GPU])
def device(request, monkeypatch):
    gpu.works.cache_clear()
    if request.param == "cpu":
        monkeypatch.setattr(cuda, "_compiled", cuda_on_host.compiled)
    with torch.no_grad():
        yield request.param
    gpu.works.cache_clear()


def case(T=3, N=2, C=2, D=4, H=8, W=8, start=True, bias=True):
    torch.manual_seed(0)
    weights = (0.3 * torch.randn(4 * D, C, 3, 3), 0.3 * torch.randn(4 * D, D, 3, 3))
    state = (torch.randn(N, D, H, W).tanh(), torch.randn(N, D, H, W)) if start else (None, None)
    return torch.randn(T, N, C, H, W), *weights, torch.randn(4 * D) if bias else None, *state


def reference(frames, w_input, w_hidden, bias, hidden, cell, pool):
    from_input = _convolve(frames.flatten(0, 1), w_input, bias).unflatten(0, frames.shape[:2])
    features, hidden, cell = _steps(from_input, w_hidden, hidden, cell)
    return F.max_pool2d(features.flatten(0, 1), pool).unflatten(0, features.shape[:2]), hidden, cell


def run(device, inputs, pool, **options):
    return convlstm_cupy.convlstm(*(None if x is None else x.to(device) for x in inputs), pool, **options)


def check(expected, found, most):
    for one, other in zip(expected, found, strict=True):
        assert one.shape == other.shape
        assert float((one - other.cpu().float()).abs().max()) < most


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize(
    "size",
    [
        LAYER_ONE,
        LAYER_TWO | {"start": False},
        LAYER_ONE | {"T": 1, "H": 16, "W": 24, "start": False, "bias": False},
        LAYER_TWO | {"T": 5, "H": 4, "W": 32, "bias": False},
        {"C": 1, "D": 5, "H": 2, "W": 38},
        {"C": 3, "D": 1, "N": 1, "H": 6, "W": 2},
    ],
    ids=str,
)
def test_sequence(device, size, pool):
    inputs = case(**size)
    given = [None if x is None else x.clone() for x in inputs]
    found = run(device, inputs, pool)
    check(reference(*inputs, pool), found, 5e-3)
    assert all(one is None or torch.equal(one, other) for one, other in zip(given, inputs, strict=True))
    assert {x.dtype for x in found} == {torch.float32}


@pytest.mark.parametrize("size", [LAYER_ONE, LAYER_TWO], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_types(device, size, dtype):
    frames, w_input, w_hidden, bias, hidden, cell = case(**size)
    frames, hidden = frames.to(dtype), hidden.to(dtype)
    expected = reference(frames.float(), w_input, w_hidden, bias, hidden.float(), cell, 2)
    found = run(device, (frames, w_input, w_hidden, bias, hidden, cell), 2)
    check(expected, found, 3e-2)
    assert [x.dtype for x in found] == [dtype, dtype, torch.float32]


def test_numbers_that_are_not_finite_or_large(device):
    inputs = case()
    inputs[0][0, 0, 0, 0, 0] = float("nan")
    inputs[0][0, 1] *= 1e4
    expected, found = reference(*inputs, 2), run(device, inputs, 2)
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one.isnan(), other.isnan().cpu())
        assert 0 < one.isnan().sum() < one.numel()
        assert torch.allclose(one[1:2].nan_to_num(), other[1:2].cpu().nan_to_num(), atol=2e-2)


def test_in_two_parts_and_from_memory_in_any_order(device):
    frames, *others = case(T=4)
    whole = run(device, (frames, *others), 2)
    turned = frames.contiguous(memory_format=torch.preserve_format).transpose(3, 4).contiguous().transpose(3, 4)
    first, *state = run(device, (turned[:2], *others), 2)
    second, *state = run(device, (turned[2:], *others[:3], *state), 2)
    assert torch.equal(torch.cat((first, second)), whole[0])
    assert all(map(torch.equal, state, whole[1:]))


def test_what_it_takes(device, monkeypatch):
    frames, w_input, w_hidden, bias, _, _ = (None if x is None else x.to(device) for x in case())

    def takes(frames=frames, w_input=w_input, w_hidden=w_hidden, bias=bias, pool=2, dtype=torch.float32):
        return convlstm_cupy.supports(frames, w_input, w_hidden, bias, pool, dtype)

    assert takes()
    assert takes(pool=1, bias=None)
    assert takes(dtype=torch.bfloat16)
    assert not takes(frames[..., :7])
    assert not takes(frames[:, :0])
    assert not takes(pool=3)
    assert not takes(frames.double(), w_input.double(), w_hidden.double(), bias.double(), dtype=torch.float64)
    assert not takes(w_input=w_input[..., :1, :1], w_hidden=w_hidden[..., :1, :1])
    assert not takes(w_hidden=w_hidden.repeat(2, 2, 1, 1))
    assert not takes(frames.repeat(1, 1, 3, 1, 1), w_input.repeat(1, 3, 1, 1))
    with torch.enable_grad():
        assert not takes()
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert not takes()
    assert takes(dtype=torch.bfloat16)


def test_a_kernel_with_wrong_results_is_left_out(device, monkeypatch):
    right = cuda.source
    monkeypatch.setattr(cuda, "source", lambda file: right(file).replace("(x - 1) *", "(x + 1) *"))
    compiled = cuda_on_host.compiled if device == "cpu" else cuda._compiled
    monkeypatch.setattr(cuda, "_compiled", compiled.__wrapped__)
    with pytest.warns(UserWarning, match="left out: its results are not those of the torch kernel"):
        assert not convlstm_cupy._works(torch.device(device))


@pytest.mark.parametrize("pool", [1, 2])
def test_it_is_chosen_without_gradients(device, monkeypatch, pool):
    names = {"convlstm": "triton", "lif": "cupy"}
    monkeypatch.setattr(convlstm_module, "selected", lambda _, operator="lif": names[operator])
    calls = []
    kernel = convlstm_cupy.convlstm
    inputs = [None if x is None else x.to(device) for x in case()]
    assert convlstm_cupy._works(inputs[0].device)
    monkeypatch.setattr(convlstm_cupy, "convlstm", lambda *a, **k: calls.append(1) or kernel(*a, **k))
    found = convlstm_module.convlstm(*inputs, pool=pool)
    check(reference(*case(), pool), found, 5e-3)
    with torch.autocast(device, torch.bfloat16):
        reduced = convlstm_module.convlstm(*inputs, pool=pool)
    check([x.cpu().float() for x in found], reduced, 3e-2)
    assert [x.dtype for x in reduced] == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert len(calls) == 2
    names["lif"] = "torch"
    monkeypatch.setattr(convlstm_triton, "supports", lambda *_: True)
    monkeypatch.setattr(convlstm_triton, "convlstm", lambda *_, **__: "triton")
    assert convlstm_module.convlstm(*inputs, pool=pool) == "triton"
    names["lif"] = "cupy"
    with torch.enable_grad():
        assert convlstm_module.convlstm(*inputs, pool=pool) == "triton"
    assert len(calls) == 2
