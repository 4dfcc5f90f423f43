"""ConvLSTM layers of few channels in CUDA (`convlstm_step.cu`, `convlstm_back.cu`), through CuPy: a step is one launch.

Forward is a single launch for all steps where that can be (`convlstm_sequence_cupy.py`). It keeps hidden states and
cells alone; backward computes the gates anew from them, step by step, and then the gradients by weights and frames from
all steps at once (`convlstm_gradients_cupy.py`). The convolutions are products of TF32, or of half precision, on tensor
cores.

Shapes: T steps, N batch, C channels of the frames, D of the hidden states, H height, W width.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from rsnn.kernels import convlstm_gradients_cupy, convlstm_sequence_cupy, cuda, gpu, lif_cupy
from rsnn.kernels.convlstm_sequence_cupy import by_single_operations, small_case
from rsnn.kernels.watched import nothing_looks, sees_no_steps, shortest_way

FRAME_CHANNELS = 4
HIDDEN_CHANNELS = 6
# Blocks that should fit into a multiprocessor at once: what registers and shared memory leave room for. Forward with up
# to 4 hidden channels and with more, backward. And how many times as many a launch has at most.
BLOCKS = (5, 4)
BLOCKS_BACK = 4
FILL = 1
# Every other step goes through the images from the end, to find in the second-level cache what was written last.
ALTERNATE = True

_REDUCED = (torch.float16, torch.bfloat16)


@functools.cache
def unavailable() -> str | None:
    """Return why this kernel cannot run on the current device, or None."""
    reason = lif_cupy.unavailable()
    if reason is None and not _works(torch.device("cuda", torch.cuda.current_device())):
        reason = "it needs tensor cores (compute capability 8.0), and to pass its self-test on them"
    return reason


def supports(
    frames: Tensor, w_input: Tensor, w_hidden: Tensor, bias: Tensor | None, pool: int, dtype: torch.dtype
) -> bool:
    """Tell whether the kernels take these frames (T, N, C, H, W) and weights, for hidden states in `dtype`.

    They do so in float32 where PyTorch's convolutions are in TF32 too.
    """
    if not sees_no_steps(frames):
        return False
    C, (H, W) = w_input.shape[1], frames.shape[3:]
    D = w_hidden.shape[1]
    return (
        all(x is None or x.dtype == torch.float32 for x in (w_input, w_hidden, bias))
        and frames.dtype in (torch.float32, *_REDUCED)
        and (dtype in _REDUCED or (dtype == torch.float32 == frames.dtype and gpu.tf32_is_allowed()))
        and frames.shape[2] == C <= FRAME_CHANNELS
        and D <= HIDDEN_CHANNELS
        and w_input.shape[2:] == w_hidden.shape[2:] == (3, 3)
        and (H % 2, W % 2) == (0, 0)
        and pool in (1, 2)
        and frames.numel() > 0
        and frames[0].numel() * max(C, D) < 1 << 31
        and _works(frames.device)
        and (not torch.is_grad_enabled() or _trains(frames.device))
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
    """Run `frames` (T, N, C, H, W) through the layer; see [`rsnn.kernels.convlstm`][] and `supports`.

    Its gradients have no second derivatives.

    Args:
        dtype: type of the hidden states, that of the frames where it is None; the cell is in float32.

    Returns:
        the hidden states (T, N, D, H, W), or with `pool` their maxima in windows, and the last hidden state and cell.

    """
    dtype = dtype or frames.dtype
    tensors = (frames, w_input, w_hidden, bias, hidden, cell)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    hidden = None if hidden is None else hidden.to(dtype)
    cell = None if cell is None else cell.to(torch.float32)
    run = shortest_way(_convlstm, _forward, _ConvLSTM)
    features, hidden, cell, _, _ = run(frames.to(dtype).contiguous(), w_input, w_hidden, bias, hidden, cell, pool, keep)
    return features, hidden, cell


def _forward(
    frames: Tensor,
    w_input: Tensor,
    w_hidden: Tensor,
    bias: Tensor | None,
    hidden: Tensor | None,
    cell: Tensor | None,
    pool: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return features, last hidden state and cell, and for backward (else empty) those after all steps before the last.

    Without pooling the features are the hidden states, and kept as such.
    """
    outputs = _outputs(frames, w_hidden, pool, keep)
    given = (_aligned(frames), w_input, w_hidden, bias, _aligned(hidden), _aligned(cell), pool)
    if convlstm_sequence_cupy.supports(frames, w_hidden):
        kept = (outputs[3] if pool > 1 else None, outputs[4]) if keep else (None, None)
        convlstm_sequence_cupy.run(*given, (*outputs[:3], *kept))
    else:
        _forward_by_steps(*given, keep, outputs)
    return outputs


def _forward_by_steps(
    frames: Tensor,
    w_input: Tensor,
    w_hidden: Tensor,
    bias: Tensor | None,
    h: Tensor | None,
    c: Tensor | None,
    pool: int,
    keep: bool,
    outputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
) -> None:
    """Compute what `_forward` returns into `outputs`, a launch for each step."""
    features, last, after, hiddens, cells = outputs
    T, N, _, H, W = frames.shape
    weight, start = _weights(w_input, w_hidden, bias)
    turns = frames.new_empty((0 if pool == 1 or keep else 2, *last.shape))
    fit, parts, warps = BLOCKS[w_hidden.shape[1] > 4], -(-w_hidden.shape[1] // 4), cuda.THREADS // 32
    blocks = min(-(-N * (H // 2) * -(-W // 16) * parts // warps), FILL * fit * cuda.processors(frames.device))
    steps: list[tuple[Tensor | float | None, ...]] = []
    for t, frame in enumerate(frames.unbind(0)):
        ends = t + 1 == T
        h_after = features[t] if pool == 1 else last if ends else hiddens[t] if keep else turns[t % 2]
        c_after = cells[t] if keep and not ends else after
        steps.append((frame, h, c, weight, start, N, blocks, _turned(t), h_after, c_after, features[t]))
        h, c = h_after, c_after
    cuda.launch("convlstm_step.cu", "convlstm_step", _macros(frames, w_hidden, pool, fit), blocks, *steps)
    if pool == 1:
        last.copy_(features[-1])


# Operators of PyTorch's, so that torch.compile and torch.export take each as one node of their graphs.
_convlstm = torch.library.custom_op("rsnn::convlstm_cupy", mutates_args=())(_forward)


@_convlstm.register_fake
def _(
    frames: Tensor, _w_input: Any, w_hidden: Tensor, _bias: Any, _hidden: Any, _cell: Any, pool: int, keep: bool
) -> tuple[Tensor, ...]:
    return _outputs(frames, w_hidden, pool, keep)


def _outputs(frames: Tensor, w_hidden: Tensor, pool: int, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    T, N, _, H, W = frames.shape
    D = w_hidden.shape[1]
    kept = (T - 1, N, D, H, W) if keep else (0,)
    return (
        frames.new_empty((T, N, D, H // pool, W // pool)),
        frames.new_empty((N, D, H, W)),
        frames.new_empty((N, D, H, W), dtype=torch.float32),
        frames.new_empty((0,) if pool == 1 else kept),
        frames.new_empty(kept, dtype=torch.float32),
    )


def _gradients(
    features_grad: Tensor | None,
    last_grad: Tensor | None,
    after_grad: Tensor | None,
    frames: Tensor,
    w_input: Tensor,
    w_hidden: Tensor,
    bias: Tensor | None,
    hidden: Tensor | None,
    cell: Tensor | None,
    hiddens: Tensor,
    cells: Tensor,
    pool: int,
    needed: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients by frames, weights, bias, and state before the start, or what is empty if not needed."""
    T, N, _, H, W = frames.shape
    frames, hidden, cell = _aligned(frames), _aligned(hidden), _aligned(cell)
    features_grad, last_grad, c_grad = _aligned(features_grad), _aligned(last_grad), _aligned(after_grad)
    weight, start = _weights(w_input, w_hidden, bias)
    back = _weights_back(w_hidden)
    gate_grads = frames.new_empty((T, N, w_hidden.shape[0], H, W))
    cell_grad = frames.new_empty((N, w_hidden.shape[1], H, W), dtype=torch.float32)
    blocks = min(N * -(-H // 4) * -(-W // 32), FILL * BLOCKS_BACK * cuda.processors(frames.device))
    steps: list[tuple[Tensor | float | None, ...]] = []
    for t in reversed(range(T)):
        ends = t + 1 == T
        before, c = (hiddens[t - 1], cells[t - 1]) if t else (hidden, cell)
        later, h_grad = (None, last_grad) if ends else (gate_grads[t + 1], None)
        f_grad = None if features_grad is None else features_grad[t]
        given = (frames[t], before, c, weight, start, back, later, h_grad, f_grad, c_grad)
        steps.append((*given, N, blocks, _turned(t), gate_grads[t], cell_grad))
        c_grad = cell_grad
    macros = _macros(frames, w_hidden, pool, BLOCKS_BACK)
    cuda.launch("convlstm_back.cu", "convlstm_step_back", macros, blocks, *steps)
    by_frames, by_w_input, by_w_hidden, by_bias, by_hidden, by_cell = (start.new_empty(0) for _ in needed)
    if needed[0]:
        by_frames = convlstm_gradients_cupy.convolve_back(gate_grads, w_input, frames.dtype)
    if any(needed[1:4]):
        sums = convlstm_gradients_cupy.weight_gradients(gate_grads, frames, hidden, hiddens)
        by_w_input, by_w_hidden, by_bias = (x.clone() for x in sums)  # an operator's results have memory of their own
    if needed[4]:
        by_hidden = convlstm_gradients_cupy.convolve_back(gate_grads[:1], w_hidden, frames.dtype)[0]
    if needed[5]:
        by_cell = cell_grad
    return by_frames, by_w_input, by_w_hidden, by_bias, by_hidden, by_cell


_convlstm_backward = torch.library.custom_op("rsnn::convlstm_cupy_backward", mutates_args=())(_gradients)


@_convlstm_backward.register_fake
def _(
    _features_grad: Any, _last_grad: Any, _after_grad: Any, frames: Tensor, w_input: Tensor, w_hidden: Tensor,
    _bias: Any, _hidden: Any, _cell: Any, _hiddens: Any, _cells: Any, _pool: int, needed: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    weights = any(needed[1:4])
    state = (frames.shape[1], w_hidden.shape[1], *frames.shape[3:])
    shapes = (frames.shape, w_input.shape, w_hidden.shape, w_input.shape[:1], state, state)
    wanted = (needed[0], weights, weights, weights, *needed[4:])
    like = (frames, w_input, w_input, w_input, frames, w_input)
    return tuple(
        x.new_empty(shape) if want else w_input.new_empty(0)
        for x, shape, want in zip(like, shapes, wanted, strict=True)
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *given, ctx.pool, _ = inputs
    features, _, _, hiddens, cells = output
    ctx.save_for_backward(*given, features if ctx.pool == 1 else hiddens, cells)
    ctx.mark_non_differentiable(hiddens, cells)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    run: Any = _gradients if nothing_looks() else _convlstm_backward
    needed = list(ctx.needs_input_grad[:6])
    results = run(*gradients[:3], *ctx.saved_tensors, ctx.pool, needed)
    return (*(result if need else None for result, need in zip(results, needed, strict=True)), None, None)


_convlstm.register_autograd(_backward, setup_context=_setup_context)


class _ConvLSTM(torch.autograd.Function):
    forward = staticmethod(_forward)
    setup_context = staticmethod(_setup_context)
    backward = staticmethod(_backward)


def _turned(t: int) -> int:
    return t % 2 if ALTERNATE else 0


def _macros(frames: Tensor, w_hidden: Tensor, pool: int, blocks: int) -> dict[str, int]:
    """Return the macros of a kernel of which `blocks` should fit into a multiprocessor."""
    C, H, W = frames.shape[2:]
    # Those of no neuron are what the text before the kernels needs.
    macros = cuda.neuron_macros(frames.dtype, None, 0, False, True)
    macros |= {"VECTOR": 1, "DEPTH": 1, "BLOCKS": blocks}
    return macros | {"CHANNELS": C, "HIDDEN": w_hidden.shape[1], "HEIGHT": H, "WIDTH": W, "POOL": pool}


def _aligned(x: Any) -> Any:
    """Return a tensor contiguous and where 16 bytes can be loaded at once; None where there is none."""
    if x is None:
        return None
    x = x.contiguous()
    return x.clone() if x.data_ptr() % 16 else x


def _weights(w_input: Tensor, w_hidden: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Lay out weights (parts, products, 32 lanes, 4) and bias (parts, 2, 32 lanes) as lanes hand them to the products.

    A number of a lane is in row lane // 4 or, the second and fourth, in the one 8 further, and in column lane % 4 or,
    the last two, in the one 4 further.
    """
    places = _places(w_input.shape[1], w_hidden.shape[1], bias is not None, w_input.device)
    given = [x.reshape(-1) for x in (w_input, w_hidden, bias) if x is not None]
    laid_out = torch.cat([w_input.new_zeros(1), *given])[places]
    parts = -(-w_hidden.shape[1] // 4)
    weight, start = laid_out.split_with_sizes((len(places) - 64 * parts, 64 * parts))
    return weight, start


@functools.cache
def _places(C: int, D: int, has_bias: bool, device: torch.device) -> Tensor:
    """Return which of the weights, counted from 1, goes where, or 0 for a zero: first weights, then bias."""
    lengths = (4 * D * C * 9, 4 * D * D * 9, 4 * D)
    by_input, by_hidden, rows = torch.arange(1, sum(lengths) + 1).split(lengths)
    by_input, by_hidden = by_input.view(4, D, C, 3, 3), by_hidden.view(4, D, D, 3, 3)
    rows = (rows * has_bias).view(4, D)
    parts, products = -(-D // 4), 12 if D > 4 else 9
    weight, start = torch.zeros(parts, products, 32, 4, dtype=torch.long), torch.zeros(parts, 2, 32, dtype=torch.long)
    for part in range(parts):
        for lane in range(32):
            row, q = divmod(lane, 4)
            channel = 4 * part + row // 2
            if channel >= D:
                continue
            for half in range(2):
                gate = 2 * half + row % 2
                start[part, half, lane] = rows[gate, channel]
                if q < D:
                    weight[part, :9, lane, half] = by_hidden[gate, channel, q].flatten()
                if q < C:
                    weight[part, :9, lane, 2 + half] = by_input[gate, channel, q].flatten()
                if 4 + q % 2 < D:  # row q // 2 of the taps, and the last one
                    other = by_hidden[gate, channel, 4 + q % 2]
                    weight[part, 9:, lane, half] = other[q // 2]
                    weight[part, 9:, lane, 2 + half] = other[2] * (q < 2)
    return torch.cat((weight.flatten(), start.flatten())).to(device)


def _weights_back(w_hidden: Tensor) -> Tensor:
    """Lay out the weights turned round, (parts, eights of gates, 3 taps, 32 lanes, 4), for the step backward.

    Rows of a product are a channel's three rows of taps: the even rows have the last and, 8 further, the first, the odd
    ones have the one between. Columns are eight of the gates.
    """
    return torch.cat([w_hidden.new_zeros(1), w_hidden.reshape(-1)])[_places_back(w_hidden.shape[1], w_hidden.device)]


@functools.cache
def _places_back(D: int, device: torch.device) -> Tensor:
    """Return which of the weights (4 D, D, 3, 3), counted from 1, goes where, or 0 for a zero."""
    given = torch.arange(1, 4 * D * D * 9 + 1).view(4 * D, D, 3, 3)
    parts, eights = -(-D // 4), -(-D // 2)
    places = torch.zeros(parts, eights, 3, 32, 4, dtype=torch.long)
    for part in range(parts):
        for lane in range(32):
            row, q = divmod(lane, 4)
            channel = 4 * part + row // 2
            if channel >= D:
                continue
            for eight in range(eights):
                for i in range(4):
                    gate, down = 8 * eight + q + 4 * (i // 2), 1 if row % 2 else 2 * (i % 2)
                    if gate < 4 * D and (row % 2, i % 2) != (1, 1):
                        places[part, eight, :, lane, i] = given[gate, channel, 2 - down].flip(0)
    return places.flatten().to(device)


def _works(device: torch.device) -> bool:
    return gpu.works(device, _self_test, "the ConvLSTM's steps")


def _trains(device: torch.device) -> bool:
    return convlstm_gradients_cupy.works(device) and gpu.works(device, _self_test_back, "the ConvLSTM's steps backward")


# As in selection.py: what they find out is no part of a graph that torch.compile makes of the caller.
_works._dynamo_marked_constant = True  # type: ignore[attr-defined]
_trains._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _self_test(device: torch.device) -> None:
    """Compare small cases with plain PyTorch's on the CPU.

    Raises:
        RuntimeError: the results are not the same.

    """
    for C, D in ((2, 4), (4, 6)):
        for expected, found in zip(_case(None, C, D), _case(device, C, D), strict=True):
            if not torch.allclose(expected, found.cpu(), rtol=1e-2, atol=1e-2):  # loose enough for TF32
                raise RuntimeError("its results are not those of the torch kernel")


def _self_test_back(device: torch.device) -> None:
    """Compare the gradients of small cases with plain PyTorch's on the CPU.

    Raises:
        RuntimeError: they are not the same.

    """
    with torch.inference_mode(False), torch.enable_grad():
        for C, D in ((2, 4), (4, 6)):
            for i, (expected, found) in enumerate(zip(_case(None, C, D), _case(device, C, D), strict=True)):
                # Loose enough for TF32, in which another pixel of a window can be the largest and have its gradient.
                most = 5e-2 if i == 3 else 5e-3
                if not (expected - found.cpu()).norm() < most * expected.norm():
                    raise RuntimeError("its results are not those of the torch kernel")


def _case(device: torch.device | None, C: int, D: int) -> list[Tensor]:
    """Return what the kernels make of a small case on a device, or PyTorch on the CPU: results, and any gradients."""
    given = [x.to(device or "cpu").requires_grad_(torch.is_grad_enabled()) for x in small_case(3, 2, C, D, 4, 32)]
    frames, w_input, w_hidden, bias = given
    if device is None:
        features, *state = by_single_operations(frames, w_input, w_hidden, bias)
    elif torch.is_grad_enabled():
        features, *state = convlstm(frames, w_input, w_hidden, bias, None, None, 2)
    else:
        outputs = _outputs(frames, w_hidden, 2, False)
        _forward_by_steps(frames, w_input, w_hidden, bias, None, None, 2, False, outputs)
        features, *state = outputs[:3]
    if not torch.is_grad_enabled():
        return [features, *state]
    loss = features.square().sum() + state[0].sum() + state[1].square().sum()
    return [x.detach() for x in (features, *state, *torch.autograd.grad(loss, given))]
