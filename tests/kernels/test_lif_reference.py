"""The LIF operator's plain torch kernel: steps worked by hand, unrelated libraries, gradients by hand."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsnn import kernels
from rsnn.errors import InputError
from rsnn.kernels import ATan, Exponential, Sigmoid, lif

# Inputs and potentials are sums of few powers of two, so that float32 holds every one of them exactly: an equal sign
# in these tables is an equal sign. Rows: input, potential before the spike, spike, potential after.
HARD = [  # tau 2, V_th 1, V_rest 0
    (1.0, 0.5, 0, 0.5),
    (1.5, 1.0, 1, 0.0),  # the threshold exactly: fires
    (1.75, 0.875, 0, 0.875),
    (1.25, 1.0625, 1, 0.0),
    (-1.0, -0.5, 0, -0.5),
    (0.0, -0.25, 0, -0.25),
    (8.0, 3.875, 1, 0.0),  # far above: still one spike, and nothing is left
]
RESTING_BELOW_ZERO = [  # tau 4, V_th 0.5, V_rest -0.5
    (0.0, -0.5, 0, -0.5),  # at rest it stays there
    (2.0, 0.0, 0, 0.0),
    (2.5, 0.5, 1, -0.5),
    (5.0, 0.75, 1, -0.5),
    (1.0, -0.25, 0, -0.25),
    (0.0, -0.3125, 0, -0.3125),  # leaks towards the rest, not towards zero
]
SOFT = [  # tau 2, V_th 1, threshold subtracted
    (3.0, 1.5, 1, 0.5),
    (1.0, 0.75, 0, 0.75),
    (1.25, 1.0, 1, 0.0),
    (5.0, 2.5, 1, 1.5),
    (0.0, 0.75, 0, 0.75),
    (-2.0, -0.625, 0, -0.625),
]
TABLES = [
    pytest.param(HARD, {}, id="hard reset to 0"),
    pytest.param(RESTING_BELOW_ZERO, {"tau": 4.0, "v_threshold": 0.5, "v_reset": -0.5}, id="hard reset to -0.5"),
    pytest.param(SOFT, {"v_reset": None}, id="soft reset"),
]


@pytest.mark.parametrize("kernel", kernels.available())
@pytest.mark.parametrize(("rows", "options"), TABLES)
def test_steps_worked_by_hand(rows, options, kernel):
    with kernels.use(kernel):
        v = None
        for x, _, s, after in rows:
            spikes, v = lif(torch.tensor([[x]]), v, **options)
            assert (spikes.item(), v.item()) == (s, after)
        spikes, v = lif(torch.tensor([[row[0]] for row in rows]), **options)
    assert spikes[:, 0].tolist() == [row[2] for row in rows]
    assert v.item() == rows[-1][3]


def test_given_potential_is_the_start_and_is_left_alone():
    start = torch.tensor([0.75, -0.25])
    spikes, v = lif(torch.tensor([[1.25, 0.25]]), start)
    assert spikes.tolist() == [[1.0, 0.0]]  # 0.75 + (1.25 - 0.75) / 2 = 1;  -0.25 + (0.25 + 0.25) / 2 = 0
    assert v.tolist() == [0.0, 0.0]
    assert start.tolist() == [0.75, -0.25]


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_same_as_snntorch(reset):
    snntorch = pytest.importorskip("snntorch")
    tau = 1.7
    # Below twice the threshold: what is left above the threshold after a soft reset snnTorch subtracts once more.
    x = torch.rand(30, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 4 - 2.01
    # Its leaky neuron: mem = beta mem + input. Equation 7 with V_rest 0 is beta = 1 - 1 / tau and input = x / tau.
    leaky = snntorch.Leaky(beta=1 - 1 / tau, reset_mechanism=reset, reset_delay=False)
    leaky.beta = torch.tensor(1 - 1 / tau, dtype=torch.float64)  # which it keeps in float32
    v, theirs = torch.zeros_like(x[0]), []
    for x_t in x:
        s, v = leaky(x_t / tau, v)
        theirs.append(s)
    spikes, potential = lif(x, tau=tau, v_reset=0.0 if reset == "zero" else None)
    assert 10 < spikes.sum() < 200
    assert torch.equal(spikes, torch.stack(theirs).to(spikes.dtype))  # theirs are float32
    torch.testing.assert_close(potential, v)


def test_same_as_norse_with_a_rest_other_than_zero():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Norse still asks for torch.jit.script
        norse = pytest.importorskip("norse.torch.functional.lif")
    tau, rest, threshold = 3.0, -0.4, 0.3
    x = torch.randn(30, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 2

    def number(value):
        return torch.tensor(value, dtype=torch.float64)

    # A synapse whose current is gone after one step (tau_syn = dt) feeds the membrane the input itself.
    parameters = norse.LIFParameters(
        tau_syn_inv=number(1.0),
        tau_mem_inv=number(1 / tau),
        v_leak=number(rest),
        v_th=number(threshold),
        v_reset=number(rest),
    )
    state = norse.LIFFeedForwardState(v=torch.full_like(x[0], rest), i=torch.zeros_like(x[0]))
    theirs = []
    for x_t in x:
        s, state = norse.lif_feed_forward_step(x_t, state, parameters, dt=1.0)
        theirs.append(s)
    spikes, v = lif(x, tau=tau, v_reset=rest, v_threshold=threshold)
    assert 10 < spikes.sum() < 200
    assert torch.equal(spikes, torch.stack(theirs))
    torch.testing.assert_close(v, state.v)


def atan_slope(h, threshold=1.0):
    return 1 / (1 + (math.pi * (h - threshold)) ** 2)  # ATan with alpha 2


@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize("v_reset", [0.0, -0.5, None])
def test_gradient_over_two_steps_worked_by_hand(v_reset, detach_reset):
    tau, x1, x2 = 2.0, 0.8, 1.3
    rest = v_reset or 0.0
    x = torch.tensor([x1, x2], dtype=torch.float64, requires_grad=True)
    spikes, _ = lif(x[:, None], tau=tau, v_reset=v_reset, detach_reset=detach_reset)
    spikes[1].sum().backward()

    h1 = rest + x1 / tau
    v1 = h1  # below the threshold in all three
    h2 = v1 + (x2 - (v1 - rest)) / tau
    dv1_dh1 = 1.0
    if not detach_reset:  # the spike that did not happen still has a slope, and v1 depends on it
        dv1_dh1 += atan_slope(h1) * (-1.0 if v_reset is None else rest - h1)
    assert x.grad[1].item() == pytest.approx(atan_slope(h2) / tau, rel=1e-12)
    assert x.grad[0].item() == pytest.approx(atan_slope(h2) * (1 - 1 / tau) * dv1_dh1 / tau, rel=1e-12)


def test_gradcheck_of_the_potential_where_nothing_fires():
    def potential(x, v, tau):
        spikes, after = lif(x, v, tau=tau, v_threshold=100.0, v_reset=-0.3)
        assert not spikes.any()
        return after

    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    v = torch.randn(3, dtype=torch.float64, generator=generator, requires_grad=True)
    tau = torch.tensor(1.8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(potential, (x, v, tau))


def test_tau_can_be_a_tensor_of_every_neuron():
    x = torch.full((3, 2), 0.9)
    tau = torch.tensor([2.0, 4.0])
    _, v = lif(x, tau=tau)
    for i in range(2):
        torch.testing.assert_close(v[i], lif(x[:, i : i + 1], tau=tau[i].item())[1][0])


@given(
    steps=st.integers(1, 7),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    cut=st.integers(0, 7),
    v_reset=st.sampled_from([0.0, -0.25, None]),
    seed=st.integers(0, 999),
)
@settings(deadline=None, max_examples=40)
def test_chunks_hand_over_the_potential(steps, shape, cut, v_reset, seed):
    x = torch.randn(steps, *shape, generator=torch.Generator().manual_seed(seed)) * 3
    whole, v_whole = lif(x, v_reset=v_reset)
    chunks, v = [], None
    for part in (x[:cut], x[cut:]):
        if len(part):
            spikes, v = lif(part, v, v_reset=v_reset)
            chunks.append(spikes)
    assert torch.equal(torch.cat(chunks), whole)
    assert torch.equal(v, v_whole)


@pytest.mark.parametrize("kernel", kernels.available())
@pytest.mark.parametrize("surrogate", [ATan(), Sigmoid()])
def test_potential_stays_in_float32_under_autocast(kernel, surrogate):
    x = (torch.rand(50, 2, 3, generator=torch.Generator().manual_seed(4)) * 1.8).bfloat16()
    with kernels.use(kernel):
        expected, v_expected = lif(x.float(), surrogate=surrogate)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            spikes, v = lif(x, surrogate=surrogate)
    assert spikes.dtype == torch.bfloat16
    assert v.dtype == torch.float32
    assert torch.equal(spikes.float(), expected)
    assert torch.equal(v, v_expected)


@pytest.mark.parametrize(
    ("dtype", "state"), [(torch.float16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)]
)
def test_types(dtype, state):
    spikes, v = lif(torch.full((2, 3), 2.0, dtype=dtype))
    assert (spikes.dtype, v.dtype) == (dtype, state)
    assert spikes.unique().tolist() == [1.0]


@pytest.mark.parametrize("kernel", kernels.available())
def test_whole_numbers_for_the_constants(kernel):
    with kernels.use(kernel):
        spikes, v = lif(torch.tensor([[2.0], [1.0]]), tau=2, v_threshold=1, v_reset=0)
    assert spikes.tolist() == [[1.0], [0.0]]
    assert v.tolist() == [0.5]


@pytest.mark.parametrize("tau", [1, 0.5, -2.0, math.nan])
def test_tau_has_to_be_above_one(tau):
    with pytest.raises(InputError, match=r"tau=.*expected a number above 1"):
        lif(torch.zeros(2, 3), tau=tau)


@pytest.mark.parametrize(
    ("x", "v", "message"),
    [
        (torch.zeros(0, 3), None, r"\(0, 3\)"),
        (torch.tensor(1.0), None, r"\(\)"),
        (torch.zeros(2, 3, dtype=torch.int64), None, "int64"),
        ([[1.0]], None, "list"),
        (torch.zeros(2, 3), torch.zeros(2), r"\(2,\)"),
        (torch.zeros(2, 3), torch.zeros(3, device="meta"), "on meta"),
        (torch.zeros(2, 3), [0.0, 0.0, 0.0], "list"),
    ],
)
def test_bad_input_is_an_error_that_says_what_came(x, v, message):
    with pytest.raises(InputError, match=message):
        lif(x, v)


@pytest.mark.parametrize("kernel", ["torch", "native"])
def test_the_potential_has_one_type_whatever_tau_is_given_in(kernel):
    if kernel not in kernels.available():
        pytest.skip(kernels.status()[kernel])
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    for tau in (torch.tensor([1.7], dtype=torch.float64), torch.tensor([1.7, 2.0, 3.0], dtype=torch.float64)):
        tau.requires_grad_()
        with kernels.use(kernel):
            spikes, v = lif(x, tau=tau)
            (gradient,) = torch.autograd.grad(spikes.sum() + v.sum(), tau)
            first, middle = lif(x[:1], tau=tau)
            rest, end = lif(x[1:], middle, tau=tau)
        assert (spikes.dtype, v.dtype, gradient.dtype) == (torch.float32, torch.float32, torch.float64)
        assert torch.equal(torch.cat((first, rest)), spikes)
        assert torch.equal(end, v)


@pytest.mark.parametrize("surrogate", [ATan(), Sigmoid(), Exponential()], ids=repr)
def test_derivatives_of_gradients(surrogate):
    """Of one spike of w x / tau: d2 / dw dx = s + x w s' / tau, over tau, and d2 / dx2 = w^2 s' / tau^2."""
    x, w = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.6, 0.7))
    with kernels.use("torch"):
        spikes, _ = lif((w * x)[None], tau=2.0, surrogate=surrogate)
    (by_x,) = torch.autograd.grad(spikes.sum(), x, create_graph=True)
    found = torch.autograd.grad(by_x, (w, x))
    at = (w * x / 2 - 1).detach().requires_grad_()
    slope = surrogate(at)
    (change,) = torch.autograd.grad(slope, at)
    expected = (slope / 2 + x * w * change / 4, w.square() * change / 4)
    torch.testing.assert_close(found, tuple(one.detach() for one in expected))
