"""Attention in C++ against PyTorch's: outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rsnn import kernels
from rsnn.errors import InputError
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


def with_gradients(function, sizes, dtype, gain=3.0, silent=0.0):
    """Outputs and gradients; this share of the positions has a query, key and value of zeros."""
    B, heads, L, d_k, d_v = sizes
    torch.manual_seed(0)
    tensors = [torch.randn(B, heads, L, d, dtype=dtype) for d in (d_k, d_k, d_v)]
    loud = torch.rand(B, heads, L, 1) >= silent
    tensors = [(tensor * loud).requires_grad_() for tensor in tensors]
    query, key, value = tensors
    out = function(gain * query, gain * key, value)
    return [out, *torch.autograd.grad(out, tensors, torch.randn_like(out))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("silent", [0.0, 0.7, 1.0], ids="{:.0%} silent".format)
@pytest.mark.parametrize("sizes", CASES, ids=str)
def test_the_same_as_pytorch(sizes, silent, dtype):
    ours = with_gradients(attention_native.attention, sizes, dtype, silent=silent)
    theirs = with_gradients(F.scaled_dot_product_attention, sizes, dtype, silent=silent)
    tolerance = 1e-10 if dtype == torch.float64 else 3e-5
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_rounded_at_the_ends_alone(dtype):
    tensors = [torch.randn(2, 1, 37, 2, dtype=dtype, requires_grad=True) for _ in range(3)]
    assert attention_native.supports(*tensors)
    out = attention(*tensors)
    exact = attention_native.attention(*(tensor.float() for tensor in tensors))
    assert torch.equal(out, exact.to(dtype))
    assert [x.dtype for x in torch.autograd.grad(out.sum(), tensors)] == [dtype] * 3


def test_scores_beyond_what_exp_can_hold():
    """Two keys far apart: the softmax is hard, and nothing overflows."""
    query = torch.tensor([[[[1e4]]]]).expand(1, 1, 2, 1)
    key = torch.tensor([[[[1.0], [-1.0]]]])
    value = torch.tensor([[[[5.0], [7.0]]]])
    assert attention_native.attention(query, key, value).flatten().tolist() == [5.0, 5.0]


def test_two_silent_keys_are_worth_two():
    """Scores of 0, 0 and ln 2: the loud key has half of the weight."""
    loud = torch.tensor([0.0, 0.0, 1.0])[None, None, :, None]
    out = attention_native.attention(loud, 0.6931471805599453 * loud, 8 * loud)
    torch.testing.assert_close(out.flatten(), torch.tensor([8 / 3, 8 / 3, 4.0]))


def test_a_part_of_zeros_is_not_silent():
    """Only positions whose query, key and value are all zeros are."""
    query, key, value = torch.randn(3, 1, 1, 6, 2)
    query[..., :2, :] = key[..., 1:4, :] = value[..., 3:, :] = 0
    expected = F.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(attention_native.attention(query, key, value), expected)


def test_derivatives_by_finite_differences():
    tensors = [torch.randn(1, 2, 5, d, dtype=torch.float64, requires_grad=True) for d in (2, 2, 3)]
    assert torch.autograd.gradcheck(attention_native.attention, tensors)


def test_a_silent_position_has_the_gradients_of_a_nearly_silent_one():
    """(Finite differences would make it loud for one of the two.)"""
    gradients = []
    for loudness in (0.0, 1e-9):
        torch.manual_seed(1)
        tensors = [torch.randn(1, 1, 7, d, dtype=torch.float64) for d in (2, 2, 3)]
        for tensor in tensors:
            tensor[..., 2:5, :] *= loudness
            tensor.requires_grad_()
        out = attention_native.attention(*tensors)
        gradients.append(torch.autograd.grad(out, tensors, torch.randn_like(out)))
    for silent, nearly in zip(*gradients, strict=True):
        torch.testing.assert_close(silent, nearly, atol=1e-7, rtol=0)


def test_tensors_that_are_not_contiguous():
    base = torch.randn(2, 9, 1, 6)
    query, key, value = (part.transpose(1, 2) for part in base.split(2, dim=3))
    expected = F.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(attention_native.attention(query, key, value), expected)


def test_what_it_does_not_take_goes_to_pytorch():
    few, many = torch.randn(1, 1, 4, 2), torch.randn(1, 1, 4, 17)
    assert attention_native.supports(few, few, few)
    assert not attention_native.supports(few, few, few.double())
    assert not attention_native.supports(many, many, many)
    assert attention(many, many, many).dtype == many.dtype
    with kernels.use("torch"):
        assert kernels.selected("cpu", "attention") == "torch"


def test_compiled_code_calls_it_as_one_node():
    tensors = [torch.randn(2, 1, 20, 2) for _ in range(3)]
    compiled = torch.compile(attention, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*tensors), attention(*tensors))


@pytest.mark.skipif(not native.has("attention"), reason="there is no compiler")
def test_second_derivatives_are_refused():
    """They would be zero."""
    query, key, value = (torch.rand(1, 1, 6, 2, requires_grad=True) for _ in range(3))
    (first,) = torch.autograd.grad((attention(query, key, value) ** 3).sum(), query, create_graph=True)
    with pytest.raises(InputError, match="no derivatives of gradients"):
        first.square().sum().backward()
