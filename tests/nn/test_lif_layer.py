"""The LIF layer: its constants reach the kernel, and PLIF learns its time constant."""

from __future__ import annotations

import math

import pytest
import torch

from rsnn import kernels
from rsnn.errors import InputError
from rsnn.kernels import ATan, Rectangle
from rsnn.nn import LIF


def test_constants_reach_the_kernel():
    x = torch.randn(8, 2, 3, generator=torch.Generator().manual_seed(0)) * 3
    x.requires_grad_()
    options = {"v_threshold": 0.7, "v_reset": -0.2, "surrogate": Rectangle(0.5), "detach_reset": False}
    results = []
    for run in (lambda: LIF(2.5, **options)(x), lambda: kernels.lif(x, tau=2.5, **options)):
        spikes, v = run()
        (gradient,) = torch.autograd.grad((spikes * x).sum() + v.sum(), x)
        results.append((spikes, v, gradient))
    for ours, expected in zip(*results, strict=True):
        assert torch.equal(ours, expected)


def test_plain_neurons_have_no_weights():
    assert list(LIF().parameters()) == []
    assert LIF().state_dict() == {}


def test_plif_starts_at_its_tau_and_learns_it():
    layer, plain = LIF(3.0, learn_tau=True), LIF(3.0)
    x = torch.randn(8, 2, 3, generator=torch.Generator().manual_seed(0)) * 2 + 1
    assert 1 / layer.w.sigmoid().item() == pytest.approx(3.0)
    torch.testing.assert_close(layer(x)[1], plain(x)[1])
    optimizer = torch.optim.SGD(layer.parameters(), 0.5)
    layer(x)[0].sum().backward()
    optimizer.step()
    assert 1 / layer.w.sigmoid().item() != pytest.approx(3.0, rel=1e-4)


def test_plif_gradient_by_finite_differences_where_nothing_fires():
    layer = LIF(2.0, v_threshold=100.0, learn_tau=True).double()
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def potential(w):
        return torch.func.functional_call(layer, {"w": w}, (x,))[1]

    assert torch.autograd.gradcheck(potential, layer.w.detach().clone().requires_grad_())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 1.0}, r"tau=1.0: expected a number above 1"),
        ({"tau": math.inf}, "tau=inf"),
        ({"tau": "2"}, "tau='2'"),
        ({"v_threshold": 0.0}, "v_threshold=0.0: expected a number above v_reset=0.0"),
        ({"v_threshold": math.nan}, "v_threshold=nan"),
        ({"v_threshold": None}, "v_threshold=None"),
        ({"v_threshold": 0.5, "v_reset": 0.5}, "v_threshold=0.5: expected a number above v_reset=0.5"),
        ({"v_threshold": -1.0, "v_reset": None}, "v_threshold=-1.0"),
        ({"v_reset": math.nan}, "v_reset=nan: expected a number, or None"),
        ({"v_reset": "zero"}, "v_reset='zero'"),
        ({"surrogate": "atan"}, r"surrogate='atan': expected a surrogate derivative such as rsnn.kernels.ATan\(\)"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(InputError, match=message):
        LIF(**options)


def test_repr_says_what_it_is():
    assert repr(LIF(2, learn_tau=True)) == (
        "LIF(tau=2.0, v_threshold=1.0, v_reset=0.0, ATan(alpha=2.0), learn_tau=True)"
    )
    assert LIF().surrogate == ATan()
