"""One step of the ConvLSTM in Triton, forward and backward; imported at its first use, as Triton is.

A program computes one channel of one sample in BLOCK pixels, and all four gates of it. Arrays lie as N, channels, H, W;
gates, as 4 D channels, in the order i, f, o, g. HIDDEN says where the hidden state's half of the gates comes from (in
backward: what its gradient comes from): 0 nowhere, 1 convolved here, 2 given. Arithmetic is in the type of the cell.
"""

# mypy: ignore-errors
# (a language of its own, in Python's syntax)

from __future__ import annotations

import triton
from triton import language as tl


@triton.jit
def _tanh(x):
    e = tl.exp(-2 * tl.abs(x))  # of what is never positive, so that it cannot overflow
    y = (1 - e) / (1 + e)
    return tl.where(x < 0, -y, y)


@triton.jit
def step_forward(
    from_input,
    from_hidden,
    weight,
    hidden,
    cell,
    hidden_after,
    cell_after,
    activations,
    H,
    W,
    D: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    HIDDEN: tl.constexpr,
    KEEP: tl.constexpr,
):
    """Compute hidden state and cell after a step and, with KEEP, the gates' values for backward."""
    state = cell.dtype.element_ty
    size = H * W
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
    if HIDDEN == 1:
        row = pixel // W
        column = pixel % W
        for c in range(D):
            h_plane = hidden + (sample * D + c) * size
            for k in tl.static_range(K * K):
                y = row + k // K - (K - 1) // 2
                x = column + k % K - (K - 1) // 2
                seen = inside & (y >= 0) & (y < H) & (x >= 0) & (x < W)
                h = tl.load(h_plane + y * W + x, mask=seen, other=0).to(state)
                w = weight + (channel * D + c) * K * K + k
                i += h * tl.load(w).to(state)
                f += h * tl.load(w + D * D * K * K).to(state)
                o += h * tl.load(w + 2 * D * D * K * K).to(state)
                g += h * tl.load(w + 3 * D * D * K * K).to(state)
    elif HIDDEN == 2:
        i += tl.load(from_hidden + at_i, mask=inside, other=0).to(state)
        f += tl.load(from_hidden + at_f, mask=inside, other=0).to(state)
        o += tl.load(from_hidden + at_o, mask=inside, other=0).to(state)
        g += tl.load(from_hidden + at_g, mask=inside, other=0).to(state)
    i = tl.sigmoid(i)
    f = tl.sigmoid(f)
    o = tl.sigmoid(o)
    g = _tanh(g)
    c_after = f * tl.load(cell + at, mask=inside, other=0) + i * g
    tl.store(cell_after + at, c_after, mask=inside)
    tl.store(hidden_after + at, o * _tanh(c_after), mask=inside)
    if KEEP:
        tl.store(activations + at_i, i, mask=inside)
        tl.store(activations + at_f, f, mask=inside)
        tl.store(activations + at_o, o, mask=inside)
        tl.store(activations + at_g, g, mask=inside)


@triton.jit
def step_backward(
    output_grad,
    hidden_grad,
    later_gate_grads,
    weight,
    activations,
    cell,
    cell_after,
    cell_grad,
    gate_grads,
    H,
    W,
    D: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    OUTPUT: tl.constexpr,
    HIDDEN: tl.constexpr,
):
    """Compute the gradients by a step's gates; `cell_grad` holds that by the cell after it, then by the one before."""
    state = cell.dtype.element_ty
    size = H * W
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
    if HIDDEN == 1:  # the gradients of the later step's gates, convolved with the weights turned round
        row = pixel // W
        column = pixel % W
        for c in range(4 * D):
            g_plane = later_gate_grads + (sample * 4 * D + c) * size
            for k in tl.static_range(K * K):
                y = row + (K - 1) // 2 - k // K
                x = column + (K - 1) // 2 - k % K
                seen = inside & (y >= 0) & (y < H) & (x >= 0) & (x < W)
                later = tl.load(g_plane + y * W + x, mask=seen, other=0).to(state)
                h_grad += later * tl.load(weight + (c * D + channel) * K * K + k).to(state)
    elif HIDDEN == 2:
        h_grad += tl.load(hidden_grad + at, mask=inside, other=0).to(state)
    i = tl.load(activations + at_i, mask=inside, other=0).to(state)
    f = tl.load(activations + at_f, mask=inside, other=0).to(state)
    o = tl.load(activations + at_o, mask=inside, other=0).to(state)
    g = tl.load(activations + at_g, mask=inside, other=0).to(state)
    tanh_c = _tanh(tl.load(cell_after + at, mask=inside, other=0))
    c_grad = tl.load(cell_grad + at, mask=inside, other=0) + h_grad * o * (1 - tanh_c * tanh_c)
    tl.store(gate_grads + at_i, c_grad * g * i * (1 - i), mask=inside)
    tl.store(gate_grads + at_f, c_grad * tl.load(cell + at, mask=inside, other=0) * f * (1 - f), mask=inside)
    tl.store(gate_grads + at_o, h_grad * tanh_c * o * (1 - o), mask=inside)
    tl.store(gate_grads + at_g, c_grad * i * (1 - g * g), mask=inside)
    tl.store(cell_grad + at, c_grad * f, mask=inside)
