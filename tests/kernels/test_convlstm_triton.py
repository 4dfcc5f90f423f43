"""The ConvLSTM's Triton kernels against plain torch: in Triton's interpreter, and on a GPU where there is one.

The interpreter has to be chosen before Triton is imported: `test_in_the_interpreter` runs this file in a process of its
own with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsnn import kernels
from rsnn.kernels import convlstm as convlstm_torch
from rsnn.kernels import convlstm_triton
from rsnn.kernels.convlstm import convlstm_step

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


def reference(from_input, w_hidden, hidden, cell):
    """Run the recurrence one operation at a time."""
    _, N, _, H, W = from_input.shape
    hidden = from_input.new_zeros(N, w_hidden.shape[1], H, W) if hidden is None else hidden
    cell = w_hidden.new_zeros(hidden.shape) if cell is None else cell
    outputs = []
    for step in from_input.unbind(0):
        hidden, cell = convlstm_step(step + convlstm_torch._convolve(hidden, w_hidden.to(step.dtype)), cell)
        outputs.append(hidden)
    return torch.stack(outputs), hidden, cell


def run(recurrence, *tensors, weights=(1.0, 1.0, 1.0)):
    """Return the three results and the gradients of a loss of them, by all that is given."""
    tensors = [None if x is None else x.detach().clone().requires_grad_() for x in tensors]
    results = recurrence(*tensors)
    loss = 0
    for i, (result, weight) in enumerate(zip(results, weights, strict=True)):
        ramp = torch.linspace(-1, 1 + i, result.numel(), device=result.device).reshape(result.shape).to(result.dtype)
        loss = loss + weight * (ramp * result).sum() if weight else loss
    loss.backward()
    return dict(zip(("outputs", "hidden", "cell"), results, strict=True)) | {
        f"{name}.grad": x.grad for name, x in zip(("gates", "w", "h", "c"), tensors, strict=True) if x is not None
    }


def tensors(T, N, D, H, W, K=3, device="cpu", dtype=torch.float64, state=True, seed=3):
    def random(*shape, scale=1.0):
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(device, dtype)

    generator = torch.Generator().manual_seed(seed)
    shape = (N, D, H, W)
    given = (random(*shape, scale=0.5), random(*shape)) if state else (None, None)
    return random(T, N, 4 * D, H, W, scale=1.5), random(4 * D, D, K, K, scale=1 / K), *given


def assert_same(*tensors, tolerance=None, **options):
    expected, found = run(reference, *tensors, **options), run(convlstm_triton.convlstm, *tensors, **options)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert (found[name].shape, found[name].dtype) == (value.shape, value.dtype), name
        limits = {} if tolerance is None else {"rtol": tolerance, "atol": tolerance * value.abs().max().item()}
        torch.testing.assert_close(found[name], value, **limits, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("convolve", ["in the kernel", "by PyTorch"])
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 1, 1), (3, 2, 3, 5, 6), (1, 2, 4, 7, 3), (2, 1, 2, 16, 17), (5, 3, 1, 1, 9)],
    ids=str,
)
@pytest.mark.parametrize("state", [True, False], ids=["with a state", "fresh"])
def test_results_and_gradients_agree(device, shape, state, convolve, monkeypatch):
    if convolve == "by PyTorch":
        monkeypatch.setattr(convlstm_triton, "CHANNELS_TO_CONVOLVE", 0)
    assert_same(*tensors(*shape, device=device, state=state))


@pytest.mark.parametrize("convolve", ["in the kernel", "by PyTorch"])
@pytest.mark.parametrize("K", [1, 2, 4, 5])
def test_other_kernel_sizes(device, K, convolve, monkeypatch):
    if convolve == "by PyTorch":
        monkeypatch.setattr(convlstm_triton, "CHANNELS_TO_CONVOLVE", 0)
    assert_same(*tensors(3, 2, 2, 6, 5, K=K, device=device))


@given(
    T=st.integers(1, 3),
    N=st.integers(1, 2),
    D=st.integers(1, 2),
    H=st.integers(1, 4),
    W=st.integers(1, 4),
    K=st.integers(1, 3),
    block=st.sampled_from([8, 256]),
    channels=st.sampled_from([0, 16]),
    seed=st.integers(0, 99),
)
@settings(max_examples=6)
def test_any_shape_agrees(device, T, N, D, H, W, K, block, channels, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convlstm_triton, "BLOCK", block)
        patch.setattr(convlstm_triton, "CHANNELS_TO_CONVOLVE", channels)
        assert_same(*tensors(T, N, D, H, W, K, device=device, seed=seed))


@pytest.mark.parametrize("weights", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 2, 1)], ids=str)
@pytest.mark.parametrize("channels", [0, 16])
def test_gradients_of_some_results_alone(device, weights, channels, monkeypatch):
    monkeypatch.setattr(convlstm_triton, "CHANNELS_TO_CONVOLVE", channels)
    assert_same(*tensors(2, 1, 2, 4, 5, device=device), weights=weights)


def test_gradcheck(device):
    inputs = [x.requires_grad_() for x in tensors(2, 1, 1, 2, 2, device=device)]
    assert torch.autograd.gradcheck(convlstm_triton.convlstm, inputs)


def test_single_precision(device):
    assert_same(*tensors(4, 1, 2, 5, 4, device=device, dtype=torch.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels", [0, 16])
def test_half_precision_gates_with_a_float32_cell(device, dtype, channels, monkeypatch):
    monkeypatch.setattr(convlstm_triton, "CHANNELS_TO_CONVOLVE", channels)
    gates, w, hidden, cell = tensors(4, 1, 2, 6, 7, device=device, dtype=torch.float32)
    assert_same(gates.to(dtype), w, hidden.to(dtype), cell, tolerance=0.05)
    # Nearer to exact arithmetic than the reference is: only what is stored is rounded.
    exact = run(reference, gates.to(dtype).double(), w.double(), hidden.to(dtype).double(), cell.double())
    errors = []
    for recurrence in (reference, convlstm_triton.convlstm):
        found = run(recurrence, gates.to(dtype), w, hidden.to(dtype), cell)
        errors.append((found["cell"] - exact["cell"]).abs().mean())
    assert errors[1] < errors[0]


def test_other_layouts_are_the_same_numbers(device):
    gates, w, hidden, cell = tensors(2, 2, 2, 5, 4, device=device)
    expected = convlstm_triton.convlstm(gates, w, hidden, cell)
    last = torch.channels_last
    found = convlstm_triton.convlstm(
        gates.flatten(0, 1).to(memory_format=last).unflatten(0, (2, 2)),
        w.to(memory_format=last),
        hidden.to(memory_format=last),
        cell.mT.contiguous().mT,
    )
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)


def test_chunks_hand_over_the_state(device):
    gates, w, hidden, cell = tensors(4, 1, 2, 5, 4, device=device)
    whole = convlstm_triton.convlstm(gates, w, hidden, cell)
    first = convlstm_triton.convlstm(gates[:2], w, hidden, cell)
    second = convlstm_triton.convlstm(gates[2:], w, first[1], first[2])
    torch.testing.assert_close(torch.cat((first[0], second[0])), whole[0], rtol=0, atol=0)
    for one, other in zip(second[1:], whole[1:], strict=True):
        assert torch.equal(one, other)


def test_nothing_given_is_written_to_or_returned(device):
    given = tensors(2, 2, 2, 5, 4, device=device)
    before = [x.clone() for x in given]
    run(convlstm_triton.convlstm, *given)
    with torch.no_grad():
        outputs, hidden, _ = convlstm_triton.convlstm(*given)
    for one, other in zip(given, before, strict=True):
        assert torch.equal(one, other)
    assert hidden.untyped_storage().data_ptr() != outputs.untyped_storage().data_ptr()


def test_only_the_gradients_that_are_asked_for(device):
    gates, w, hidden, cell = tensors(2, 2, 2, 5, 4, device=device)
    assert not convlstm_triton.convlstm(gates, w, hidden, cell)[0].requires_grad
    convlstm_triton.convlstm(gates, w.requires_grad_(), hidden, cell)[0].sum().backward()
    assert w.grad is not None
    assert gates.grad is None


@pytest.mark.filterwarnings("ignore:overflow")  # NumPy's, of an infinity on the way to a sigmoid of 0
def test_large_values_are_no_trouble(device):
    gates, w, hidden, cell = tensors(2, 1, 2, 3, 3, device=device, dtype=torch.float32)
    assert_same(gates * 1e4, w, hidden, cell)


def test_no_samples(device):
    gates, w, hidden, cell = tensors(2, 0, 2, 3, 3, device=device)
    assert run(convlstm_triton.convlstm, gates, w, hidden, cell)["w.grad"].abs().sum() == 0


def test_operator_checks(device):
    """PyTorch's own checks of a custom operator: schema, autograd registration, fake tensors against real ones."""
    gates, w, hidden, cell = tensors(2, 2, 2, 3, 4, device=device)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(convlstm_triton._convlstm, (gates.requires_grad_(), w, None, None, True), test_utils=tests)
    torch.library.opcheck(convlstm_triton._convlstm, (gates.detach(), w, hidden, cell, False), test_utils=tests)


def test_the_self_test_passes_and_notices_wrong_arithmetic(device, monkeypatch):
    convlstm_triton._self_test(device)
    monkeypatch.setattr(convlstm_triton, "_convolve_back", lambda gradient, _: torch.zeros_like(gradient[:, ::4]))
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
    from rsnn.kernels.convlstm_triton_kernels import step_backward, step_forward

    compiled = functools.partial(triton.compile, target=GPUTarget("cuda", architecture, 32))
    for value, state in (("fp32", "fp32"), ("bf16", "fp32"), ("fp16", "fp32"), ("fp64", "fp64")):
        for hidden in (0, 1, 2):
            of_state = {"weight", "cell", "cell_after", "cell_grad"}
            for kernel, flag in ((step_forward, "KEEP"), (step_backward, "OUTPUT")):
                constants = {"D": 4, "K": 3, "BLOCK": 256, "HIDDEN": hidden, flag: hidden != 1}
                types = {name: f"*{state if name in of_state else value}" for name in kernel.arg_names}
                types |= {"H": "i32", "W": "i32"} | dict.fromkeys(constants, "constexpr")
                result = compiled(ASTSource(kernel, types, constants))
                assert ".local" not in result.asm["ptx"], "registers spill"
