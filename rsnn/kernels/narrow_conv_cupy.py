"""A convolution of few channels in CUDA (`narrow_conv.cu`), as the spiking CNN's first stage has it, for training.

cuDNN takes kernels without tensor cores for its gradients, and a copy of the input with more channels for all of it.

Shapes: N images, C channels in, D channels out, H height, W width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from rsnn.kernels import cuda, gpu
from rsnn.kernels.layout import channels_last

CHANNELS = 8  # C, at most
OUTPUTS = 128  # D
# Blocks among which the sum of the weights' gradient is divided, 4 for each multiprocessor of an H200, and the rows of
# an image that a block takes at a time. Chosen by counting, not measured.
SLOTS = 528
ROWS = 16


def supports(x: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
    """Tell whether the kernels take a convolution of `x` (N, C, H, W) with `weight` (D, C, K, K), computed in `dtype`.

    Products are of TF32, where PyTorch's convolutions are too; half and bfloat16 it holds exactly.
    """
    N, C, H, W = x.shape
    return (
        weight.dtype == torch.float32
        and (dtype in (torch.float16, torch.bfloat16) or (dtype == torch.float32 and gpu.tf32_is_allowed()))
        and C <= CHANNELS
        and tuple(weight.shape) == (OUTPUTS, C, 3, 3)
        and W % 16 == 0
        and x.numel() > 0
        and N * CHANNELS * H * W < 1 << 31
        and _works(x.device)
    )


def convolution(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Convolve `x` with `weight`, zeros around; with gradients, which have no second derivatives.

    Args:
        x: (N, C, H, W), any floating type.
        weight: (D, C, 3, 3).
        dtype: of the result, and in which the products' factors are.

    Returns:
        (N, D, H, W), channels_last.

    """
    result: Tensor = _Convolution.apply(x, weight, dtype)
    return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.type = x.dtype
        x = x.to(dtype).contiguous()
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = channels_last(grad)
        x_grad = input_gradient(grad, weight).to(ctx.type) if ctx.needs_input_grad[0] else None
        return x_grad, weight_gradient(grad, x) if ctx.needs_input_grad[1] else None, None


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    N, C, H, W = x.shape
    columns, rows = _part(N, H, W)
    result = x.new_empty(N, H, W, OUTPUTS)
    weight = weight.to(x.dtype).float().contiguous()
    macros = _macros(x.dtype, columns, 3 if columns == 32 else 4)
    blocks = N * (W // columns) * -(-H // rows)
    cuda.launch("narrow_conv.cu", "narrow_convolution", macros, blocks, (x, weight, H, W, C, rows, result))
    return result.movedim(-1, 1)


def input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient (N, C, H, W) by the convolution's input, in the type of `grad`.

    Args:
        grad: by the convolution's result (N, D, H, W), channels_last.
        weight: (D, C, 3, 3).

    """
    N, _, H, W = grad.shape
    C = weight.shape[1]
    columns, rows = _part(N, H, W)
    x_grad = grad.new_empty(N, C, H, W)
    weight = weight.to(grad.dtype).float().contiguous()
    macros = _macros(grad.dtype, columns, 3 if columns == 32 and grad.dtype == torch.float32 else 4)
    blocks = N * (W // columns) * -(-H // rows)
    cuda.launch("narrow_conv.cu", "input_gradient", macros, blocks, (grad, weight, H, W, C, rows, x_grad))
    return x_grad


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Return the gradient (D, C, 3, 3) by the convolution's weight, in float32.

    Args:
        grad: by the convolution's result (N, D, H, W), channels_last.
        x: the convolution's input (N, C, H, W).

    """
    N, C, H, W = x.shape
    columns, _ = _part(N, H, W)
    rows = min(H, ROWS)
    parts = N * (W // columns) * -(-H // rows)
    slots = min(SLOTS, parts)
    sums = torch.empty(slots, OUTPUTS, 9, CHANNELS, device=x.device)
    arguments = (grad, x.to(grad.dtype).contiguous(), H, W, C, rows, parts, slots, sums)
    cuda.launch("narrow_conv.cu", "weight_gradient", _macros(grad.dtype, columns, 4), slots, arguments)
    return sums.sum(0)[..., :C].transpose(1, 2).reshape(OUTPUTS, C, 3, 3)


def _part(N: int, H: int, W: int) -> tuple[int, int]:
    """Return the columns and rows of the part of an image that a block has."""
    columns = 32 if W % 32 == 0 else 16
    return columns, H if N * (W // columns) >= SLOTS else min(H, ROWS)


def _macros(dtype: torch.dtype, columns: int, blocks: int) -> dict[str, int]:
    """Return the macros of a kernel of which `blocks` should fit into a multiprocessor, as its registers let them."""
    macros = cuda.neuron_macros(dtype, None, 0, False, True)  # of no neuron: what the text before the kernels needs
    return macros | {"VECTOR": 16 // dtype.itemsize, "DEPTH": 1, "COLUMNS": columns, "BLOCKS": blocks}


def _works(device: torch.device) -> bool:
    return gpu.works(device, _self_test, "a convolution of few channels")


def _self_test(device: torch.device) -> None:
    """Compare a small case, whose sums are exact in any order and precision, with plain PyTorch's on the CPU.

    Raises:
        RuntimeError: the results are not the same.

    """
    N, C, H, W = 2, 6, 3, 32
    x = ((torch.arange(N * C * H * W) * 7 % 17 - 8) / 4).reshape(N, C, H, W)
    weight = ((torch.arange(OUTPUTS * C * 9) * 5 % 13 - 6) / 4).reshape(OUTPUTS, C, 3, 3)
    grad = ((torch.arange(N * OUTPUTS * H * W) * 11 % 19 - 9) / 4).reshape(N, OUTPUTS, H, W)
    expected = (
        F.conv2d(x, weight, padding=1),
        F.conv_transpose2d(grad, weight, padding=1),
        torch.nn.grad.conv2d_weight(x, weight.shape, grad, padding=1),
    )
    x, weight, grad = x.to(device), weight.to(device), channels_last(grad.to(device))
    found = (_convolve(x, weight), input_gradient(grad, weight), weight_gradient(grad, x))
    if not all(torch.equal(one.cpu(), other) for one, other in zip(found, expected, strict=True)):
        raise RuntimeError("its results are not those of the single operations")
