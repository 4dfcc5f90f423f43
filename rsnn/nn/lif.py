"""Leaky integrate-and-fire neurons as a layer, with the membrane potential in the caller's hands."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rsnn import kernels
from rsnn.checks import is_finite, is_number
from rsnn.errors import InputError
from rsnn.kernels import ATan, Surrogate


class LIF(nn.Module):
    """Layer of leaky integrate-and-fire neurons (equations 7-10 of the paper).

    H(t) = V(t-1) + (X(t) - (V(t-1) - V_rest)) / tau
    S(t) = [H(t) >= V_th]
    V(t) = H(t) (1 - S(t)) + V_rest S(t)

    Args:
        tau: membrane time constant in time steps, above 1.
        v_threshold: firing threshold V_th, above `v_reset`.
        v_reset: resting and reset potential V_rest; None subtracts V_th on a spike instead (soft reset, rest at 0).
        surrogate: derivative of the spike in backward: `rsnn.kernels.ATan(alpha)`, `Sigmoid`, `Rectangle`, ...
        detach_reset: whether backward leaves the reset out.
        learn_tau: learn one tau for the layer, from `tau` on, as 1 / tau = sigmoid(w): PLIF (Fang et al. 2021).

    Raises:
        InputError: `tau`, `v_threshold` or `v_reset` is out of range, or `surrogate` no function.

    """

    def __init__(
        self,
        tau: float = 2.0,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate: Surrogate = ATan(),  # noqa: B008  (frozen)
        *,
        detach_reset: bool = True,
        learn_tau: bool = False,
    ) -> None:
        super().__init__()
        if not is_number(tau) or not 1 < tau < math.inf:
            raise InputError(f"tau={tau!r}: expected a number above 1, the time constant in steps")
        if v_reset is not None and not is_finite(v_reset):
            raise InputError(f"v_reset={v_reset!r}: expected a number, or None for a soft reset")
        if not is_number(v_threshold) or not (v_reset or 0.0) < v_threshold < math.inf:
            raise InputError(f"v_threshold={v_threshold!r}: expected a number above v_reset={v_reset!r}")
        if not callable(surrogate):
            raise InputError(f"surrogate={surrogate!r}: expected a surrogate derivative such as rsnn.kernels.ATan()")
        self.tau = float(tau)
        self.v_threshold = float(v_threshold)
        self.v_reset = None if v_reset is None else float(v_reset)
        self.surrogate = surrogate
        self.detach_reset = detach_reset
        self.learn_tau = learn_tau
        self.w = nn.Parameter(torch.tensor(-math.log(self.tau - 1))) if learn_tau else None

    def forward(
        self, x: Float[Tensor, "T N ..."], state: Float[Tensor, "N ..."] | None = None
    ) -> tuple[Float[Tensor, "T N ..."], Float[Tensor, "N ..."]]:
        """Return the spikes (T, N, ...) for the input currents `x` (T, N, ...), and the potential (N, ...) after them.

        Args:
            x: input current of every step.
            state: potential that an earlier call returned; None starts at rest.

        Raises:
            InputError: `x` is no floating tensor of at least one step, or `state` not of a step's shape and device.

        """
        if isinstance(x, Tensor) and x.ndim < 2:
            raise InputError(f"LIF got shape {tuple(x.shape)}; expected (T, N, ...) with at least one step")
        return kernels.lif(
            x,
            state,
            tau=self.tau if self.w is None else 1 / self.w.sigmoid(),
            v_threshold=self.v_threshold,
            v_reset=self.v_reset,
            surrogate=self.surrogate,
            detach_reset=self.detach_reset,
        )

    def extra_repr(self) -> str:
        """Return what `repr` shows of the layer."""
        kind = ", learn_tau=True" if self.learn_tau else ""
        return f"tau={self.tau}, v_threshold={self.v_threshold}, v_reset={self.v_reset}, {self.surrogate}{kind}"
