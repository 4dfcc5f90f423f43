"""The kernels of ConvLSTMs of few channels in Triton; imported at their first use, as Triton is.

The convolutions are in the kernels, as matrix products over windows of 2 x 2 pixels. One window is one
column; its rows are channels x the 4 pixels, (d, y, x). What its pixels see of a channel is a patch of (K + 1)^2, so
that a convolution is one product of a matrix of weights (zero where a pixel does not see a part of the patch, laid out
by PyTorch beforehand) with the patches of many windows: 4 values a pixel and channel to load for K = 3 in place of 9.
(And what is not finite makes the rest of a window not a number, too: 0 times infinity.)
Hidden states, cells and gradients of gates lie in memory the same way, "folded": (N, channels, 2, 2, H / 2, W / 2),
with zeros where the windows reach over the edge. Frames and features lie as N, channels, H, W.

C and D are the channels of frames and hidden states, R is 4 D rounded up to what a matrix product takes, KX and KH are
the lengths (C or D) (K + 1)^2 rounded up to multiples of CHUNK. Gates are in the order i, f, o, g; arithmetic is in the
type of the weights.
"""

# mypy: ignore-errors
# (a language of its own, in Python's syntax)

from __future__ import annotations

import triton
from triton import language as tl

# In the interpreter, which takes no machine code, and for other types than float32 by Triton's own functions.
ASSEMBLY = tl.constexpr(not triton.knobs.runtime.interpret)


@triton.jit
def _exp2(x):
    """Return 2^x as the GPU's special function unit has it, to 2 units in the last place, without subnormal numbers."""
    return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)


@triton.jit
def _reciprocal(x):
    return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)


@triton.jit
def sigmoid(x):
    """Return 1 / (1 + exp(-x)); 1.4427 is log2(e)."""
    return _reciprocal(1 + _exp2(x * -1.4426950408889634)) if ASSEMBLY and x.dtype == tl.float32 else tl.sigmoid(x)


@triton.jit
def tanh(x):
    """Return the hyperbolic tangent."""
    if ASSEMBLY and x.dtype == tl.float32:
        y = 1 - 2 * _reciprocal(1 + _exp2(x * 2.8853900817779268))
    else:
        e = tl.exp(-2 * tl.abs(x))  # of what is never positive, so that it cannot overflow
        y = (1 - e) / (1 + e)
        y = tl.where(x < 0, -y, y)
    return y


@triton.jit
def _windows(block, height: tl.constexpr, width: tl.constexpr, BLOCK: tl.constexpr):
    """Return BLOCK windows: their numbers, rows and columns, and as bits which of the 3 x 3 around them exist."""
    window = block * BLOCK + tl.arange(0, BLOCK)
    row = window // width
    column = window % width
    columns = (column > 0).to(tl.int32) + 2 + 4 * (column + 1 < width).to(tl.int32)
    around = columns * ((row > 0).to(tl.int32) + 8 + 64 * (row + 1 < height).to(tl.int32))
    return window, row, column, tl.where(window < height * width, around, 0)


@triton.jit
def _patches(
    source,
    row,
    column,
    around,
    height: tl.constexpr,
    width: tl.constexpr,
    first,
    CHANNELS: tl.constexpr,
    K: tl.constexpr,
    BEFORE: tl.constexpr,
    FOLDED: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Return rows `first` ... `first` + CHUNK of the patches (channel, y, x), [CHUNK, windows], of one sample's planes.

    The patch begins BEFORE pixels before its window.
    """
    PATCH: tl.constexpr = (K + 1) * (K + 1)
    k = tl.arange(0, CHUNK)
    if CHUNK % PATCH == 0:  # so that the compiler knows all about k
        source += first // PATCH * 4 * height * width
        channels = CHANNELS - first // PATCH
    else:
        k += first
        channels = CHANNELS
    channel = k // PATCH
    y = k // (K + 1) % (K + 1) - BEFORE
    x = k % (K + 1) - BEFORE
    down = (y + 4) // 2 - 2  # windows down and to the right, rounded to the lower one
    right = (x + 4) // 2 - 2
    bit = 1 << (3 * down + right + 4)
    if CHANNELS * PATCH % CHUNK:
        bit = tl.where(channel < channels, bit, 0)
    if FOLDED:
        part = (4 * channel + 2 * (y - 2 * down) + x - 2 * right) * height * width + down * width + right
        at = row * width + column
    else:
        part = 4 * channel * height * width + 2 * y * width + x
        at = 4 * row * width + 2 * column
    seen = (around[None, :] & bit[:, None]) != 0
    return tl.load(source + (part[:, None] + at[None, :]), mask=seen, other=0)


@triton.jit
def _rows(weight, first, LENGTH: tl.constexpr, R: tl.constexpr, CHUNK: tl.constexpr):
    """Return columns `first` ... `first` + CHUNK of R rows of weights."""
    return tl.load(weight + tl.arange(0, R)[:, None] * LENGTH + first + tl.arange(0, CHUNK)[None, :])


@triton.jit
def _halves(x):
    """Return the bits of float32 numbers that TF32 holds, and the rest."""
    high = (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
    return high, x - high


@triton.jit
def _product(a, b, total, PRECISION: tl.constexpr):
    """Return a b + total: in TF32; as three products of the halves, which leave out but the smallest part; or exactly.

    Triton's own "tf32x3" also asks of every number whether it is one, which takes longer than the products.
    """
    if PRECISION == "tf32x3":
        a_high, a_low = _halves(a)
        b_high, b_low = _halves(b)
        total = tl.dot(a_low, b_high, total, input_precision="tf32")
        total = tl.dot(a_high, b_low, total, input_precision="tf32")
        total = tl.dot(a_high, b_high, total, input_precision="tf32")
    else:
        total = tl.dot(a, b, total, input_precision=PRECISION)
    return total


@triton.jit
def _gates(
    x,
    h,
    weight,
    bias,
    row,
    column,
    around,
    height: tl.constexpr,
    width: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    KX: tl.constexpr,
    KH: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return i, f, o, g, [R, BLOCK] each."""
    state = weight.dtype.element_ty
    r = tl.arange(0, R)
    nothing = tl.zeros([R, BLOCK], dtype=state)
    i = nothing + tl.load(bias + r)[:, None]
    f = nothing + tl.load(bias + R + r)[:, None]
    o = nothing + tl.load(bias + 2 * R + r)[:, None]
    g = nothing + tl.load(bias + 3 * R + r)[:, None]
    L: tl.constexpr = KX + KH
    for first in tl.static_range(0, KX + KH, CHUNK):
        if first < KX:
            p = _patches(x, row, column, around, height, width, first, C, K, (K - 1) // 2, False, CHUNK)
        else:
            p = _patches(h, row, column, around, height, width, first - KX, D, K, (K - 1) // 2, True, CHUNK)
        p = p.to(state)
        i = _product(_rows(weight, first, L, R, CHUNK), p, i, PRECISION)
        f = _product(_rows(weight + R * L, first, L, R, CHUNK), p, f, PRECISION)
        o = _product(_rows(weight + 2 * R * L, first, L, R, CHUNK), p, o, PRECISION)
        g = _product(_rows(weight + 3 * R * L, first, L, R, CHUNK), p, g, PRECISION)
    return sigmoid(i), sigmoid(f), sigmoid(o), tanh(g)


@triton.jit
def _maxima(h):
    """Return the largest of each window's four, (D, 4, windows) -> (D, windows), and NaN where there is one."""
    total = tl.sum(h, axis=1)
    return tl.where(total == total, tl.max(h, axis=1), total)


@triton.jit
def _pixels(row, column, H: tl.constexpr, W: tl.constexpr, D: tl.constexpr, R: tl.constexpr):
    """Return where in a plane (H, W) the rows and windows are, whether that is inside, and the channels, [R, 1]."""
    r = tl.arange(0, R)
    y = 2 * row[None, :] + (r // 2 % 2)[:, None]
    x = 2 * column[None, :] + (r % 2)[:, None]
    return y * W + x, (y < H) & (x < W) & (r < 4 * D)[:, None], (r // 4)[:, None]


@triton.jit
def step_forward(
    x,
    h,
    cell,
    weight,
    bias,
    h_after,
    cell_after,
    features,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    KX: tl.constexpr,
    KH: tl.constexpr,
    POOL: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute hidden state and cell after a step, and the features: that hidden state, or with POOL 2 its maxima."""
    height: tl.constexpr = (H + 1) // 2
    width: tl.constexpr = (W + 1) // 2
    size: tl.constexpr = height * width
    blocks: tl.constexpr = (size + BLOCK - 1) // BLOCK
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    window, row, column, around = _windows(tl.program_id(0) % blocks, height, width, BLOCK)
    x += sample * C * 4 * size
    h += sample * D * 4 * size
    i, f, o, g = _gates(
        x, h, weight, bias, row, column, around, height, width, C, D, K, R, KX, KH, BLOCK, CHUNK, PRECISION
    )
    r = tl.arange(0, R)
    at = sample * D * 4 * size + (r[:, None] * size + window[None, :])
    here = (r < 4 * D)[:, None] & (window < size)[None, :]
    c_after = f * tl.load(cell + at, mask=here, other=0) + i * g
    result = o * tanh(c_after)
    pixel, inside, channel = _pixels(row, column, H, W, D, R)
    tl.store(cell_after + at, c_after, mask=here)
    tl.store(h_after + at, tl.where(inside, result, 0), mask=here)
    if POOL == 2:
        d = tl.arange(0, R // 4)
        pooled = _maxima(tl.reshape(result, [R // 4, 4, BLOCK]))
        to = (sample * D + d[:, None]) * (H // 2) * (W // 2) + (row * (W // 2) + column)[None, :]
        whole = (d < D)[:, None] & ((row < H // 2) & (column < W // 2))[None, :]
        tl.store(features + to, pooled, mask=whole)
    else:
        tl.store(features + (sample * D + channel) * H * W + pixel, result, mask=inside)


@triton.jit
def step_backward(
    features_grad,
    last_grad,
    later_grads,
    x,
    h,
    cell,
    weight,
    bias,
    weight_back,
    cell_grad,
    gate_grads,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    KX: tl.constexpr,
    KH: tl.constexpr,
    KB: tl.constexpr,
    POOL: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
    FEATURES: tl.constexpr,
    LAST: tl.constexpr,
):
    """Compute the gradients by a step's gates; `cell_grad` holds that by the cell after it, then by the one before.

    FEATURES says whether there is a gradient by the features; LAST, that no step comes after, and the hidden state's
    gradient is given.
    """
    state = weight.dtype.element_ty
    height: tl.constexpr = (H + 1) // 2
    width: tl.constexpr = (W + 1) // 2
    size: tl.constexpr = height * width
    blocks: tl.constexpr = (size + BLOCK - 1) // BLOCK
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    window, row, column, around = _windows(tl.program_id(0) % blocks, height, width, BLOCK)
    x += sample * C * 4 * size
    h += sample * D * 4 * size
    r = tl.arange(0, R)
    at = sample * D * 4 * size + (r[:, None] * size + window[None, :])
    here = (r < 4 * D)[:, None] & (window < size)[None, :]
    if LAST:
        h_grad = tl.load(last_grad + at, mask=here, other=0).to(state)
    else:  # the gradients of the later step's gates, convolved with the weights turned round
        h_grad = tl.zeros([R, BLOCK], dtype=state)
        later_grads += sample * D * 16 * size
        for first in tl.static_range(0, KB, CHUNK):
            p = _patches(later_grads, row, column, around, height, width, first, 4 * D, K, K // 2, True, CHUNK)
            h_grad = _product(_rows(weight_back, first, KB, R, CHUNK), p.to(state), h_grad, PRECISION)
    i, f, o, g = _gates(
        x, h, weight, bias, row, column, around, height, width, C, D, K, R, KX, KH, BLOCK, CHUNK, PRECISION
    )
    c_before = tl.load(cell + at, mask=here, other=0)
    tanh_c = tanh(f * c_before + i * g)
    pixel, inside, channel = _pixels(row, column, H, W, D, R)
    if FEATURES:
        if POOL == 2:  # to the first of the largest
            d = tl.arange(0, R // 4)
            four = tl.reshape(o * tanh_c, [R // 4, 4, BLOCK])
            largest = _maxima(four)[:, None, :]
            place = tl.arange(0, 4)[None, :, None]
            first = tl.min(tl.where((four == largest) | (four != four), place, 4), axis=1)
            whole = (d < D)[:, None] & ((row < H // 2) & (column < W // 2))[None, :]
            source = (sample * D + d[:, None]) * (H // 2) * (W // 2) + (row * (W // 2) + column)[None, :]
            grad = tl.load(features_grad + source, mask=whole, other=0).to(state)
            h_grad += tl.reshape(tl.where(place == first[:, None, :], grad[:, None, :], 0), [R, BLOCK])
        else:
            h_grad += tl.load(features_grad + (sample * D + channel) * H * W + pixel, mask=inside, other=0).to(state)
    c_grad = tl.load(cell_grad + at, mask=here, other=0) + h_grad * o * (1 - tanh_c * tanh_c)
    tl.store(cell_grad + at, c_grad * f, mask=here)
    to = gate_grads + sample * D * 16 * size + (r[:, None] * size + window[None, :])
    tl.store(to, tl.where(inside, c_grad * g * i * (1 - i), 0), mask=here)
    tl.store(to + 4 * D * size, tl.where(inside, c_grad * c_before * f * (1 - f), 0), mask=here)
    tl.store(to + 8 * D * size, tl.where(inside, h_grad * tanh_c * o * (1 - o), 0), mask=here)
    tl.store(to + 12 * D * size, tl.where(inside, c_grad * i * (1 - g * g), 0), mask=here)


@triton.jit
def convolve_back(
    gate_grads,
    weight_back,
    result,
    H: tl.constexpr,
    W: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    CHANNELS: tl.constexpr,
    R: tl.constexpr,
    KB: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute the gradient (N, CHANNELS, H, W) by what was convolved from the folded gradients by 4 D gates."""
    state = weight_back.dtype.element_ty
    height: tl.constexpr = (H + 1) // 2
    width: tl.constexpr = (W + 1) // 2
    size: tl.constexpr = height * width
    blocks: tl.constexpr = (size + BLOCK - 1) // BLOCK
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    _, row, column, around = _windows(tl.program_id(0) % blocks, height, width, BLOCK)
    gate_grads += sample * D * 16 * size
    total = tl.zeros([R, BLOCK], dtype=state)
    for first in tl.static_range(0, KB, CHUNK):
        p = _patches(gate_grads, row, column, around, height, width, first, 4 * D, K, K // 2, True, CHUNK)
        total = _product(_rows(weight_back, first, KB, R, CHUNK), p.to(state), total, PRECISION)
    pixel, inside, channel = _pixels(row, column, H, W, CHANNELS, R)
    tl.store(result + (sample * CHANNELS + channel) * H * W + pixel, total, mask=inside)


@triton.jit(do_not_specialize=["samples", "programs"])
def weight_grads(
    gate_grads,
    x,
    h,
    parts,
    samples,
    programs,
    height: tl.constexpr,
    width: tl.constexpr,
    C: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    KX: tl.constexpr,
    KH: tl.constexpr,
    ONES: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Multiply the gradients by gates with the patches, summed over each program's share of all windows of all steps.

    Into `parts` (programs, 4 R, KX + KH): column ONES, which no patch takes, is the sum of the gradients, for the bias.
    Neighbouring programs take other columns of the same windows, so that these are read once from memory.
    """
    state = parts.dtype.element_ty
    chunks: tl.constexpr = (KX + KH) // CHUNK
    first = tl.program_id(0) % chunks * CHUNK
    program = tl.program_id(0) // chunks
    size: tl.constexpr = height * width
    blocks: tl.constexpr = (size + BLOCK - 1) // BLOCK
    r = tl.arange(0, 4 * R)
    plane = r // R * 4 * D + r % R
    ones = (first + tl.arange(0, CHUNK) == ONES)[:, None]
    total = tl.zeros([4 * R, CHUNK], dtype=state)
    for block in range(program, samples * blocks, programs):
        sample = tl.cast(block // blocks, tl.int64)
        window, row, column, around = _windows(block % blocks, height, width, BLOCK)
        here = (r % R < 4 * D)[:, None] & (window < size)[None, :]
        grads = gate_grads + sample * D * 16 * size + (plane[:, None] * size + window[None, :])
        grad = tl.load(grads, mask=here, other=0).to(state)
        if first < KX:
            base = x + sample * C * 4 * size
            p = _patches(base, row, column, around, height, width, first, C, K, (K - 1) // 2, False, CHUNK)
        else:
            base = h + sample * D * 4 * size
            p = _patches(base, row, column, around, height, width, first - KX, D, K, (K - 1) // 2, True, CHUNK)
        total = _product(grad, tl.trans(tl.where(ones, 1, p.to(state))), total, PRECISION)
    to = (program.to(tl.int64) * 4 * R + r)[:, None] * (KX + KH) + (first + tl.arange(0, CHUNK))[None, :]
    tl.store(parts + to, total)
