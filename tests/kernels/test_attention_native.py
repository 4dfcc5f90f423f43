"""Attention in C++ against PyTorch's: outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rsnn import kernels
from rsnn.kernels import attention_native, native
from rsnn.kernels.attention import attention

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))

# Batch, heads, positions, channels of queries and keys, of values.
CASES = [(3, 1, 37, 2, 2), (2, 2, 64, 3, 5), (1, 1, 1, 2, 2), (1, 3, 130, 16, 1), (5, 1, 16, 2, 2)]


@pytest.fixture(autouse=True, params=[1, 3], ids=["1 thread", "3 threads"])
def _threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def with_gradients(function, sizes, dtype, gain=3.0):
    B, heads, L, d_k, d_v = sizes
    torch.manual_seed(0)
    tensors = [torch.randn(B, heads, L, d, dtype=dtype, requires_grad=True) for d in (d_k, d_k, d_v)]
    query, key, value = tensors
    out = function(gain * query, gain * key, value)
    return [out, *torch.autograd.grad(out, tensors, torch.randn_like(out))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sizes", CASES, ids=str)
def test_the_same_as_pytorch(sizes, dtype):
    ours = with_gradients(attention_native.attention, sizes, dtype)
    theirs = with_gradients(F.scaled_dot_product_attention, sizes, dtype)
    tolerance = 1e-10 if dtype == torch.float64 else 3e-5
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, atol=tolerance, rtol=tolerance)


def test_scores_beyond_what_exp_can_hold():
    """Two keys far apart: the softmax is hard, and nothing overflows."""
    query = torch.tensor([[[[1e4]]]]).expand(1, 1, 2, 1)
    key = torch.tensor([[[[1.0], [-1.0]]]])
    value = torch.tensor([[[[5.0], [7.0]]]])
    assert attention_native.attention(query, key, value).flatten().tolist() == [5.0, 5.0]


def test_derivatives_by_finite_differences():
    tensors = [torch.randn(1, 2, 5, d, dtype=torch.float64, requires_grad=True) for d in (2, 2, 3)]
    assert torch.autograd.gradcheck(attention_native.attention, tensors)


def test_tensors_that_are_not_contiguous():
    base = torch.randn(2, 9, 1, 6)
    query, key, value = (part.transpose(1, 2) for part in base.split(2, dim=3))
    expected = F.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(attention_native.attention(query, key, value), expected)


def test_what_it_does_not_take_goes_to_pytorch():
    few, many, half = torch.randn(1, 1, 4, 2), torch.randn(1, 1, 4, 17), torch.randn(1, 1, 4, 2, dtype=torch.bfloat16)
    assert attention_native.supports(few, few, few)
    for tensor in (many, half):
        assert not attention_native.supports(tensor, tensor, tensor)
        assert attention(tensor, tensor, tensor).dtype == tensor.dtype
    with kernels.use("torch"):
        assert kernels.selected("cpu", "attention") == "torch"


def test_compiled_code_calls_it_as_one_node():
    tensors = [torch.randn(2, 1, 20, 2) for _ in range(3)]
    compiled = torch.compile(attention, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*tensors), attention(*tensors))
