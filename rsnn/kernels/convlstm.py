"""The pointwise half of a ConvLSTM step: from gate pre-activations and cell to the next hidden state and cell."""

from __future__ import annotations

from torch import Tensor


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
