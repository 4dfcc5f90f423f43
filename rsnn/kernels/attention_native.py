"""Attention with heads of few channels on the CPU in C++ (`csrc/attention.cpp`), forward and backward.

PyTorch's fused attention works in blocks of matrix products, which a head of two channels leaves nearly empty.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import torch
from torch import Tensor

from rsnn.kernels import native
from rsnn.kernels.watched import sees_no_steps

MOST_CHANNELS = 16  # of a head; with more the matrix products of PyTorch's own are worth it

_NAMES = {torch.float32: "float32", torch.float64: "float64"}
_HALVES = (torch.float16, torch.bfloat16)  # computed in float32, as PyTorch's own does


def supports(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Tell whether this kernel takes these tensors (B, heads, L, D)."""
    few = max(query.shape[-1], value.shape[-1]) <= MOST_CHANNELS
    alike = query.shape == key.shape and query.dtype == key.dtype == value.dtype
    taken = few and alike and query.dtype in (*_NAMES, *_HALVES) and sees_no_steps(query, "attention")
    return taken and native.has("attention")


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(Q K^T / sqrt(d_k)) V; shapes as in [`rsnn.kernels.attention`][]."""
    if query.dtype in _HALVES:
        return attention(query.float(), key.float(), value.float()).to(query.dtype)
    return torch.ops.rsnn.attention(query, key, value)[0]


def _run(name: str, query: Tensor, value: Tensor, tensors: tuple[Tensor, ...]) -> None:
    *batch, length, d_k = query.shape
    function = getattr(native.library("attention"), f"attention_{name}_{_NAMES[query.dtype]}")
    sizes = (ctypes.c_int * 4)(math.prod(batch), length, d_k, value.shape[-1])
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in tensors]
    if function(sizes, torch.get_num_threads(), ctypes.c_double(d_k**-0.5), *pointers):
        raise MemoryError("the attention kernel found no memory")


def _outputs(query: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    return query.new_empty(value.shape), query.new_empty(query.shape[:-1])


def _forward(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    inputs = [x.contiguous() for x in (query, key, value)]
    outputs = _outputs(query, value)
    _run("forward", query, value, (*inputs, *outputs))
    return outputs


def _backward(
    query: Tensor, key: Tensor, value: Tensor, out: Tensor, log_sums: Tensor, d_out: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = [x.contiguous() for x in (query, key, value, out, log_sums, d_out)]
    gradients = _gradients(query, key, value)
    _run("backward", query, value, (*inputs, *gradients))
    return gradients


def _gradients(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


_library = torch.library.Library("rsnn", "FRAGMENT")
_library.define("attention(Tensor query, Tensor key, Tensor value) -> (Tensor, Tensor)")
_library.define(
    "attention_backward(Tensor query, Tensor key, Tensor value, Tensor out, Tensor log_sums, Tensor d_out) "
    "-> (Tensor, Tensor, Tensor)"
)
_library.impl("attention", _forward, "CPU")
_library.impl("attention_backward", _backward, "CPU")


@torch.library.register_fake("rsnn::attention", lib=_library)  # type: ignore[untyped-decorator]
def _fake_forward(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return _outputs(query, value)


@torch.library.register_fake("rsnn::attention_backward", lib=_library)  # type: ignore[untyped-decorator]
def _fake_backward(query: Tensor, key: Tensor, value: Tensor, *others: Any) -> tuple[Tensor, ...]:  # noqa: ARG001
    return _gradients(query, key, value)


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.mark_non_differentiable(output[1])


def _backward_of(ctx: Any, d_out: Tensor, _: Tensor) -> tuple[Tensor, ...]:
    return torch.ops.rsnn.attention_backward(*ctx.saved_tensors, d_out)


torch.library.register_autograd("rsnn::attention", _backward_of, setup_context=_setup_context, lib=_library)
torch.library.register_autograd("rsnn::attention_backward", native.no_second_derivatives, lib=_library)
