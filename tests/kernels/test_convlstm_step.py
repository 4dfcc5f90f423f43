"""The pointwise half of the ConvLSTM."""

from __future__ import annotations

import math

import torch

from rsnn.kernels import convlstm_step


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_one_pixel_worked_by_hand():
    i, f, o, g, c = 0.3, -0.7, 1.1, -0.4, 0.8
    hidden, cell = convlstm_step(torch.tensor([i, f, o, g]).reshape(1, 4, 1, 1), torch.tensor([[[[c]]]]))
    expected = sigmoid(f) * c + sigmoid(i) * math.tanh(g)
    torch.testing.assert_close(cell.item(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(hidden.item(), sigmoid(o) * math.tanh(expected), rtol=1e-6, atol=0)


def test_gradcheck():
    generator = torch.Generator().manual_seed(1)
    gates = torch.randn(2, 12, 2, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    cell = torch.randn(2, 3, 2, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(convlstm_step, (gates, cell))


def test_a_float32_cell_stays_float32_under_half_precision_gates():
    gates, cell = torch.randn(1, 4, 2, 2).bfloat16(), torch.randn(1, 1, 2, 2)
    hidden, after = convlstm_step(gates, cell)
    assert (hidden.dtype, after.dtype) == (torch.bfloat16, torch.float32)
