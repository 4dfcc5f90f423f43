"""Surrogate derivatives: SpikingJelly's formulas, their areas, and how the spike uses them."""

from __future__ import annotations

import math

import pytest
import torch

from rsnn.errors import InputError
from rsnn.kernels import ATan, Exponential, Rectangle, Sigmoid, spike

ALPHAS = [0.5, 1.0, 4.0]


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ATan, "ATan"),
        (Sigmoid, "Sigmoid"),
        (Rectangle, "Rect"),
        (lambda alpha: Exponential(alpha, scale=alpha / 2), "PiecewiseExp"),
    ],
    ids=["ATan", "Sigmoid", "Rectangle", "Exponential"],
)
def test_derivative_is_spikingjellys(ours, theirs, alpha):
    from spikingjelly.activation_based import surrogate

    x = torch.linspace(-3, 3, 122, dtype=torch.float64, requires_grad=True)  # not on a rectangle's edge
    getattr(surrogate, theirs)(alpha=alpha)(x).sum().backward()
    torch.testing.assert_close(ours(alpha)(x.detach()), x.grad)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize(
    ("surrogate", "area"),
    [
        (ATan, lambda alpha, end: 2 / math.pi * math.atan(math.pi / 2 * alpha * end)),
        (Sigmoid, lambda alpha, end: math.tanh(alpha * end / 2)),
        (Rectangle, lambda alpha, end: 1.0),
        (Exponential, lambda alpha, end: 2 / alpha * (1 - math.exp(-alpha * end))),
    ],
)
def test_area_between_minus_50_and_50(surrogate, area, alpha):
    x = torch.linspace(-50, 50, 400_001, dtype=torch.float64)
    found = torch.trapezoid(surrogate(alpha)(x), x).item()
    assert found == pytest.approx(area(alpha, 50.0), abs=2e-3)


def test_values_worked_by_hand():
    x = torch.tensor([-0.5, 0.0, 0.25, 0.5])
    assert Rectangle()(x).tolist() == [0.0, 1.0, 1.0, 0.0]
    assert Rectangle(2.0)(x).tolist() == [0.0, 2.0, 0.0, 0.0]
    assert ATan()(x)[1].item() == 1.0
    assert ATan()(torch.tensor(1 / math.pi)).item() == pytest.approx(0.5)
    assert Sigmoid()(x)[1].item() == 1.0
    assert Exponential(2.0, scale=3.0)(x).tolist() == pytest.approx([3 / math.e, 3.0, 3 / math.e**0.5, 3 / math.e])


@pytest.mark.parametrize("surrogate", [ATan(), Sigmoid(), Rectangle(), Exponential()])
def test_spike_steps_at_zero_and_backward_multiplies_by_the_surrogate(surrogate):
    x = torch.tensor([-1.0, -1e-30, -0.0, 0.0, 1e-30, 0.3, 2.0], requires_grad=True)
    s = spike(x, surrogate)
    assert s.tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert s.dtype == x.dtype
    factors = torch.arange(7.0)
    (s * factors).sum().backward()
    torch.testing.assert_close(x.grad, factors * surrogate(x.detach()))


@pytest.mark.parametrize("surrogate", [ATan, Sigmoid, Rectangle, Exponential])
@pytest.mark.parametrize("alpha", [0, -1.0, math.nan, math.inf, "2"])
def test_width_has_to_be_positive(surrogate, alpha):
    with pytest.raises(InputError, match=rf"{surrogate.__name__}\(alpha=.*expected a positive number"):
        surrogate(alpha)


def test_scale_has_to_be_positive():
    with pytest.raises(InputError, match="scale=-1"):
        Exponential(scale=-1)


def test_surrogates_are_values():
    assert ATan(2.0) == ATan()
    assert len({ATan(), ATan(2.0), Sigmoid()}) == 2
    with pytest.raises(AttributeError):
        ATan().alpha = 3.0


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize("surrogate", [ATan(), Sigmoid(), Rectangle(), Exponential()])
def test_every_kind_of_derivative_is_the_surrogate(surrogate):
    from torch.func import grad, jacfwd, jacrev, vmap

    x = torch.tensor([-1.0, -0.1, 0.0, 0.3, 2.0], dtype=torch.float64)
    expected = surrogate(x)
    assert vmap(lambda x: spike(x, surrogate))(x).tolist() == [0, 0, 1, 1, 1]
    torch.testing.assert_close(grad(lambda x: vmap(lambda x: spike(x, surrogate))(x).sum())(x), expected)
    torch.testing.assert_close(vmap(grad(lambda x: spike(x, surrogate)))(x), expected)
    for jacobian in (jacfwd, jacrev):
        torch.testing.assert_close(jacobian(lambda x: spike(x, surrogate))(x), expected.diag())
    traced = torch.jit.trace(lambda x: spike(x, surrogate), (x.requires_grad_(),))
    (found,) = torch.autograd.grad(traced(x).sum(), x)
    torch.testing.assert_close(found, expected)
