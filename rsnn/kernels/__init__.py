"""The numerical core: LIF sequences and ConvLSTM gate updates, each by the fastest implementation the device has.

`available()` lists the kernels that can run here, `status()` says why the others cannot, `selected(device)` names the
one that will run, and `use(name)` (or the environment variable `RSNN_KERNEL`) forces one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rsnn.errors import InputError
from rsnn.kernels import lif_cupy, lif_native, lif_spikingjelly, lif_torch
from rsnn.kernels.autocast import without_autocast
from rsnn.kernels.convlstm import convlstm_step
from rsnn.kernels.graphs import graphed
from rsnn.kernels.memory import empty_cache
from rsnn.kernels.selection import OPERATORS, available, selected, status, use
from rsnn.kernels.surrogate import ATan, Exponential, Rectangle, Sigmoid, Surrogate, spike

__all__ = [
    "OPERATORS",
    "ATan",
    "Exponential",
    "Rectangle",
    "Sigmoid",
    "Surrogate",
    "available",
    "convlstm_step",
    "empty_cache",
    "graphed",
    "lif",
    "selected",
    "spike",
    "status",
    "use",
]

_LIF = {"torch": lif_torch, "spikingjelly": lif_spikingjelly, "cupy": lif_cupy, "native": lif_native}


def _check_input(x: object, v: object, tau: float | Tensor) -> None:
    if not isinstance(x, Tensor):
        raise InputError(f"the input current is a {type(x).__name__}; expected a tensor (T, ...)")
    shape = tuple(x.shape)
    if not shape or shape[0] == 0:
        raise InputError(f"the input current has shape {shape}; expected (T, ...) with at least one step")
    if not x.is_floating_point():
        raise InputError(f"the input current is {x.dtype}; expected floating numbers: convert with x.float()")
    if not isinstance(tau, Tensor) and not tau > 1:
        raise InputError(f"tau={tau!r}: expected a number above 1, the time constant in steps")
    if v is None:
        return
    if not isinstance(v, Tensor):
        raise InputError(f"the potential is a {type(v).__name__}; expected a tensor {shape[1:]}, or None")
    if tuple(v.shape) != shape[1:] or v.device != x.device:
        raise InputError(
            f"the potential has shape {tuple(v.shape)} on {v.device}; the input needs {shape[1:]} on {x.device}: "
            "a potential belongs to the batch it came from; pass None to start at rest"
        )


def lif(
    x: Tensor,
    v: Tensor | None = None,
    *,
    tau: float | Tensor = 2.0,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    surrogate: Surrogate = ATan(),  # noqa: B008  (frozen)
    detach_reset: bool = True,
) -> tuple[Tensor, Tensor]:
    """Run an input current through leaky integrate-and-fire neurons (equations 7-10 of the paper).

    Args:
        x: input (T, ...), any floating type.
        v: membrane potential (...) before the first step; `v_reset` (0 with soft reset) where it is None.
        tau: membrane time constant in steps, above 1; a tensor (learned, PLIF) broadcasts over the neurons.
        v_threshold: firing threshold V_th.
        v_reset: resting and reset potential V_rest; None subtracts the threshold instead (soft reset, rest at 0).
        surrogate: derivative of the spike in backward.
        detach_reset: whether backward leaves the reset out.

    Returns:
        spikes (T, ...) of 0 and 1 in `x`'s type, and the potential (...) after the last step. The potential is
        computed and kept in float32 (float64 where `x` is) under autocast too, so that long sequences do not drift.

    Raises:
        InputError: `x` is not a floating tensor of at least one step, `v` not of a step's shape and device, or `tau`
            not above 1.

    """
    _check_input(x, v, tau)
    kernel = _LIF[selected(x.device, "lif")]
    if not kernel.supports(x, tau, surrogate):
        kernel = lif_torch
    state_dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    with without_autocast(x.device.type):
        if v is None and kernel is not lif_cupy:
            v = torch.full_like(x[0], v_reset or 0.0, dtype=state_dtype)
        spikes, v = kernel.lif(
            # Our own kernels read any type themselves.
            x if kernel in (lif_cupy, lif_native) else x.to(state_dtype),
            v if v is None else v.to(state_dtype),
            tau=tau.to(state_dtype) if isinstance(tau, Tensor) else tau,
            v_threshold=v_threshold,
            v_reset=v_reset,
            surrogate=surrogate,
            detach_reset=detach_reset,
        )
    return spikes.to(x.dtype), v
