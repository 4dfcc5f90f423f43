"""Spike response neurons against the published equations, with both kernels summed over the whole past."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_loops import spike_response, spike_response_gradient

from rsnn.errors import InputError
from rsnn.kernels import ATan, Exponential
from rsnn.nn import SRM


def inputs(steps=25, samples=6, seed=0, scale=1.0):
    return torch.randn(steps, samples, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize(
    ("tau_s", "tau_r", "theta", "refractory"),
    [(1.0, 1.0, 1.0, 2.0), (10.0, 1.0, 10.0, 2.0), (2.5, 4.0, 0.7, 1.0), (0.4, 0.3, 1.5, 3.0), (3.0, 1.0, 1.0, 0.0)],
    ids=["defaults", "SLAYER's own", "slow refractory", "fast", "none"],
)
def test_same_spikes_as_the_published_equations(tau_s, tau_r, theta, refractory):
    x = inputs(scale=1.5 * theta)
    potentials, expected = spike_response(x.numpy(), tau_s, tau_r, theta, refractory)
    assert np.abs(potentials - theta).min() > 1e-6  # no tie that rounding decides
    assert 10 < expected.sum() < 140
    spikes, _ = SRM(tau_s, tau_r, theta, refractory)(x)
    assert spikes.numpy().tolist() == expected.tolist()


@given(
    tau_s=st.floats(0.3, 20),
    tau_r=st.floats(0.3, 20),
    theta=st.floats(0.1, 20),
    refractory=st.floats(0, 5),
    seed=st.integers(0, 1000),
)
def test_same_spikes_whatever_the_constants(tau_s, tau_r, theta, refractory, seed):
    x = inputs(12, 3, seed, theta)
    potentials, expected = spike_response(x.numpy(), tau_s, tau_r, theta, refractory)
    spikes, _ = SRM(tau_s, tau_r, theta, refractory)(x)
    # Up to the first step at which rounding decides, both must agree.
    near = np.abs(potentials - theta) < 1e-9 * theta
    until = np.where(near.any(0), near.argmax(0), len(x))
    for n, end in enumerate(until):
        assert spikes[:end, n].tolist() == expected[:end, n].tolist()


def test_steps_worked_by_hand():
    """One input of 1.2 thresholds, then silence; eps and nu with time constants of one step are t exp(1 - t)."""
    x = torch.zeros(4, 1, dtype=torch.float64)
    x[0] = 1.2
    spikes, state = SRM()(x)
    assert spikes[:, 0].tolist() == [1, 0, 0, 0]  # 1.2 eps(1) = 1.2 fires; then 1.2 eps(2) - 2 = -1.117, ...
    # u(4) = 1.2 eps(5) - 2 nu(4) would come of the sums that the state holds:
    a = math.exp(-1)
    response = a * (state.input_response + a * state.input_trace)  # one more silent step
    assert math.e * response.item() == pytest.approx(1.2 * 5 * math.exp(-4))
    assert math.e * state.spike_response.item() == pytest.approx(4 * math.exp(-3))


def test_the_peak_of_the_response_is_the_input_itself():
    for tau_s in (1, 3, 7):
        x = torch.zeros(tau_s, 1, dtype=torch.float64)
        x[0] = 1 + 1e-9
        spikes, _ = SRM(tau_s)(x)
        assert spikes[:, 0].tolist() == [0] * (tau_s - 1) + [1]


def test_slayers_sampling_gives_the_same_spikes_a_step_later():
    x = inputs(scale=1.5)
    _, later = spike_response(x.numpy(), 2.0, 1.0, 1.0, 2.0, delay=0)
    spikes, _ = SRM(2.0)(x)
    assert spikes[:-1].tolist() == later[1:].tolist()
    assert not later[0].any()


@pytest.mark.parametrize(("tau_s", "theta"), [(1.0, 1.0), (2.5, 1.0), (4.0, 3.0)])
def test_gradient_is_slayers(tau_s, theta):
    x = inputs(scale=1.5 * theta).requires_grad_()
    error = inputs(seed=1)
    spikes, _ = SRM(tau_s, 1.5, theta, surrogate=Exponential(1 / theta, 1 / theta))(x)
    spikes.backward(error)
    potentials, _ = spike_response(x.detach().numpy(), tau_s, 1.5, theta, 2.0)
    expected = spike_response_gradient(potentials, error.numpy(), tau_s, theta)
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-10, atol=1e-12)


def test_nothing_but_the_surrogate_changes_the_gradient():
    results = []
    for surrogate in (Exponential(1.0), ATan()):
        x = inputs().requires_grad_()
        spikes, _ = SRM(surrogate=surrogate)(x)
        spikes.sum().backward()
        results.append((spikes, x.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.allclose(results[0][1], results[1][1])


def test_in_float32_at_least():
    x = inputs(scale=1.5).float()
    whole, state = SRM()(x)
    half, half_state = SRM()(x.bfloat16())
    assert (whole.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    assert {part.dtype for part in (*state, *half_state)} == {torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under, _ = SRM()(x)
    assert torch.equal(under, whole)


def test_no_weights_and_a_repr():
    assert SRM().state_dict() == {}
    assert repr(SRM(2, 3)) == (
        "SRM(tau_s=2.0, tau_r=3.0, v_threshold=1.0, refractory=2.0, Exponential(alpha=1.0, scale=1.0))"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau_s": 0}, "tau_s=0: expected a number above 0"),
        ({"tau_r": math.inf}, "tau_r=inf"),
        ({"tau_s": "1"}, "tau_s='1'"),
        ({"v_threshold": -1.0}, "v_threshold=-1.0"),
        ({"v_threshold": math.nan}, "v_threshold=nan"),
        ({"refractory": -0.1}, "refractory=-0.1: expected a number of thresholds, at least 0"),
        ({"refractory": True}, "refractory=True"),
        ({"surrogate": None}, r"surrogate=None: expected a surrogate derivative such as rsnn.kernels.Exponential\(\)"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(InputError, match=message):
        SRM(**options)
