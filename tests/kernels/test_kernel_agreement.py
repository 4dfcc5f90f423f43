"""Every kernel against the plain torch one, and plain torch's learned time constant against SpikingJelly's PLIF."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsnn import kernels
from rsnn.kernels import ATan, Exponential, Sigmoid, lif

OTHERS = [name for name in kernels.available() if name != "torch"]


def run(kernel, x, v, **options):
    """Return spikes, potential and the gradients of a loss of both, by x and v."""
    x, v = x.clone().requires_grad_(), v.clone().requires_grad_()
    with kernels.use(kernel):
        spikes, after = lif(x, v, **options)
    weights = torch.linspace(-1, 1, spikes.numel(), dtype=x.dtype).reshape(spikes.shape)
    ((spikes * weights).sum() + (after * after).sum()).backward()
    return {"spikes": spikes.detach(), "v": after.detach(), "x.grad": x.grad, "v.grad": v.grad}


def assert_same(kernel, x, v, **options):
    ours, theirs = run("torch", x, v, **options), run(kernel, x, v, **options)
    assert torch.equal(ours["spikes"], theirs["spikes"])
    for name in ("v", "x.grad", "v.grad"):
        torch.testing.assert_close(theirs[name], ours[name], msg=lambda text, name=name: f"{name}: {text}")


def test_spikingjelly_is_compared():
    assert "spikingjelly" in OTHERS


@pytest.mark.parametrize("kernel", OTHERS)
@pytest.mark.parametrize(
    ("surrogate", "v_reset", "detach_reset"),
    list(product([ATan(), ATan(3.5), Sigmoid(), Sigmoid(1.5)], [0.0, -0.5, 0.25, None], [True, False])),
    ids=str,
)
def test_spikes_potential_and_gradients_agree(kernel, surrogate, v_reset, detach_reset):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(12, 3, 4, 2, generator=generator) * 2 + 0.5
    v = torch.rand(3, 4, 2, generator=generator)
    assert 0.1 < lif(x, v, v_reset=v_reset)[0].mean() < 0.9
    assert_same(kernel, x, v, tau=2.5, surrogate=surrogate, v_reset=v_reset, detach_reset=detach_reset)


@pytest.mark.parametrize("kernel", OTHERS)
@given(
    steps=st.integers(1, 6),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    tau=st.floats(1.1, 10),
    v_threshold=st.floats(0.3, 2),
    v_reset=st.sampled_from([0.0, -0.5, None]),
    detach_reset=st.booleans(),
    seed=st.integers(0, 999),
)
@settings(deadline=None, max_examples=40)
def test_any_shape_agrees(kernel, steps, shape, tau, v_threshold, v_reset, detach_reset, seed):
    generator = torch.Generator().manual_seed(seed)
    # float64: a potential within rounding of the threshold may fall on either side in float32.
    x = torch.randn(steps, *shape, dtype=torch.float64, generator=generator) * 3
    v = torch.rand(*shape, dtype=torch.float64, generator=generator)
    options = {"tau": tau, "v_threshold": v_threshold, "v_reset": v_reset, "detach_reset": detach_reset}
    assert_same(kernel, x, v, **options)


class Wide(ATan):
    """A surrogate of a user's."""

    def __call__(self, x):
        return torch.ones_like(x)


@pytest.mark.parametrize("kernel", OTHERS)
def test_what_a_kernel_lacks_runs_in_torch(kernel):
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(6)) * 3
    assert_same(kernel, x, torch.zeros(3), surrogate=Wide())
    for options in ({"surrogate": Exponential()}, {"tau": torch.tensor(2.5)}):
        expected, v_expected = lif(x, **options)
        with kernels.use(kernel):
            spikes, v = lif(x, **options)
        assert torch.equal(spikes, expected)
        assert torch.equal(v, v_expected)


@pytest.mark.parametrize("v_reset", [0.0, -0.5, None])
@pytest.mark.parametrize("detach_reset", [True, False])
def test_gradient_of_a_learned_tau_is_spikingjellys(v_reset, detach_reset):
    from spikingjelly.activation_based import neuron, surrogate

    x = torch.randn(10, 2, 6, generator=torch.Generator().manual_seed(7)) * 2 + 0.5
    theirs = neuron.ParametricLIFNode(
        init_tau=2.6,
        v_reset=v_reset,
        detach_reset=detach_reset,
        surrogate_function=surrogate.ATan(),
        step_mode="m",
    )
    w = theirs.w.detach().clone().requires_grad_()  # 1 / tau = sigmoid(w)
    spikes, _ = lif(x, tau=1 / w.sigmoid(), v_reset=v_reset, detach_reset=detach_reset)
    expected = theirs(x)
    assert torch.equal(spikes, expected)
    weights = torch.linspace(-1, 1, spikes.numel()).reshape(spikes.shape)
    (spikes * weights).sum().backward()
    (expected * weights).sum().backward()
    assert w.grad.abs() > 1e-3
    torch.testing.assert_close(w.grad, theirs.w.grad)
