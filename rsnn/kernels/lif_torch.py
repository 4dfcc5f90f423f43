"""The LIF sequence in plain PyTorch: the reference every other kernel is held against, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from rsnn.kernels.surrogate import Surrogate, spike


def supports(x: Tensor, tau: float | Tensor, surrogate: Surrogate) -> bool:  # noqa: ARG001  (asked of every kernel)
    """Tell whether this kernel has this neuron: it has every one."""
    return True


def lif(
    x: Tensor,
    v: Tensor,
    *,
    tau: float | Tensor,
    v_threshold: float,
    v_reset: float | None,
    surrogate: Surrogate,
    detach_reset: bool,
) -> tuple[Tensor, Tensor]:
    """Run `x` (T, ...) through LIF neurons that start at potential `v` (...); see [`rsnn.kernels.lif`][].

    H(t) = V(t-1) + (X(t) - (V(t-1) - V_rest)) / tau        charge
    S(t) = [H(t) >= V_th]                                   fire
    V(t) = H(t) (1 - S(t)) + V_rest S(t)                    hard reset
    V(t) = H(t) - V_th S(t)                                 soft reset (`v_reset=None`, V_rest = 0)
    """
    v_rest = 0.0 if v_reset is None else v_reset
    spikes = []
    for x_t in x.unbind(0):
        h = v + (x_t - (v - v_rest)) / tau
        s = spike(h - v_threshold, surrogate)
        fired = s.detach() if detach_reset else s
        v = h - v_threshold * fired if v_reset is None else h * (1 - fired) + v_rest * fired
        spikes.append(s)
    return torch.stack(spikes), v
