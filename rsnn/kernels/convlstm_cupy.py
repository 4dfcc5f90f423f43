"""ConvLSTM layers of few channels in CUDA (`convlstm_step.cu`), through CuPy: a step of a layer is one launch.

Without gradients only. The convolutions are products of TF32 on tensor cores.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from rsnn.kernels import cuda, gpu
from rsnn.kernels.watched import nothing_looks, sees_no_steps

FRAME_CHANNELS = 4
HIDDEN_CHANNELS = 6
# Blocks that should fit into a multiprocessor at once, with up to 4 hidden channels and with more: what the registers
# leave room for. And how many times as many a launch has at most.
BLOCKS = (5, 4)
FILL = 1

_REDUCED = (torch.float16, torch.bfloat16)


def supports(
    frames: Tensor, w_input: Tensor, w_hidden: Tensor, bias: Tensor | None, pool: int, dtype: torch.dtype
) -> bool:
    """Tell whether the kernel takes these frames (T, N, C, H, W) and weights, for hidden states in `dtype`.

    It does so in float32 where PyTorch's convolutions are in TF32 too, and where no gradient is asked for.
    """
    if not (nothing_looks() and sees_no_steps(frames)):
        return False
    C, (H, W) = w_input.shape[1], frames.shape[3:]
    D = w_hidden.shape[1]
    precision: str = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    return (
        all(x is None or x.dtype == torch.float32 for x in (w_input, w_hidden, bias))
        and frames.dtype in (torch.float32, *_REDUCED)
        and (dtype in _REDUCED or (dtype == torch.float32 == frames.dtype and precision == "tf32"))
        and frames.shape[2] == C <= FRAME_CHANNELS
        and D <= HIDDEN_CHANNELS
        and w_input.shape[2:] == w_hidden.shape[2:] == (3, 3)
        and (H % 2, W % 2) == (0, 0)
        and pool in (1, 2)
        and frames.numel() > 0
        and frames[0].numel() * max(C, D) < 1 << 31
        and _works(frames.device)
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

    Args:
        dtype: type of the hidden states, that of the frames where it is None; the cell is in float32.

    Returns:
        the hidden states (T, N, D, H, W), or with `pool` their maxima in windows, and the last hidden state and cell.

    """
    dtype = dtype or frames.dtype
    T, N, C, H, W = frames.shape
    D = w_hidden.shape[1]
    frames = _aligned(frames, dtype)
    hidden = frames.new_zeros((N, D, H, W)) if hidden is None else _aligned(hidden, dtype)
    cell = None if cell is None else _aligned(cell, torch.float32)
    weight, start = _weights(w_input, w_hidden, bias)
    features = frames.new_empty((T, N, D, H // pool, W // pool))
    turns, last = frames.new_empty((0 if pool == 1 else 2, N, D, H, W)), frames.new_empty((N, D, H, W))
    after = torch.empty((N, D, H, W), device=frames.device)
    fit, parts, warps = BLOCKS[D > 4], -(-D // 4), cuda.THREADS // 32
    groups = N * (H // 2) * -(-W // 16)
    blocks = min(-(-groups * parts // warps), FILL * fit * _processors(frames.device))
    steps = []
    before, c = hidden, cell
    for t, frame in enumerate(frames.unbind(0)):
        h = features[t] if pool == 1 else last if t + 1 == T else turns[t % 2]
        steps.append((frame, before, c, weight, start, N, blocks, h, after, features[t]))
        before, c = h, after
    macros = cuda.neuron_macros(dtype, 1.0, 0, False, True)
    macros |= {"VECTOR": 1, "DEPTH": 1, "BLOCKS": fit}
    macros |= {"CHANNELS": C, "HIDDEN": D, "HEIGHT": H, "WIDTH": W, "POOL": pool}
    cuda.launch("convlstm_step.cu", "convlstm_step", macros, blocks, *steps)
    if pool == 1:
        last.copy_(features[-1])
    return features, last, after


def _aligned(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `x` in `dtype`, contiguous and where two neighbours can be loaded at once."""
    x = x.to(dtype).contiguous()
    return x.clone() if x.data_ptr() % (2 * x.itemsize) else x


@functools.cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


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


def _works(device: torch.device) -> bool:
    return gpu.works(device, _self_test, "the ConvLSTM's steps")


def _self_test(device: torch.device) -> None:
    """Compare small cases with plain PyTorch's on the CPU.

    Raises:
        RuntimeError: the results are not the same.

    """
    from rsnn.kernels.convlstm import _convolve, _steps

    T, N, H, W = 3, 2, 4, 32
    for C, D in ((2, 4), (4, 6)):
        frames = torch.linspace(-2.0, 2.0, T * N * C * H * W).mul(9).sin().reshape(T, N, C, H, W)
        w_input = torch.linspace(0.0, 500.0, 4 * D * C * 9).sin().div(2).reshape(4 * D, C, 3, 3)
        w_hidden = torch.linspace(0.0, 3000.0, 4 * D * D * 9).sin().div(2).reshape(4 * D, D, 3, 3)
        bias = torch.linspace(-1.0, 1.0, 4 * D)
        from_input = _convolve(frames.flatten(0, 1), w_input, bias).unflatten(0, (T, N))
        single, *state = _steps(from_input, w_hidden, None, None)
        expected = (F.max_pool2d(single.flatten(0, 1), 2).unflatten(0, (T, N)), *state)
        given = [x.to(device) for x in (frames, w_input, w_hidden, bias)]
        found = convlstm(given[0], given[1], given[2], given[3], None, None, 2)
        for one, other in zip(expected, found, strict=True):
            if not torch.allclose(one, other.cpu(), rtol=1e-2, atol=1e-2):  # loose enough for TF32
                raise RuntimeError("its results are not those of the torch kernel")
