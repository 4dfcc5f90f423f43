"""NeuNorm against a loop of the published equations, one pixel at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from plain_loops import neuron_norm

from rsnn.errors import InputError
from rsnn.nn import NeuNorm


@pytest.mark.parametrize(("channels", "size", "decay"), [(3, (2, 4), 0.9), (1, (3, 1), 0.2), (4, (2, 2), 0.0)])
def test_same_as_a_loop_of_the_equations(channels, size, decay):
    torch.manual_seed(0)
    norm = NeuNorm(channels, size, decay).double()
    with torch.no_grad():
        norm.weight.normal_()
    spikes = torch.bernoulli(torch.full((5, 2, channels, *size), 0.5, dtype=torch.float64))
    result, state = norm(spikes)
    for n in range(2):
        expected, x = neuron_norm(spikes[:, n].numpy(), norm.weight.detach().numpy(), decay)
        np.testing.assert_allclose(result[:, n].detach().numpy(), expected, rtol=0, atol=1e-14)
        np.testing.assert_allclose(state[n].numpy(), x, rtol=0, atol=1e-14)


def test_worked_by_hand():
    """Two maps of one pixel, decay 0.5: v = 0.25, so a step in which both fire adds 0.25 / 2 * 2 = 0.25."""
    norm = NeuNorm(2, (1, 1), decay=0.5)
    with torch.no_grad():
        norm.weight[1] = 2.0
    spikes = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]).reshape(3, 1, 2, 1, 1)
    result, state = norm(spikes)
    assert result.flatten(1).tolist() == [[0.75, 0.5], [-0.25, 0.5], [-0.125, -0.25]]  # x: 0.25, 0.25, 0.125
    assert state.item() == 0.125


def test_starts_at_the_auxiliary_neurons_own_strength():
    assert torch.equal(NeuNorm(3, (2, 4)).weight, torch.ones(3, 2, 4))


def test_every_weight_learns():
    norm = NeuNorm(3, (2, 2))
    norm(torch.ones(2, 1, 3, 2, 2))[0].sum().backward()
    assert norm.weight.grad.ne(0).all()


def test_a_pixel_is_inhibited_by_its_own_maps_only():
    norm = NeuNorm(2, (2, 2))
    spikes = torch.zeros(1, 1, 2, 2, 2)
    spikes[..., 0, 1] = 1
    result, _ = norm(spikes)
    assert (result != 0).sum() == 2
    assert (result[..., 0, 1] < 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels=0"),
        ({"size": 4}, r"size=4: expected \(height, width\)"),
        ({"size": (4, 0)}, r"size=\(4, 0\)"),
        ({"decay": 1.0}, "decay=1.0: expected a number from 0 to below 1"),
        ({"decay": -0.1}, "decay=-0.1"),
        ({"decay": math.nan}, "decay=nan"),
        ({"decay": "0.5"}, "decay='0.5'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(InputError, match=message):
        NeuNorm(**{"channels": 2, "size": (4, 4), **options})
