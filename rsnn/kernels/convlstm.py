"""ConvLSTM: a whole sequence by the kernel that the device has, and in plain PyTorch, the reference of them all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from rsnn.kernels import convlstm_cupy, convlstm_native, convlstm_triton, convlstm_triton_gates
from rsnn.kernels.autocast import autocasts
from rsnn.kernels.selection import selected
from rsnn.kernels.watched import nothing_looks


def convlstm(
    frames: Tensor,
    w_input: Tensor,
    w_hidden: Tensor,
    bias: Tensor | None = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    *,
    pool: int = 1,
    places: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run frames through a ConvLSTM layer: for every step [`convlstm_step`][rsnn.kernels.convlstm_step] of

    gates = w_input * X_t + w_hidden * H_{t-1} + bias

    Args:
        frames: (T, N, C, H, W).
        w_input: weights (4 D, C, K, K) of the gates i, f, o, g; zero padding keeps the size.
        w_hidden: weights (4 D, D, K, K).
        bias: (4 D), or None.
        hidden, cell: state (N, D, H, W) before the first step; zeros where they are None.
        pool: side of the windows whose maxima are returned in place of the hidden states.
        places: (D, H, W) of int64; where given, how often each hidden state is not zero is added to it, over all steps
            and samples.

    Returns:
        the hidden states (T, N, D, H, W), or their maxima (T, N, D, H // pool, W // pool); and hidden state and cell
        after the last step. Under autocast the cell keeps the weights' type and the hidden states take autocast's.

    """  # noqa: D400, D415
    dtype, device = frames.dtype, frames.device.type
    if autocasts(device) and w_input.dtype != torch.float64:  # which autocast leaves alone
        dtype = torch.get_autocast_dtype(device)
    tensors = (w_input, w_hidden, bias)
    kernel = selected(frames.device, "convlstm")
    native = kernel == "native" and convlstm_native.supports(frames, *tensors)
    if places is not None and not (native and nothing_looks()):
        features, hidden, cell = convlstm(frames, *tensors, hidden, cell)
        places += features.count_nonzero(dim=(0, 1))
        return _pooled(features, pool), hidden, cell
    if native:
        h, c = (None if x is None else x.to(w_input.dtype) for x in (hidden, cell))
        features, hidden, cell = convlstm_native.convlstm(
            frames.to(w_input.dtype), *tensors, h, c, pool, reduced=dtype == torch.bfloat16, places=places
        )
        return features.to(dtype), hidden.to(dtype), cell
    if kernel == "cupy":
        if convlstm_cupy.supports(frames, *tensors, pool, dtype):
            return convlstm_cupy.convlstm(frames, *tensors, hidden, cell, pool, dtype=dtype)
        kernel = selected(frames.device, "convlstm", besides=("cupy",))
    if kernel == "triton" and convlstm_triton.supports(frames, *tensors, dtype):
        return convlstm_triton.convlstm(frames, *tensors, hidden, cell, pool, dtype=dtype)
    # Only the hidden half has to wait for the step before: the input half is one convolution over all steps.
    from_input = _convolve(frames.flatten(0, 1), w_input, bias).unflatten(0, frames.shape[:2])
    if kernel == "triton" and convlstm_triton_gates.supports(from_input, w_hidden):
        features, hidden, cell = convlstm_triton_gates.convlstm(from_input, w_hidden, hidden, cell)
    else:
        features, hidden, cell = _steps(from_input, w_hidden, hidden, cell)
    return _pooled(features, pool), hidden, cell


def _pooled(features: Tensor, pool: int) -> Tensor:
    return features if pool == 1 else F.max_pool2d(features.flatten(0, 1), pool).unflatten(0, features.shape[:2])


def _steps(
    from_input: Tensor, w_hidden: Tensor, hidden: Tensor | None, cell: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return convlstm_steps(from_input, lambda h: _convolve(h, w_hidden), hidden, cell, dtype=w_hidden.dtype)


def convlstm_steps(
    from_input: Tensor,
    from_hidden: Callable[[Tensor], Tensor],
    hidden: Tensor | None,
    cell: Tensor | None,
    *,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the recurrence for gates whose input half is computed, one operation at a time.

    Args:
        from_input: the input half (T, N, 4 D, H, W).
        from_hidden: makes the other half (N, 4 D, H, W) of a hidden state (N, D, H, W).
        hidden, cell: as in `convlstm`.
        dtype: of the cell; under autocast too it adds up over the steps in the weights' type.

    Returns:
        the hidden states (T, N, D, H, W), and hidden state and cell after the last step.

    """
    N, gates, H, W = from_input.shape[1:]
    shape = (N, gates // 4, H, W)
    hidden = from_input.new_zeros(shape) if hidden is None else hidden.to(from_input.dtype)
    cell = from_input.new_zeros(shape, dtype=dtype) if cell is None else cell.to(dtype)
    outputs = []
    for half in from_input.unbind(0):
        hidden, cell = convlstm_step(half + from_hidden(hidden), cell)
        outputs.append(hidden)
    return torch.stack(outputs), hidden, cell


def convlstm_step(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Update hidden state and cell from the summed convolutions.

    i, f, o = sigmoid(gates_i), sigmoid(gates_f), sigmoid(gates_o);  g = tanh(gates_g)
    cell = f o cell + i o g
    hidden = o o tanh(cell)

    Args:
        gates: pre-activations (N, 4 C, H, W), in the order i, f, o, g.
        cell: cell state (N, C, H, W) of the step before.

    Returns:
        hidden and cell, (N, C, H, W) each: hidden in the type of `gates`, the cell in its own, so that under autocast
        a float32 cell keeps adding up in float32.

    """
    channels = cell.shape[1]
    i, f, o = gates[:, : 3 * channels].sigmoid().chunk(3, dim=1)
    g = gates[:, 3 * channels :].tanh()
    cell = f * cell + i * g
    return o * cell.tanh().to(o.dtype), cell


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    side = weight.shape[2]
    if side % 2 == 0:
        return F.conv2d(padded(x, side), weight, bias)
    return F.conv2d(x, weight, bias, padding=side // 2)


def padded(x: Tensor, side: int) -> Tensor:
    """Return `x` (N, C, H, W) in the zeros that let a convolution with kernels of `side` keep its size."""
    before, after = (side - 1) // 2, side // 2
    return F.pad(x, (before, after, before, after))
