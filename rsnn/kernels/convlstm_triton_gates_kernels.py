"""The gate arithmetic of ConvLSTMs of many channels in Triton; imported at its first use, as Triton is.

PyTorch convolves. A program computes one channel of one sample in BLOCK pixels. Arrays lie as N, channels, H, W; gates,
as 4 D channels, in the order i, f, o, g. Arithmetic is in the type of the cell.
"""

# mypy: ignore-errors
# (a language of its own, in Python's syntax)

from __future__ import annotations

import triton
from triton import language as tl

from rsnn.kernels.convlstm_triton_kernels import sigmoid, tanh


@triton.jit
def gates_forward(
    from_input,
    from_hidden,
    cell,
    hidden_after,
    cell_after,
    activations,
    size,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    HIDDEN: tl.constexpr,
    KEEP: tl.constexpr,
):
    """Compute hidden state and cell after a step and, with KEEP, the gates' values for backward."""
    state = cell.dtype.element_ty
    blocks = tl.cdiv(size, BLOCK)
    plane = tl.program_id(0) // blocks
    pixel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < size
    channel = plane % D
    sample = (plane // D).to(tl.int64)  # so that every offset has 64 bits
    at = (sample * D + channel) * size + pixel
    at_i = (sample * 4 * D + channel) * size + pixel
    at_f = (sample * 4 * D + D + channel) * size + pixel
    at_o = (sample * 4 * D + 2 * D + channel) * size + pixel
    at_g = (sample * 4 * D + 3 * D + channel) * size + pixel
    i = tl.load(from_input + at_i, mask=inside, other=0).to(state)
    f = tl.load(from_input + at_f, mask=inside, other=0).to(state)
    o = tl.load(from_input + at_o, mask=inside, other=0).to(state)
    g = tl.load(from_input + at_g, mask=inside, other=0).to(state)
    if HIDDEN:
        i += tl.load(from_hidden + at_i, mask=inside, other=0).to(state)
        f += tl.load(from_hidden + at_f, mask=inside, other=0).to(state)
        o += tl.load(from_hidden + at_o, mask=inside, other=0).to(state)
        g += tl.load(from_hidden + at_g, mask=inside, other=0).to(state)
    i = sigmoid(i)
    f = sigmoid(f)
    o = sigmoid(o)
    g = tanh(g)
    c_after = f * tl.load(cell + at, mask=inside, other=0) + i * g
    tl.store(cell_after + at, c_after, mask=inside)
    tl.store(hidden_after + at, o * tanh(c_after), mask=inside)
    if KEEP:
        tl.store(activations + at_i, i, mask=inside)
        tl.store(activations + at_f, f, mask=inside)
        tl.store(activations + at_o, o, mask=inside)
        tl.store(activations + at_g, g, mask=inside)


@triton.jit
def gates_backward(
    output_grad,
    hidden_grad,
    activations,
    cell,
    cell_after,
    cell_grad,
    gate_grads,
    size,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    OUTPUT: tl.constexpr,
    HIDDEN: tl.constexpr,
):
    """Compute the gradients by a step's gates; `cell_grad` holds that by the cell after it, then by the one before."""
    state = cell.dtype.element_ty
    blocks = tl.cdiv(size, BLOCK)
    plane = tl.program_id(0) // blocks
    pixel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < size
    channel = plane % D
    sample = (plane // D).to(tl.int64)
    at = (sample * D + channel) * size + pixel
    at_i = (sample * 4 * D + channel) * size + pixel
    at_f = (sample * 4 * D + D + channel) * size + pixel
    at_o = (sample * 4 * D + 2 * D + channel) * size + pixel
    at_g = (sample * 4 * D + 3 * D + channel) * size + pixel
    h_grad = tl.zeros([BLOCK], dtype=state)
    if OUTPUT:
        h_grad += tl.load(output_grad + at, mask=inside, other=0).to(state)
    if HIDDEN:
        h_grad += tl.load(hidden_grad + at, mask=inside, other=0).to(state)
    i = tl.load(activations + at_i, mask=inside, other=0).to(state)
    f = tl.load(activations + at_f, mask=inside, other=0).to(state)
    o = tl.load(activations + at_o, mask=inside, other=0).to(state)
    g = tl.load(activations + at_g, mask=inside, other=0).to(state)
    tanh_c = tanh(tl.load(cell_after + at, mask=inside, other=0))
    c_grad = tl.load(cell_grad + at, mask=inside, other=0) + h_grad * o * (1 - tanh_c * tanh_c)
    tl.store(gate_grads + at_i, c_grad * g * i * (1 - i), mask=inside)
    tl.store(gate_grads + at_f, c_grad * tl.load(cell + at, mask=inside, other=0) * f * (1 - f), mask=inside)
    tl.store(gate_grads + at_o, h_grad * tanh_c * o * (1 - o), mask=inside)
    tl.store(gate_grads + at_g, c_grad * i * (1 - g * g), mask=inside)
    tl.store(cell_grad + at, c_grad * f, mask=inside)
