"""The ConvLSTM's Triton kernels against plain torch: in Triton's interpreter, and on a GPU where there is one.

The interpreter has to be chosen before Triton is imported: `test_in_the_interpreter` runs this file in a process of its
own with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from rsnn import kernels
from rsnn.kernels import convlstm_triton, convlstm_triton_gates
from rsnn.kernels.convlstm import _convolve, _steps

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_TRITON = importlib.util.find_spec("triton") is not None

CPU = pytest.param("cpu", marks=pytest.mark.skipif(not INTERPRETED, reason="runs in test_in_the_interpreter"))
GPU = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif("triton" not in kernels.available(), reason="the Triton kernel cannot run"),
    ],
)


@pytest.fixture(params=[CPU, GPU])
def device(request):
    return request.param


@pytest.fixture(autouse=True)
def _no_tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED or not HAS_TRITON, reason="is that process, or there is no Triton")
def test_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    ran = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
    assert "passed" in ran.stdout


def reference(frames, w_input, w_hidden, bias, hidden, cell, pool=1):
    """Run the layer one operation at a time."""
    from_input = _convolve(frames.flatten(0, 1), w_input, bias).unflatten(0, frames.shape[:2])
    features, hidden, cell = _steps(from_input, w_hidden, hidden, cell)
    return F.max_pool2d(features.flatten(0, 1), pool).unflatten(0, features.shape[:2]), hidden, cell


def gates(frames, w_input, w_hidden, bias, hidden, cell, pool=1):
    """Run the layer with the kernels for many channels."""
    from_input = _convolve(frames.flatten(0, 1), w_input, bias).unflatten(0, frames.shape[:2])
    features, hidden, cell = convlstm_triton_gates.convlstm(from_input, w_hidden, hidden, cell)
    return F.max_pool2d(features.flatten(0, 1), pool).unflatten(0, features.shape[:2]), hidden, cell


windows = convlstm_triton.convlstm
BOTH = pytest.mark.parametrize("ours", [windows, gates], ids=["few channels", "many channels"])
NAMES = ("frames", "w_input", "w_hidden", "bias", "hidden", "cell")


def run(layer, *tensors, pool=1, weights=(1.0, 1.0, 1.0)):
    """Return the three results and the gradients of a loss of them, by all that is given."""
    tensors = [None if x is None else x.detach().clone().requires_grad_() for x in tensors]
    results = layer(*tensors, pool)
    loss = 0
    for i, (result, weight) in enumerate(zip(results, weights, strict=True)):
        ramp = torch.linspace(-1, 1 + i, result.numel(), device=result.device).reshape(result.shape).to(result.dtype)
        loss = loss + weight * (ramp * result).sum() if weight else loss
    loss.backward()
    return dict(zip(("features", "last", "after"), results, strict=True)) | {
        f"{name}.grad": x.grad for name, x in zip(NAMES, tensors, strict=True) if x is not None
    }


def tensors(T, N, C, D, H, W, K=3, device="cpu", dtype=None, state=True, bias=True, seed=3):
    """Return what a layer is given: in double precision in the interpreter, which has it, and single on a GPU."""
    dtype = dtype or (torch.float64 if device == "cpu" else torch.float32)

    def random(*shape, scale=1.0):
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(device, dtype)

    generator = torch.Generator().manual_seed(seed)
    shape = (N, D, H, W)
    given = (random(*shape, scale=0.5), random(*shape)) if state else (None, None)
    w_input, w_hidden = random(4 * D, C, K, K, scale=1.5 / K), random(4 * D, D, K, K, scale=1 / K)
    return random(T, N, C, H, W), w_input, w_hidden, random(4 * D) if bias else None, *given


def near(x):
    """Return the tolerance of rounding alone."""
    return {"rtol": 0, "atol": 1e-12} if x.dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}


def assert_same(ours, *tensors, tolerance=None, **options):
    expected, found = run(reference, *tensors, **options), run(ours, *tensors, **options)
    if tolerance is None and tensors[0].dtype == torch.float32:
        tolerance = 1e-4
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert (found[name].shape, found[name].dtype) == (value.shape, value.dtype), name
        limits = {} if tolerance is None else {"rtol": tolerance, "atol": tolerance * value.abs().max().item()}
        torch.testing.assert_close(found[name], value, **limits, msg=lambda text, name=name: f"{name}: {text}")


@BOTH
@pytest.mark.parametrize(
    ("shape", "pool", "state"),
    [
        ((1, 1, 1, 1, 1, 1), 1, False),
        ((3, 2, 2, 4, 6, 8), 2, False),
        ((2, 1, 4, 6, 5, 7), 2, True),
        ((2, 1, 1, 3, 7, 4), 1, True),
        ((2, 1, 3, 8, 4, 9), 3, False),
        ((3, 2, 1, 1, 2, 18), 2, True),
    ],
    ids=str,
)
def test_results_and_gradients_agree(device, ours, shape, pool, state):
    assert_same(ours, *tensors(*shape, device=device, state=state, bias=state), pool=pool)


@BOTH
@pytest.mark.parametrize("K", [1, 2, 4, 5])
def test_other_kernel_sizes(device, ours, K):
    assert_same(ours, *tensors(2, 1, 2, 2, 6, 5, K=K, device=device), pool=2)


@given(
    T=st.integers(1, 3),
    N=st.integers(1, 2),
    C=st.integers(1, 3),
    D=st.integers(1, 2),
    H=st.integers(2, 5),
    W=st.integers(2, 5),
    K=st.integers(1, 3),
    pool=st.integers(1, 2),
    block=st.sampled_from([16, 64]),
    chunk=st.sampled_from([16, 32]),
    seed=st.integers(0, 99),
)
@settings(max_examples=3)
def test_any_shape_agrees(device, T, N, C, D, H, W, K, pool, block, chunk, seed):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FORWARD", "BACKWARD"):
            patch.setattr(convlstm_triton, name, {16: (block, 4, None)})
        patch.setattr(convlstm_triton, "WEIGHTS_BLOCK", block)
        patch.setattr(convlstm_triton, "CHUNK", chunk)
        patch.setattr(convlstm_triton, "WEIGHTS_CHUNK", chunk)
        assert_same(windows, *tensors(T, N, C, D, H, W, K, device=device, seed=seed), pool=pool)


def test_many_windows_among_few_programs(device, monkeypatch):
    monkeypatch.setattr(convlstm_triton, "WEIGHTS_PROGRAMS", 3)
    monkeypatch.setattr(convlstm_triton, "WEIGHTS_BLOCK", 16)
    monkeypatch.setattr(convlstm_triton, "BACKWARD", {16: (16, 4, None)})
    assert_same(windows, *tensors(2, 3, 1, 2, 10, 14, device=device), pool=2)


def test_samples_in_groups(device, monkeypatch):
    given = tensors(3, 5, 1, 2, 4, 6, device=device)
    expected = windows(*given, 2)
    monkeypatch.setattr(convlstm_triton, "GROUP_BYTES", 2 * 3 * 2 * 4 * 6 * 8)  # of two samples
    for one, other in zip(expected, windows(*given, 2), strict=True):
        assert torch.equal(one, other)


@BOTH
@pytest.mark.parametrize("weights", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 2, 1)], ids=str)
def test_gradients_of_some_results_alone(device, ours, weights):
    assert_same(ours, *tensors(2, 1, 1, 2, 4, 5, device=device), weights=weights)


@BOTH
def test_single_precision(device, ours):
    given = tensors(4, 1, 2, 2, 5, 4, device=device, dtype=torch.float32)
    assert_same(ours, *given, pool=2, tolerance=3e-5)


def test_tf32(device, monkeypatch):
    given = tensors(4, 1, 2, 4, 8, 8, device=device, dtype=torch.float32)
    expected = run(reference, *given, pool=2)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    for name, value in run(windows, *given, pool=2).items():
        difference = (value - expected[name]).norm() / expected[name].norm()  # a gradient may go to another pixel
        assert difference < 0.05, name


def test_equal_maxima_send_the_gradient_to_the_first(device):
    frames, w_input, w_hidden, bias, *_ = tensors(2, 1, 1, 1, 4, 6, K=1, device=device, state=False)
    frames = torch.ones_like(frames)
    frames[0, 0, 0, 0, 0] = 5
    assert_same(windows, frames, w_input, w_hidden, bias, None, None, pool=2)


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # NumPy's
def test_not_a_number_is_passed_on(device):
    given = tensors(2, 1, 1, 2, 8, 8, device=device)
    given[0][0, 0, 0, 5, 4] = torch.nan
    for pool in (1, 2):
        expected, found = (layer(*given, pool) for layer in (reference, windows))
        for one, other in zip(expected, found, strict=True):
            assert one.isnan().any()
            assert not other.isnan().all()
            assert other[one.isnan()].isnan().all()  # and to the rest of a window
            torch.testing.assert_close(one[~other.isnan()], other[~other.isnan()], **near(one))


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_with_a_float32_cell(device, ours, dtype):
    given = tensors(4, 1, 2, 2, 6, 7, device=device, dtype=torch.float32)

    def mixed(layer):
        def under_autocast(*tensors):
            if layer is windows:
                return windows(*tensors, dtype=dtype)
            with torch.autocast(device, dtype):
                return layer(*tensors)

        return run(under_autocast, *given, pool=2)

    exact = run(reference, *(x.double() for x in given), pool=2)
    expected, found = mixed(reference), mixed(ours)
    for name, value in expected.items():
        assert (found[name].shape, found[name].dtype) == (value.shape, value.dtype), name
        assert (found[name] - exact[name]).norm() < 0.05 * exact[name].norm(), name
    # Nearer to exact arithmetic than the reference is: only what is stored is rounded.
    if ours is windows:
        errors = [(results["after"] - exact["after"]).abs().mean() for results in (expected, found)]
        assert errors[1] < errors[0]


@BOTH
def test_other_layouts_are_the_same_numbers(device, ours):
    given = tensors(2, 2, 2, 2, 5, 4, device=device)
    frames, w_input, w_hidden, bias, hidden, cell = given
    last = torch.channels_last
    found = ours(
        frames.flatten(0, 1).to(memory_format=last).unflatten(0, (2, 2)),
        w_input.to(memory_format=last),
        w_hidden.to(memory_format=last),
        bias.repeat_interleave(2)[::2],
        hidden.to(memory_format=last),
        cell.mT.contiguous().mT,
    )
    for one, other in zip(ours(*given), found, strict=True):
        torch.testing.assert_close(one, other, **near(one))


@BOTH
def test_chunks_hand_over_the_state(device, ours):
    frames, *weights, hidden, cell = tensors(4, 1, 2, 2, 5, 4, device=device)
    whole = ours(frames, *weights, hidden, cell)
    first = ours(frames[:2], *weights, hidden, cell)
    second = ours(frames[2:], *weights, *first[1:])
    torch.testing.assert_close(torch.cat((first[0], second[0])), whole[0], **near(whole[0]))
    for one, other in zip(second[1:], whole[1:], strict=True):
        torch.testing.assert_close(one, other, **near(one))


@BOTH
@pytest.mark.parametrize("size", [1, 2, 5])
def test_nothing_given_is_written_to_or_returned(device, ours, size):
    given = tensors(2, 2, 1, 2, size, size, device=device)
    before = [x.clone() for x in given]
    run(ours, *given)
    with torch.no_grad():
        results = ours(*given)
    for one, other in zip(given, before, strict=True):
        assert torch.equal(one, other)
    places = [x.untyped_storage().data_ptr() for x in (*results, *given)]
    assert len(set(places)) == len(places)


@BOTH
@pytest.mark.parametrize("index", range(6))
def test_only_the_gradients_that_are_asked_for(device, ours, index):
    given = tensors(2, 2, 1, 2, 5, 4, device=device)
    assert not ours(*given)[0].requires_grad
    given[index].requires_grad_()
    ours(*given)[0].sum().backward()
    assert [i for i, x in enumerate(given) if x.grad is not None] == [index]
    expected = run(reference, *given, weights=(1, 0, 0))
    assert given[index].grad.shape == expected[f"{NAMES[index]}.grad"].shape


@BOTH
@pytest.mark.filterwarnings("ignore:overflow")  # NumPy's, of an infinity on the way to a sigmoid of 0
def test_large_values_are_no_trouble(device, ours):
    frames, *others = tensors(2, 1, 1, 2, 3, 3, device=device, dtype=torch.float32)
    assert_same(ours, frames * 1e4, *others, tolerance=1e-4)


@BOTH
def test_no_samples(device, ours):
    grads = run(ours, *tensors(2, 0, 1, 2, 4, 4, device=device), pool=2)
    assert grads["w_input.grad"].abs().sum() == grads["w_hidden.grad"].abs().sum() == 0


def test_operator_checks(device):
    """PyTorch's own checks of a custom operator: schema, autograd registration, fake tensors against real ones."""
    frames, w_input, w_hidden, bias, hidden, cell = tensors(2, 2, 1, 2, 3, 4, device=device)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    for operator, arguments in (
        (convlstm_triton._convlstm, (frames.clone().requires_grad_(), w_input, w_hidden, bias, None, None, 2, True)),
        (convlstm_triton._convlstm, (frames, w_input, w_hidden, None, hidden, cell, 1, False)),
        (convlstm_triton_gates._convlstm, (tensors(2, 2, 8, 2, 3, 4, device=device)[0], w_hidden, None, None, True)),
    ):
        torch.library.opcheck(operator, arguments, test_utils=tests)
    T, N, D = 2, 2, 2
    kept = [torch.rand(T + 1, N, 4 * D, 2, 2, dtype=frames.dtype, device=device) for _ in range(2)]
    needed = [True, True, False, True, False, True]
    given = (torch.rand(T, N, D, 1, 2, dtype=frames.dtype, device=device), None, cell)
    given = (*given, frames, w_input, w_hidden, bias, *kept, 2, needed)
    torch.library.opcheck(convlstm_triton._convlstm_backward, given, test_utils=("test_schema", "test_faketensor"))


def test_what_is_supported():
    frames, w_input, w_hidden, bias, *_ = tensors(2, 2, 1, 2, 3, 4)
    single = [x.float() for x in (w_input, w_hidden, bias)]
    assert not convlstm_triton.supports(frames, w_input, w_hidden, bias, torch.float64)
    assert convlstm_triton.supports(frames.float(), *single, torch.bfloat16)
    assert convlstm_triton.supports(frames.half(), single[0], single[1], None, torch.float16)
    assert not convlstm_triton.supports(frames, *single, torch.float32)
    assert not convlstm_triton.supports(frames.int(), *single, torch.int32)
    assert not convlstm_triton.supports(frames.float(), *single[:2], bias, torch.float32)
    for C, D, K in ((17, 1, 3), (1, 9, 3), (1, 1, 6)):
        given = tensors(1, 1, C, D, 2, 2, K, dtype=torch.float32)
        assert not convlstm_triton.supports(*given[:4], torch.float32)


def test_the_self_test_passes_and_notices_wrong_arithmetic(device, monkeypatch):
    convlstm_triton._self_test(device)
    for module, name in ((convlstm_triton, "_gathered"), (convlstm_triton_gates, "_weight_grad")):
        right = getattr(module, name)
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda *given, right=right: 2 * right(*given))
            with pytest.raises(RuntimeError, match="its results are not those of the torch kernel"):
                convlstm_triton._self_test(device)


@pytest.mark.skipif(INTERPRETED or not HAS_TRITON, reason="needs Triton's compiler")
@pytest.mark.parametrize("architecture", [80, 90])
def test_compiles_for_gpus(architecture, tmp_path, monkeypatch):
    """Through Triton's compiler down to machine code, which needs no GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from rsnn.kernels import convlstm_triton_gates_kernels, convlstm_triton_kernels

    sizes = {"C": 1, "D": 2, "K": 3, "R": 16, "KX": 32, "KH": 32, "KB": 128, "ONES": 16, "CHANNELS": 1}
    sizes |= {"H": 64, "W": 64, "height": 32, "width": 32, "CHUNK": 32, "BLOCK": 64}
    flags = {"KEEP": True, "OUTPUT": True, "HIDDEN": True, "FEATURES": True, "LAST": False, "POOL": 2}
    of_state = {"weight", "bias", "weight_back", "cell", "cell_after", "cell_grad", "parts"}
    names = ("step_forward", "step_backward", "convolve_back", "weight_grads")
    few = [getattr(convlstm_triton_kernels, name) for name in names]
    many = [convlstm_triton_gates_kernels.gates_forward, convlstm_triton_gates_kernels.gates_backward]
    for value, state, precision in (
        ("fp32", "fp32", "tf32"), ("bf16", "fp32", "tf32"), ("fp32", "fp32", "tf32x3"), ("fp64", "fp64", None),
    ):  # fmt: skip
        for kernel in (*(few if precision else ()), *many):  # few channels not in double precision
            constants = sizes | flags | {"PRECISION": precision}
            constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
            types = {name: f"*{state if name in of_state else value}" for name in kernel.arg_names}
            types |= {name: "i32" for name in ("size", "samples", "programs") if name in types}
            types |= dict.fromkeys(constants, "constexpr")
            result = triton.compile(ASTSource(kernel, types, constants), target=GPUTarget("cuda", architecture, 32))
            assert ".local" not in result.asm["ptx"], "registers spill"
