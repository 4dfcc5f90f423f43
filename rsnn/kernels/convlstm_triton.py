"""ConvLSTM layers of few channels on NVIDIA GPUs: each step of a layer, pooling included, one Triton kernel.

Forward keeps hidden states and cells alone; backward computes the gates anew from them, step by step, and the weights'
gradient from all steps at once. How the kernels lay things out: `convlstm_triton_kernels.py`.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rsnn.kernels import gpu
from rsnn.kernels.watched import sees_no_steps

# What these kernels take; for more channels a product of all gates at once, as PyTorch's convolutions are, is the
# better one. Chosen by counting operations, not measured.
HIDDEN_CHANNELS = 8
FRAME_CHANNELS = 16
KERNEL_SIZE = 5  # the patch of a window lies in the 3 x 3 windows around

# How float32 is multiplied: on the matrix units, in TF32 where PyTorch's convolutions may do so too, else in three
# such products that are nearly as exact as float32. "ieee" leaves the matrix units aside.
PRECISION_WITH_TF32 = "tf32"
PRECISION = "tf32x3"

# Windows of 2 x 2 pixels that a program takes, its warps, and to how many registers a thread is held (None: it has what
# it takes) so that more of them run at a time, by the rows of a product: 16 for up to 4 hidden channels, then 32. And
# the rows of patches that are loaded at a time. Chosen by counting instructions and registers, not measured.
FORWARD: dict[int, tuple[int, int, int | None]] = {16: (64, 4, 96), 32: (64, 8, None)}
BACKWARD: dict[int, tuple[int, int, int | None]] = {16: (64, 8, None), 32: (64, 8, 128)}
CHUNK = 32
# The same for the weights' gradient, how many windows are on their way at a time, and the programs among which that
# sum is divided: 4 for each multiprocessor of an H200.
WEIGHTS_BLOCK, WEIGHTS_WARPS, WEIGHTS_CHUNK, WEIGHTS_STAGES = 64, 8, 64, 2
WEIGHTS_PROGRAMS = 528

# Without gradients the samples may go through the sequence in groups whose states stay in the GPU's second-level
# cache: as many as have states of this many bytes, or None for all at once. Not measured.
GROUP_BYTES: int | None = None


@functools.cache
def unavailable() -> str | None:
    """Return why this kernel cannot run here, or None."""
    return gpu.missing("triton", "pip install triton") or gpu.failure(_self_test)


def supports(frames: Tensor, w_input: Tensor, w_hidden: Tensor, bias: Tensor | None, dtype: torch.dtype) -> bool:
    """Tell whether the kernels take these frames and weights, for hidden states in `dtype`.

    Not in double precision: Triton 3.6 has no product of such matrices.
    """
    return (
        {w_input.dtype, w_hidden.dtype} == {torch.float32}
        and (bias is None or bias.dtype == torch.float32)
        and {frames.dtype, dtype} <= {torch.float32, torch.float16, torch.bfloat16}
        and w_hidden.shape[1] <= HIDDEN_CHANNELS
        and w_input.shape[1] <= FRAME_CHANNELS
        and w_input.shape[2:] == w_hidden.shape[2:]
        and w_input.shape[2] == w_input.shape[3] <= KERNEL_SIZE
        and sees_no_steps(frames)
    )


def convlstm(
    frames: Tensor,
    w_input: Tensor,
    w_hidden: Tensor,
    bias: Tensor | None,
    hidden: Tensor | None,
    cell: Tensor | None,
    pool: int = 1,
    *,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run `frames` (T, N, C, H, W) through the layer; see [`rsnn.kernels.convlstm`][].

    Args:
        dtype: type of the hidden states, that of the frames where it is None; that of the cell is the weights'.

    Returns:
        the hidden states (T, N, D, H, W), or with `pool` their maxima in windows, and the last hidden state and cell.

    """
    dtype = dtype or frames.dtype
    tensors = (frames, w_input, w_hidden, bias, hidden, cell)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    frames, w_input, w_hidden = (x.contiguous() for x in (frames.to(dtype), w_input, w_hidden))
    hidden = None if hidden is None else hidden.to(dtype)
    cell = None if cell is None else cell.to(w_hidden.dtype)
    fused = pool if pool == 2 else 1
    features, hidden, cell, _, _ = _convlstm(frames, w_input, w_hidden, bias, hidden, cell, fused, keep)
    if pool != fused:
        features = F.max_pool2d(features.flatten(0, 1), pool).unflatten(0, features.shape[:2])
    return features, hidden, cell


# Operators of PyTorch's, so that torch.compile and torch.export take each as one node of their graphs.
@torch.library.custom_op("rsnn::convlstm_triton", mutates_args=())
def _convlstm(
    frames: Tensor,
    w_input: Tensor,
    w_hidden: Tensor,
    bias: Tensor | None,
    hidden: Tensor | None,
    cell: Tensor | None,
    pool: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return features, last hidden state and cell, and for backward (else empty) hidden states and cells, folded.

    The kept ones begin with those before the first step, (T + 1, N, 4 D, H / 2, W / 2).
    """
    features, last, after, hiddens, cells = _outputs(frames, w_input, w_hidden, pool, keep)
    if not last.numel():
        return features, last, after, hiddens, cells
    N, _, H, W = last.shape
    sizes, precision = _sizes(w_input, w_hidden), _precision(frames, w_hidden)
    weight, bias = _weights(w_input, w_hidden, bias, sizes, precision)
    block, options = _launch(FORWARD, sizes["R"], precision)
    frames = _even(frames)
    shape = (N, 4 * sizes["D"], (H + 1) // 2, (W + 1) // 2)
    hidden = _fold(hidden, hiddens[0] if keep else last.new_empty(shape))
    cell = _fold(cell, cells[0] if keep else after.new_empty(shape))
    group = N if keep or GROUP_BYTES is None else max(1, GROUP_BYTES * N // (3 * cell.numel() * cell.element_size()))
    turns = hidden.new_empty((2, min(group, N), *shape[1:])) if not keep else hiddens
    with torch.cuda.device_of(frames):
        for first in range(0, N, group):
            some = slice(first, first + group)
            h, c = hidden[some], cell[some]
            for t, x in enumerate(frames.unbind(0)):
                h_after = hiddens[t + 1] if keep else turns[t % 2, : len(h)]
                c_after = cells[t + 1] if keep else c
                _kernels().step_forward[_grid(h, block)](
                    x[some],
                    h,
                    c,
                    weight,
                    bias,
                    h_after,
                    c_after,
                    features[t, some],
                    H,
                    W,
                    **sizes,
                    POOL=pool,
                    BLOCK=block,
                    PRECISION=precision,
                    **options,
                )
                h, c = h_after, c_after
            _unfold(h, last[some])
            _unfold(c, after[some])
    return features, last, after, hiddens, cells


def _outputs(
    frames: Tensor, w_input: Tensor, w_hidden: Tensor, pool: int, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    T, N, _, H, W = frames.shape
    D = w_hidden.shape[1]
    kept = (T + 1, N, 4 * D, (H + 1) // 2, (W + 1) // 2) if keep else (0,)
    return (
        frames.new_empty((T, N, D, H // pool, W // pool)),
        frames.new_empty((N, D, H, W)),
        w_input.new_empty((N, D, H, W)),
        frames.new_empty(kept),
        w_input.new_empty(kept),
    )


@_convlstm.register_fake
def _(
    frames: Tensor, w_input: Tensor, w_hidden: Tensor, _bias: Any, _hidden: Any, _cell: Any, pool: int, keep: bool
) -> tuple[Tensor, ...]:
    return _outputs(frames, w_input, w_hidden, pool, keep)


@torch.library.custom_op("rsnn::convlstm_triton_backward", mutates_args=())
def _convlstm_backward(
    features_grad: Tensor | None,
    last_grad: Tensor | None,
    after_grad: Tensor | None,
    frames: Tensor,
    w_input: Tensor,
    w_hidden: Tensor,
    bias: Tensor | None,
    hiddens: Tensor,
    cells: Tensor,
    pool: int,
    needed: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients by frames, weights, bias, and state before the start, or what is empty if not needed."""
    results = _gradients(frames, w_input, w_hidden, needed)
    if not hiddens.numel():
        for result in results:
            result.zero_()
        return results
    frames_grad, w_input_grad, w_hidden_grad, bias_grad, hidden_grad, cell_grad = results
    T, _, _, H, W = frames.shape
    sizes, precision = _sizes(w_input, w_hidden), _precision(frames, w_hidden)
    weight, bias = _weights(w_input, w_hidden, bias, sizes, precision)
    back = _weight_back(w_hidden, precision)
    block, options = _launch(BACKWARD, sizes["R"], precision)
    frames = _even(frames)
    gate_grads = hiddens.new_empty((T, hiddens.shape[1], 4 * hiddens.shape[2], *hiddens.shape[3:]))
    h_grad, c_grad = _fold(last_grad, torch.empty_like(hiddens[0])), _fold(after_grad, torch.empty_like(cells[0]))
    with torch.cuda.device_of(frames):
        for t in reversed(range(T)):
            _kernels().step_backward[_grid(h_grad, block)](
                h_grad if features_grad is None else features_grad[t],
                h_grad,
                h_grad if t + 1 == T else gate_grads[t + 1],
                frames[t],
                hiddens[t],
                cells[t],
                weight,
                bias,
                back,
                c_grad,
                gate_grads[t],
                H,
                W,
                **sizes,
                KB=back.shape[1],
                POOL=pool,
                BLOCK=block,
                PRECISION=precision,
                FEATURES=features_grad is not None,
                LAST=t + 1 == T,
                **options,
            )
        if needed[0]:
            _convolve_back(gate_grads.flatten(0, 1), w_input, frames_grad.flatten(0, 1), precision)
        if needed[4]:
            _convolve_back(gate_grads[0], w_hidden, hidden_grad, precision)
        if any(needed[1:4]):
            sums = _weight_grads(gate_grads.flatten(0, 1), frames, hiddens, sizes, precision)
            for result, total, need in zip((w_input_grad, w_hidden_grad, bias_grad), sums, needed[1:4], strict=True):
                if need:
                    result.copy_(total)
    if needed[5]:
        _unfold(c_grad, cell_grad)
    return results


def _gradients(
    frames: Tensor, w_input: Tensor, w_hidden: Tensor, needed: list[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    state = (frames.shape[1], w_hidden.shape[1], *frames.shape[3:])
    shapes = (frames.shape, w_input.shape, w_hidden.shape, w_input.shape[:1], state, state)
    like = (frames, w_input, w_input, w_input, frames, w_input)
    results = (x.new_empty(shape if need else 0) for x, shape, need in zip(like, shapes, needed, strict=True))
    by_frames, by_w_input, by_w_hidden, by_bias, by_hidden, by_cell = results
    return by_frames, by_w_input, by_w_hidden, by_bias, by_hidden, by_cell


@_convlstm_backward.register_fake
def _(
    _features_grad: Any, _last_grad: Any, _after_grad: Any, frames: Tensor, w_input: Tensor, w_hidden: Tensor,
    _bias: Any, _hiddens: Any, _cells: Any, _pool: int, needed: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    return _gradients(frames, w_input, w_hidden, needed)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    frames, w_input, w_hidden, bias, _, _, ctx.pool, _ = inputs
    hiddens, cells = output[3:]
    ctx.save_for_backward(frames, w_input, w_hidden, bias, hiddens, cells)
    ctx.mark_non_differentiable(hiddens, cells)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    given = (None if x is None else x.contiguous() for x in gradients[:3])
    needed = list(ctx.needs_input_grad[:6])
    results = _convlstm_backward(*given, *ctx.saved_tensors, ctx.pool, needed)
    return (*(result if need else None for result, need in zip(results, needed, strict=True)), None, None)


_convlstm.register_autograd(_backward, setup_context=_setup_context)


def _convolve_back(gate_grads: Tensor, w: Tensor, result: Tensor, precision: str) -> None:
    """Write into `result` (N, channels, H, W) the gradient by what was convolved with `w`."""
    weight = _weight_back(w, precision)
    block, options = _launch(BACKWARD, weight.shape[0], precision)
    _kernels().convolve_back[_grid(gate_grads, block)](
        gate_grads,
        weight,
        result,
        *result.shape[2:],
        D=w.shape[0] // 4,
        K=w.shape[2],
        CHANNELS=w.shape[1],
        R=weight.shape[0],
        KB=weight.shape[1],
        BLOCK=block,
        CHUNK=CHUNK,
        PRECISION=precision,
        **options,
    )


def _weight_grads(
    gate_grads: Tensor, frames: Tensor, hiddens: Tensor, sizes: dict[str, int], precision: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients by the weights of both halves and the bias."""
    samples, _, height, width = gate_grads.shape
    C, D, K, R = (sizes[name] for name in ("C", "D", "K", "R"))
    # A column of ones, for the bias, where one is free: after the patches of the frames, or else of the hidden state.
    by_frames, by_hidden = C * (K + 1) ** 2, D * (K + 1) ** 2
    free = by_frames % WEIGHTS_CHUNK > 0
    KX, KH = _multiple(by_frames, WEIGHTS_CHUNK), _multiple(by_hidden + (not free), WEIGHTS_CHUNK)
    ones = by_frames if free else KX + by_hidden
    programs = min(WEIGHTS_PROGRAMS, samples * -(-height * width // WEIGHTS_BLOCK))
    state = torch.promote_types(frames.dtype, torch.float32)
    parts = frames.new_empty((programs, 4, R, KX + KH), dtype=state)
    _kernels().weight_grads[(programs * (KX + KH) // WEIGHTS_CHUNK,)](
        gate_grads,
        frames,
        hiddens,
        parts,
        samples,
        programs,
        height,
        width,
        C=C,
        D=D,
        K=K,
        R=R,
        KX=KX,
        KH=KH,
        ONES=ones,
        BLOCK=WEIGHTS_BLOCK,
        CHUNK=WEIGHTS_CHUNK,
        PRECISION=precision,
        num_warps=WEIGHTS_WARPS,
        num_stages=WEIGHTS_STAGES,
    )
    total = parts.sum(0)[:, : 4 * D].reshape(4 * D, 2, 2, KX + KH)
    return _gathered(total[..., :KX], C, K), _gathered(total[..., KX:], D, K), total[..., ones].sum((1, 2))


def _sizes(w_input: Tensor, w_hidden: Tensor) -> dict[str, int]:
    C, D, K = w_input.shape[1], w_hidden.shape[1], w_hidden.shape[2]
    patch = (K + 1) ** 2
    lengths = {"KX": _multiple(C * patch, CHUNK), "KH": _multiple(D * patch, CHUNK)}
    return {"C": C, "D": D, "K": K, "R": _rows(4 * D), "CHUNK": CHUNK} | lengths


def _weights(
    w_input: Tensor, w_hidden: Tensor, bias: Tensor | None, sizes: dict[str, int], precision: str
) -> tuple[Tensor, Tensor]:
    """Lay out weights (4, R, KX + KH) and bias (4, R) as the kernels take them."""
    C, D, K, R = (sizes[name] for name in ("C", "D", "K", "R"))
    given = (w_input, w_hidden) if bias is None else (w_input, w_hidden, bias)
    weight, rows = _taken(_places(C, D, K, bias is not None, CHUNK, w_input.device), *given).split_with_sizes(
        (4 * R * (sizes["KX"] + sizes["KH"]), 4 * R)
    )
    return _rounded(weight, precision).view(4, R, -1), rows.view(4, R)


def _weight_back(w: Tensor, precision: str) -> Tensor:
    """Lay out the weights of the convolution that takes gradients back, (R of the channels, KB)."""
    return _rounded(_taken(_places_back(*w.shape[:3], CHUNK, w.device), w), precision)


def _rounded(weight: Tensor, precision: str) -> Tensor:
    """Round weights in place to the nearest number of TF32, where that is what they are for: the GPU would cut bits."""
    if precision == "tf32":
        weight.view(torch.int32).add_(1 << 12).bitwise_and_(-1 << 13)
    return weight


# Where the numbers go is worked out once: a layout is then one operation in place of a score of them.
@functools.lru_cache(maxsize=256)
def _places(C: int, D: int, K: int, bias: bool, chunk: int, device: torch.device) -> Tensor:
    """Return which of the weights, counted from 1, goes where, or 0 for a zero: first weights, then bias."""
    padding = (0, 0, 0, _rows(4 * D) - 4 * D)
    lengths = (4 * D * C * K * K, 4 * D * D * K * K, 4 * D)
    by_input, by_hidden, rows = torch.arange(1, sum(lengths) + 1).split(lengths)
    halves = [_spread(w.view(4 * D, -1, K, K), chunk).unflatten(0, (4, 4 * D)) for w in (by_input, by_hidden)]
    rows = (rows * bias).view(4, D).repeat_interleave(4, 1)
    return torch.cat((F.pad(torch.cat(halves, 2), padding).flatten(), F.pad(rows, padding[2:]).flatten())).to(device)


@functools.lru_cache(maxsize=256)
def _places_back(outputs: int, inputs: int, K: int, chunk: int, device: torch.device) -> Tensor:
    w = torch.arange(1, outputs * inputs * K * K + 1).view(outputs, inputs, K, K)
    turned = _spread(w.transpose(0, 1).flip(2, 3), chunk)
    return F.pad(turned, (0, 0, 0, _rows(len(turned)) - len(turned))).to(device)


def _taken(places: Tensor, *tensors: Tensor) -> Tensor:
    """Return the numbers at `places` of a zero and all of `tensors`, one after the other."""
    return torch.cat([tensors[0].new_zeros(1), *(x.reshape(-1) for x in tensors)])[places]


def _spread(w: Tensor, chunk: int) -> Tensor:
    """Lay out weights (O, I, K, K) as a product with patches: (O 2 2, I (K + 1)^2 filled up to a multiple of `chunk`).

    A row is an output channel in one of the four pixels of a window, a column a place of the patch of an input channel.
    """
    outputs, inputs, K, _ = w.shape
    spread = w.new_zeros((outputs, 2, 2, inputs, K + 1, K + 1))
    for y in range(2):
        for x in range(2):
            spread[:, y, x, :, y : y + K, x : x + K] = w
    spread = spread.view(4 * outputs, inputs * (K + 1) ** 2)
    return F.pad(spread, (0, _multiple(spread.shape[1], chunk) - spread.shape[1]))


def _gathered(grad: Tensor, inputs: int, K: int) -> Tensor:
    """Return the gradient by weights (O, I, K, K), from that (O, 2, 2, columns) by what `_spread` made of them."""
    grad = grad[..., : inputs * (K + 1) ** 2].unflatten(3, (inputs, K + 1, K + 1))
    return sum(grad[:, y, x, :, y : y + K, x : x + K] for y in range(2) for x in range(2))  # type: ignore[return-value]


def _multiple(length: int, of: int) -> int:
    return -(-length // of) * of


def _rows(rows: int) -> int:
    return max(16, 1 << (rows - 1).bit_length())  # a matrix product has 16 rows at least


def _even(x: Tensor) -> Tensor:
    H, W = x.shape[-2:]
    return F.pad(x, (0, W % 2, 0, H % 2)) if H % 2 or W % 2 else x


def _fold(x: Tensor | None, folded: Tensor) -> Tensor:
    """Write `x` (N, D, H, W), or zeros, into `folded` (N, 4 D, H / 2, W / 2), and return that."""
    if x is None:
        return folded.zero_()
    folded.unflatten(1, (-1, 2, 2)).copy_(
        _even(x).unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 1, 3, 5, 2, 4)
    )
    return folded


def _unfold(folded: Tensor, x: Tensor) -> None:
    """Write what is folded into `x` (N, D, H, W)."""
    whole = folded.unflatten(1, (-1, 2, 2)).permute(0, 1, 4, 2, 5, 3)
    H, W = x.shape[2:]
    if H % 2 or W % 2:
        x.copy_(whole.flatten(4).flatten(2, 3)[..., :H, :W])
    else:
        x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).copy_(whole)


def _precision(frames: Tensor, w_hidden: Tensor) -> str:
    if w_hidden.dtype == torch.float64:
        return "ieee"
    half = frames.dtype != torch.float32  # what TF32 holds exactly
    return PRECISION_WITH_TF32 if half or gpu.tf32_is_allowed() else PRECISION


def _kernels() -> ModuleType:
    from rsnn.kernels import convlstm_triton_kernels

    return convlstm_triton_kernels


def _launch(choices: dict[int, tuple[int, int, int | None]], rows: int, precision: str) -> tuple[int, dict[str, int]]:
    """Return the windows of a program, and the options to launch it with."""
    block, warps, registers = choices[min(rows, max(choices))]
    limit = {} if registers is None or precision != "tf32" else {"maxnreg": registers}
    return block, {"num_warps": warps} | limit


def _grid(folded: Tensor, block: int) -> tuple[int]:
    samples, _, height, width = folded.shape
    return (samples * -(-height * width // block),)


def _self_test(device: str = "cuda") -> None:
    """Compare results and gradients of small cases, of few channels and of many, with plain PyTorch's.

    Raises:
        RuntimeError: they are not the same.

    """
    from rsnn.kernels import convlstm_triton_gates
    from rsnn.kernels.convlstm import _convolve, _steps

    C, H, W = 1, 5, 8
    for D, pool in ((2, 2), (HIDDEN_CHANNELS + 1, 1)):
        results = []
        for expected_one, at in ((True, "cpu"), (False, device)):
            frames = torch.linspace(-2.0, 2.0, 3 * C * H * W).mul(9).sin().reshape(3, 1, C, H, W).to(at)
            w_input = torch.linspace(0.0, 500.0, 4 * D * C * 9).sin().reshape(4 * D, C, 3, 3).to(at)
            w_hidden = torch.linspace(0.0, 3000.0, 4 * D * D * 9).sin().div(D**0.5).reshape(4 * D, D, 3, 3).to(at)
            bias = torch.linspace(-1.0, 1.0, 4 * D).to(at)
            given = [x.requires_grad_() for x in (frames, w_input, w_hidden, bias)]
            if not expected_one and D <= HIDDEN_CHANNELS:
                features, hidden, cell = convlstm(frames, w_input, w_hidden, bias, None, None, pool)
            else:
                from_input = _convolve(frames.flatten(0, 1), w_input, bias).unflatten(0, frames.shape[:2])
                steps = _steps if expected_one else convlstm_triton_gates.convlstm
                features, hidden, cell = steps(from_input, w_hidden, None, None)
                features = F.max_pool2d(features.flatten(0, 1), pool)
            (features.square().sum() + hidden.sum() + cell.square().sum()).backward()
            results.append([x.detach().cpu().flatten() for x in (features, hidden, cell)])
            results[-1] += [x.grad.cpu().flatten() for x in given if x.grad is not None]
        for expected, found in zip(*results, strict=True):
            # Loose enough for TF32.
            if not torch.allclose(expected, found, rtol=1e-2, atol=1e-2 * float(expected.abs().max())):
                raise RuntimeError("its results are not those of the torch kernel")
