"""Spike response neurons as a layer, with everything they remember in the caller's hands."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rsnn.checks import is_number
from rsnn.errors import InputError
from rsnn.kernels import Exponential, Surrogate, spike
from rsnn.kernels.autocast import without_autocast
from rsnn.nn.checks import check_kind, check_like, check_state


class SRMState(NamedTuple):
    """What spike response neurons carry on: two sums over past input, and the same two over their own spikes.

    With a = exp(-1 / tau), a trace is the sum of a^n x and a response the sum of (n + 1) a^(n + 1) x, over everything
    that came n steps ago.
    """

    input_trace: Float[Tensor, "N ..."]
    input_response: Float[Tensor, "N ..."]
    spike_trace: Float[Tensor, "N ..."]
    spike_response: Float[Tensor, "N ..."]


class SRM(nn.Module):
    """Layer of spike response neurons, as in SLAYER (Shrestha & Orchard 2018, section 2).

    u(t) = sum_s eps(t - s) x(s) + sum_f nu(t - f)          s: past input, f: own past spikes
    s(t) = [u(t) >= theta]
    eps(t) = t / tau_s exp(1 - t / tau_s)                   peak 1 at t = tau_s
    nu(t) = -refractory theta t / tau_r exp(1 - t / tau_r)

    Each kernel is two exponential decays of one time constant in a row, so two sums each (see `SRMState`) carry them
    through time exactly: no kernel is cut off, and a step costs the same however long they are.

    Where time is slices instead of milliseconds, three readings are taken:

    - Time constants are in steps.
    - Input of a slice acts at the slice's end, one step into eps. SLAYER samples eps from t = 0, where it is 0: the
      same spikes, one step later in every layer, which in 20 steps of an 8-layer network would be a third of them.
    - In backward a spike is the surrogate (SLAYER's spike escape rate), and the neuron's own refractory response is
      left out, as it is in SLAYER's derivation.

    Axonal delays, the other thing SLAYER learns, are shorter than a slice and are left out.

    Args:
        tau_s: time constant of the response eps, in steps.
        tau_r: time constant of the refractory response nu, in steps.
        v_threshold: firing threshold theta.
        refractory: size of the refractory response in thresholds; 0 leaves it out.
        surrogate: derivative of the spike in backward. SLAYER's is `exp(-|u - theta| / theta) / theta`, the default
            where theta is 1.

    Raises:
        InputError: a constant is out of range, or `surrogate` no function.

    """

    def __init__(
        self,
        tau_s: float = 1.0,
        tau_r: float = 1.0,
        v_threshold: float = 1.0,
        refractory: float = 2.0,
        surrogate: Surrogate = Exponential(1.0),  # noqa: B008  (frozen)
    ) -> None:
        super().__init__()
        for name, value in (("tau_s", tau_s), ("tau_r", tau_r), ("v_threshold", v_threshold)):
            if not is_number(value) or not 0 < value < math.inf:
                raise InputError(f"{name}={value!r}: expected a number above 0")
        if not is_number(refractory) or not 0 <= refractory < math.inf:
            raise InputError(f"refractory={refractory!r}: expected a number of thresholds, at least 0")
        if not callable(surrogate):
            raise InputError(
                f"surrogate={surrogate!r}: expected a surrogate derivative such as rsnn.kernels.Exponential()"
            )
        self.tau_s = float(tau_s)
        self.tau_r = float(tau_r)
        self.v_threshold = float(v_threshold)
        self.refractory = float(refractory)
        self.surrogate = surrogate

    def forward(
        self, x: Float[Tensor, "T N ..."], state: SRMState | None = None
    ) -> tuple[Float[Tensor, "T N ..."], SRMState]:
        """Return the spikes (T, N, ...) for the weighted input `x` (T, N, ...), and the state after them.

        Args:
            x: weighted input of every step: sums of weights of the spikes that arrive in it.
            state: what an earlier call returned; None starts from silence.

        Raises:
            InputError: `x` is no floating tensor of at least one step, or `state` not of a step's shape and device.

        """
        if not isinstance(x, Tensor):
            raise InputError(f"SRM got a {type(x).__name__}; expected a tensor (T, N, ...)")
        if x.ndim < 2 or x.shape[0] == 0:
            raise InputError(f"SRM got shape {tuple(x.shape)}; expected (T, N, ...) with at least one step")
        check_like(x, None, "SRM")
        check_kind(state, SRMState, "SRM")
        check_state(state, [tuple(x.shape[1:])] * 4, "SRM", x)
        # As kernels.lif: in float32 at least, under autocast too, so that long sequences do not drift.
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        with without_autocast(x.device.type):
            current = x.to(dtype)
            start = (torch.zeros_like(current[0]),) * 4 if state is None else (part.to(dtype) for part in state)
            spikes, after = srm(
                current, SRMState(*start), self.tau_s, self.tau_r, self.v_threshold, self.refractory, self.surrogate
            )
        return spikes.to(x.dtype), after

    def extra_repr(self) -> str:
        """Return what `repr` shows of the layer."""
        return (
            f"tau_s={self.tau_s}, tau_r={self.tau_r}, v_threshold={self.v_threshold}, refractory={self.refractory}, "
            f"{self.surrogate}"
        )


def srm(
    x: Float[Tensor, "T ..."],
    state: SRMState,
    tau_s: float,
    tau_r: float,
    v_threshold: float,
    refractory: float,
    surrogate: Surrogate,
) -> tuple[Float[Tensor, "T ..."], SRMState]:
    """Run `x` through spike response neurons; see [`SRM`][rsnn.nn.SRM].

    With a = exp(-1 / tau), the sum over what came n steps ago of eps one step on, (n + 1) / tau e a^(n + 1) x, follows
    from  trace <- a trace + x;  response <- a (response + trace);  e / tau response.
    """
    decay_s, decay_r = math.exp(-1 / tau_s), math.exp(-1 / tau_r)
    gain, refractory_gain = math.e / tau_s, -refractory * v_threshold * math.e / tau_r
    input_trace, input_response, spike_trace, spike_response = state
    spikes = []
    for x_t in x.unbind(0):
        input_trace = decay_s * input_trace + x_t
        input_response = decay_s * (input_response + input_trace)
        u = gain * input_response + refractory_gain * spike_response
        s = spike(u - v_threshold, surrogate)
        spike_trace = decay_r * spike_trace + s.detach()
        spike_response = decay_r * (spike_response + spike_trace)
        spikes.append(s)
    return torch.stack(spikes), SRMState(input_trace, input_response, spike_trace, spike_response)
