"""Convolution of spikes on the CPU in C++ (`csrc/sparse.cpp`): only what is not zero is multiplied and added."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rsnn.kernels import native
from rsnn.kernels.watched import sees_no_steps

# Share of non-zero inputs from which on PyTorch's dense convolution is about as fast, in float32 and in bfloat16.
MOST = 0.3
MOST_BFLOAT16 = 0.12

_REALS = {torch.float32: "float", torch.float64: "double"}


def supports(x: Tensor, weight: Tensor) -> bool:
    """Tell whether this kernel takes such a convolution: weights of float32 or float64, (D, C, K, K) with an odd K."""
    return (
        weight.dtype in _REALS and weight.shape[2] == weight.shape[3] and weight.shape[2] % 2 == 1 and sees_no_steps(x)
    )


def convolution(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve `x` (N, C, H, W) with `weight` (D, C, K, K) at stride 1 with zeros around: (N, D, H, W), channels_last.

    Where too many inputs are not zero PyTorch's convolution does it.
    """
    reduced = torch.is_autocast_enabled("cpu")
    with torch.autocast("cpu", enabled=False):
        result: Tensor = torch.ops.rsnn.sparse_convolution(
            x.to(weight.dtype).contiguous(memory_format=torch.channels_last), weight, MOST_BFLOAT16 if reduced else MOST
        )
    return result


def _forward(x: Tensor, weight: Tensor, most: float) -> Tensor:
    N, C, H, W = x.shape
    D, _, K, _ = weight.shape
    out = _output(x, weight)
    function = native.library("sparse", _REALS[x.dtype]).sparse_convolution
    size = (ctypes.c_int64 * 6)(N, H, W, C, D, K)
    tensors = (x, weight.contiguous(), out)  # kept until the call is over
    failed = function(size, torch.get_num_threads(), ctypes.c_double(most), *map(native.pointer, tensors))
    if failed == 1:
        raise MemoryError("the convolution of spikes found no memory")
    return F.conv2d(x, weight, padding=K // 2) if failed else out


def _output(x: Tensor, weight: Tensor) -> Tensor:
    N, _, H, W = x.shape
    return x.new_empty(N, H, W, weight.shape[0]).permute(0, 3, 1, 2)


_library = torch.library.Library("rsnn", "FRAGMENT")
_library.define("sparse_convolution(Tensor x, Tensor weight, float most) -> Tensor")
_library.impl("sparse_convolution", _forward, "CPU")


@torch.library.register_fake("rsnn::sparse_convolution", lib=_library)  # type: ignore[untyped-decorator]
def _fake_forward(x: Tensor, weight: Tensor, _most: float) -> Tensor:
    return _output(x, weight)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, weight = ctx.saved_tensors
    padding, needed = [weight.shape[2] // 2] * 2, ctx.needs_input_grad[:2]
    d_x, d_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1, [*needed, False]
    )
    return d_x, d_weight, None


torch.library.register_autograd("rsnn::sparse_convolution", _backward, setup_context=_setup_context, lib=_library)
