"""The recurrent half of a ConvLSTM of many channels on NVIDIA GPUs: convolutions by PyTorch, gates by a Triton kernel.

Backward convolves the same way step by step, and computes the gradient of the weights from all steps at once.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from rsnn.kernels.watched import sees_no_steps

BLOCK = 256  # pixels of a program

_TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def convlstm(
    from_input: Tensor, w_hidden: Tensor, hidden: Tensor | None, cell: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the recurrence for gates whose input half is computed.

    Args:
        from_input: input half of the gates (T, N, 4 D, H, W), in float, double, half or bfloat16.
        w_hidden: weights (4 D, D, K, K) of the hidden half.
        hidden, cell: state (N, D, H, W) before the first step; zeros where they are None.

    Returns:
        the hidden states (T, N, D, H, W) and the last one (N, D, H, W), both in the type of `from_input`; and the last
        cell in the type of the weights, in which the arithmetic is.

    """
    dtype, state = from_input.dtype, w_hidden.dtype
    tensors = (from_input, w_hidden, hidden, cell)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    hidden = None if hidden is None else hidden.to(dtype).contiguous()
    cell = None if cell is None else cell.to(state).contiguous()
    outputs, hidden, cell, _, _ = _convlstm(from_input.contiguous(), w_hidden.contiguous(), hidden, cell, keep)
    return outputs, hidden, cell


def supports(from_input: Tensor, w_hidden: Tensor) -> bool:
    """Tell whether the kernel takes these gates and weights."""
    return from_input.dtype in _TYPES and w_hidden.dtype in _TYPES[:2] and sees_no_steps(from_input)


# Operators of PyTorch's, so that torch.compile and torch.export take each as one node of their graphs.
@torch.library.custom_op("rsnn::convlstm_triton_gates", mutates_args=())
def _convlstm(
    from_input: Tensor, w_hidden: Tensor, hidden: Tensor | None, cell: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return hidden states, the last one, the last cell, and for backward (else empty) activations and all cells."""
    outputs, last, after, activations, cells = _outputs(from_input, w_hidden, keep)
    T, N, _, H, W = from_input.shape
    D = w_hidden.shape[1]
    if not from_input.numel():
        return outputs, last, after, activations, cells
    if cell is None:
        cell = torch.zeros_like(after)
    with torch.autocast(from_input.device.type, enabled=False), torch.cuda.device_of(from_input):
        for t in range(T):
            cell_after = cells[t] if keep else after
            from_hidden = None if hidden is None else _convolve(hidden, w_hidden.to(hidden.dtype))
            _kernels().gates_forward[_grid(N * D, H * W)](
                from_input[t],
                cell if from_hidden is None else from_hidden,
                cell,
                outputs[t],
                cell_after,
                activations[t] if keep else cell,
                H * W,
                D=D,
                BLOCK=_block(H * W),
                HIDDEN=from_hidden is not None,
                KEEP=keep,
            )
            hidden, cell = outputs[t], cell_after
    last.copy_(outputs[-1])
    if keep:
        after.copy_(cells[-1])
    return outputs, last, after, activations, cells


def _outputs(from_input: Tensor, w_hidden: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    T, N, _, H, W = from_input.shape
    shape = (N, w_hidden.shape[1], H, W)
    return (
        from_input.new_empty((T, *shape)),
        from_input.new_empty(shape),
        w_hidden.new_empty(shape),
        from_input.new_empty(from_input.shape if keep else (0,)),
        w_hidden.new_empty((T, *shape) if keep else (0,)),
    )


@_convlstm.register_fake
def _(from_input: Tensor, w_hidden: Tensor, _hidden: Any, _cell: Any, keep: bool) -> tuple[Tensor, ...]:
    return _outputs(from_input, w_hidden, keep)


@torch.library.custom_op("rsnn::convlstm_triton_gates_backward", mutates_args=())
def _convlstm_backward(
    outputs_grad: Tensor | None,
    last_grad: Tensor | None,
    after_grad: Tensor | None,
    w_hidden: Tensor,
    hidden: Tensor | None,
    cell: Tensor | None,
    outputs: Tensor,
    activations: Tensor,
    cells: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients by the input half of the gates, the weights, and hidden state and cell before the start."""
    T, N, D, H, W = outputs.shape
    gate_grads = torch.empty_like(activations)
    cell_grad = torch.zeros_like(cells[0]) if after_grad is None else after_grad.clone().contiguous()
    if not outputs.numel():
        return gate_grads, torch.zeros_like(w_hidden), torch.empty_like(outputs[0]), cell_grad
    outputs_grad = None if outputs_grad is None else outputs_grad.contiguous()
    hidden_grad = None if last_grad is None else last_grad.contiguous()
    start = torch.zeros_like(cells[0]) if cell is None else cell
    with torch.autocast(outputs.device.type, enabled=False), torch.cuda.device_of(outputs):
        for t in reversed(range(T)):
            if t + 1 < T:
                hidden_grad = _convolve_back(gate_grads[t + 1], w_hidden)
            _kernels().gates_backward[_grid(N * D, H * W)](
                start if outputs_grad is None else outputs_grad[t],
                start if hidden_grad is None else hidden_grad,
                activations[t],
                cells[t - 1] if t else start,
                cells[t],
                cell_grad,
                gate_grads[t],
                H * W,
                D=D,
                BLOCK=_block(H * W),
                OUTPUT=outputs_grad is not None,
                HIDDEN=hidden_grad is not None,
            )
        # The weights' gradient, of all steps at once: the first has no hidden state where it started from zeros.
        before = outputs[:-1] if hidden is None else torch.cat((hidden[None], outputs[:-1]))
        weight_grad = _weight_grad(before.flatten(0, 1), gate_grads[T - len(before) :].flatten(0, 1), w_hidden)
        start_grad = torch.empty_like(outputs[0]) if hidden is None else _convolve_back(gate_grads[0], w_hidden)
        return gate_grads, weight_grad, start_grad, cell_grad


@_convlstm_backward.register_fake
def _(
    _outputs_grad: Any, _last_grad: Any, _after_grad: Any, w_hidden: Tensor, _hidden: Any, _cell: Any, outputs: Tensor,
    activations: Tensor, cells: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    return (
        torch.empty_like(activations),
        torch.empty_like(w_hidden),
        torch.empty_like(outputs[0]),
        torch.empty_like(cells[0]),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, w_hidden, hidden, cell, _ = inputs
    outputs, _, _, activations, cells = output
    ctx.save_for_backward(w_hidden, hidden, cell, outputs, activations, cells)
    ctx.mark_non_differentiable(activations, cells)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    results = _convlstm_backward(*gradients[:3], *ctx.saved_tensors)
    wanted = zip(results, ctx.needs_input_grad, strict=False)
    return (*(result if needed else None for result, needed in wanted), None)


_convlstm.register_autograd(_backward, setup_context=_setup_context)


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    x, padding = _padded(x, weight)
    return F.conv2d(x, weight, padding=padding).contiguous()


def _convolve_back(gradient: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of what `_convolve` convolved, from that of its result."""
    grown = F.conv_transpose2d(gradient, weight.to(gradient.dtype), padding=(weight.shape[2] - 1) // 2)
    return grown[..., : gradient.shape[2], : gradient.shape[3]].contiguous()


def _weight_grad(x: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    if not len(x):
        return torch.zeros_like(weight)
    x, padding = _padded(x, weight)
    return conv2d_weight(x, weight.shape, gradient, padding=padding).to(weight.dtype)


def _padded(x: Tensor, weight: Tensor) -> tuple[Tensor, int]:
    """Return `x`, and the padding that is left to a convolution that keeps the size: an even kernel pads unequally."""
    before, after = (weight.shape[2] - 1) // 2, weight.shape[2] // 2
    return (x, before) if before == after else (F.pad(x, (before, after, before, after)), 0)


def _kernels() -> ModuleType:
    from rsnn.kernels import convlstm_triton_gates_kernels

    return convlstm_triton_gates_kernels


def _block(pixels: int) -> int:
    return min(BLOCK, 1 << (pixels - 1).bit_length())


def _grid(planes: int, pixels: int) -> tuple[int]:
    return (planes * -(-pixels // _block(pixels)),)
