"""The numerical core: LIF sequences and ConvLSTM gate updates, each by the fastest implementation the device has.

`available()` lists the LIF kernels that can run here, `selected(device)` names the one that will, and `use(name)`
(or the environment variable `RSNN_KERNEL`) forces one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rsnn.errors import InputError, UnknownNameError, suggest
from rsnn.kernels import lif_spikingjelly, lif_torch
from rsnn.kernels.convlstm import convlstm_step
from rsnn.kernels.surrogate import ATan, Exponential, Rectangle, Sigmoid, Surrogate, spike

__all__ = [
    "ATan",
    "Exponential",
    "Rectangle",
    "Sigmoid",
    "Surrogate",
    "available",
    "convlstm_step",
    "lif",
    "selected",
    "spike",
    "status",
    "use",
]


@dataclass(frozen=True)
class _Kernel:
    run: Callable[..., tuple[Tensor, Tensor]]
    unavailable: Callable[[], str | None]
    supports: Callable[[float | Tensor, Surrogate], bool]


_KERNELS = {
    "torch": _Kernel(lif_torch.lif, lif_torch.unavailable, lambda _tau, _surrogate: True),
    "spikingjelly": _Kernel(lif_spikingjelly.lif, lif_spikingjelly.unavailable, lif_spikingjelly.supports),
}

# Fastest first. On the CPU SpikingJelly's operator is slower than the plain loop, so it is not in that list.
_PREFERENCE = {"cuda": ("spikingjelly", "torch"), "cpu": ("torch",)}

_forced: str | None = None


def status() -> dict[str, str | None]:
    """Return every kernel by name with the reason why it cannot run here, or None where it can."""
    return {name: kernel.unavailable() for name, kernel in _KERNELS.items()}


def available() -> list[str]:
    """Return the names of the LIF kernels that can run here."""
    return [name for name, reason in status().items() if reason is None]


def selected(device: str | torch.device = "cpu") -> str:
    """Return the name of the LIF kernel that runs on `device` (`"cpu"`, `"cuda"`, `"cuda:1"`, ...).

    Raises:
        UnknownNameError: `RSNN_KERNEL` is set to a name that is no kernel.
        InputError: `device` is not a device, or the forced kernel cannot run here.

    """
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError) as error:
        raise InputError(f"{device!r} is not a device; expected for example 'cpu' or 'cuda'") from error
    forced = _forced or _check_name(os.environ.get("RSNN_KERNEL") or "auto", "RSNN_KERNEL: ")
    if forced != "auto":
        return forced
    return next(name for name in _PREFERENCE.get(kind, ("torch",)) if _KERNELS[name].unavailable() is None)


def use(name: str) -> _Restore:
    """Force the LIF kernel `name` everywhere, or `"auto"` to choose by device again.

    Takes effect at once; as a context manager (`with use("torch"): ...`) the former choice returns at the end.

    Raises:
        UnknownNameError: there is no kernel of that name.
        InputError: it cannot run here; the message says why.

    """
    global _forced
    former, _forced = _forced, _check_name(name)
    return _Restore(former)


class _Restore:
    """Puts the former choice of kernel back when its `with` block ends."""

    def __init__(self, former: str | None) -> None:
        self._former = former

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None:
        global _forced
        _forced = self._former


def _check_name(name: str, where: str = "") -> str:
    if name == "auto":
        return name
    if not isinstance(name, str) or name not in _KERNELS:
        raise UnknownNameError(
            f"{where}there is no kernel {name!r}; expected 'auto' or one of {sorted(_KERNELS)}."
            + suggest(str(name), _KERNELS)
        )
    if reason := _KERNELS[name].unavailable():
        raise InputError(f"{where}kernel {name!r} cannot run here: {reason}")
    return name


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
    name = selected(x.device)
    if not _KERNELS[name].supports(tau, surrogate):
        name = "torch"
    state_dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        current = x.to(state_dtype)
        if v is None:
            v = torch.full_like(current[0], v_reset or 0.0)
        spikes, v = _KERNELS[name].run(
            current,
            v.to(state_dtype),
            tau=tau,
            v_threshold=v_threshold,
            v_reset=v_reset,
            surrogate=surrogate,
            detach_reset=detach_reset,
        )
    return spikes.to(x.dtype), v
