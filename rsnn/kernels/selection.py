"""Which kernel computes an operator on a device: by preference, unless the user forces one.

An operator is `"lif"` (the LIF sequence), `"convlstm"` (the ConvLSTM) or `"attention"`. Every kernel has one name, may
serve several operators, and says itself why it cannot run on this machine. `"torch"`, plain PyTorch, serves all of them
everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from rsnn.errors import InputError, UnknownNameError, suggest
from rsnn.kernels import convlstm_cupy, convlstm_triton, lif_cupy, lif_spikingjelly, native

Operator = Literal["lif", "convlstm", "attention"]
OPERATORS: dict[Operator, str] = {"lif": "LIF", "convlstm": "ConvLSTM", "attention": "attention"}  # as one writes them


@dataclass(frozen=True)
class Kernel:
    """What the choice needs to know of a kernel: its operators, its devices, and whether it can run here."""

    operators: tuple[Operator, ...]
    devices: tuple[str, ...] | None  # types of device; None for any
    unavailable: Callable[[], str | None]


KERNELS = {
    "torch": Kernel(tuple(OPERATORS), None, lambda: None),
    "spikingjelly": Kernel(("lif",), ("cpu", "cuda"), lif_spikingjelly.unavailable),
    "cupy": Kernel(("lif", "convlstm"), ("cuda",), lif_cupy.unavailable),
    "triton": Kernel(("convlstm",), ("cuda",), convlstm_triton.unavailable),
    "native": Kernel(("lif", "convlstm", "attention"), ("cpu",), native.unavailable),
}

# Fastest first; plain torch where nothing is named or nothing named can run. On the CPU SpikingJelly's operator is
# slower than the plain loop, so it is not in that list. The order on GPUs is by what the kernels have to read and
# write; scripts/bench_gpu.py measures it.
PREFERENCE: dict[tuple[Operator, str], tuple[str, ...]] = {
    ("lif", "cuda"): ("cupy", "spikingjelly"),
    ("convlstm", "cuda"): ("cupy", "triton"),
    ("lif", "cpu"): ("native",),
    ("convlstm", "cpu"): ("native",),
    ("attention", "cpu"): ("native",),
}

# Why a kernel that can run here lacks one of its operators.
_LACKS: dict[tuple[str, Operator], Callable[[], str | None]] = {("cupy", "convlstm"): convlstm_cupy.unavailable}

_forced: tuple[str, ...] | None = None
_reasons: dict[str | tuple[str, Operator], str | None] = {}


def _reason(name: str, operator: Operator | None = None) -> str | None:
    """Return why a kernel cannot run here, or not for `operator`, or None."""
    if name not in _reasons:
        _reasons[name] = KERNELS[name].unavailable()
    reason = _reasons[name]
    if reason is None and operator is not None and (name, operator) in _LACKS:
        if (name, operator) not in _reasons:
            _reasons[name, operator] = _LACKS[name, operator]()
        reason = _reasons[name, operator]
    return reason


# What it finds out (packages, devices, a self-test) is no part of a graph that torch.compile makes of the caller. This
# is what torch.compiler.assume_constant_result does, without importing all of torch.compile with the package.
_reason._dynamo_marked_constant = True  # type: ignore[attr-defined]


def status() -> dict[str, str | None]:
    """Return every kernel by name with the reason why it cannot run here, or None where it can."""
    return {name: _reason(name) for name in KERNELS}


def available() -> list[str]:
    """Return the names of the kernels that can run here."""
    return [name for name, reason in status().items() if reason is None]


def selected(device: str | torch.device = "cpu", operator: Operator = "lif", *, besides: tuple[str, ...] = ()) -> str:
    """Return the name of the kernel that computes `operator` on `device` (`"cpu"`, `"cuda"`, `"cuda:1"`, ...).

    A forced kernel is the answer where it serves that operator on that device; elsewhere the choice is by preference.
    For a call that this kernel does not take, the next one is chosen `besides` it.

    Raises:
        UnknownNameError: `RSNN_KERNEL` is set to a name that is no kernel, or there is no such operator.
        InputError: `device` is not a device, or the kernel of `RSNN_KERNEL` cannot run here.

    """
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError) as error:
        raise InputError(f"{device!r} is not a device; expected for example 'cpu' or 'cuda'") from error
    if operator not in OPERATORS:
        raise UnknownNameError(f"there is no operator {operator!r}; expected 'lif', 'convlstm' or 'attention'")
    forced = _forced
    if forced is None:
        variable = os.environ.get("RSNN_KERNEL")
        forced = _check_names([name.strip() for name in variable.split(",")], "RSNN_KERNEL: ") if variable else ()
    for name in forced:
        kernel = KERNELS[name]
        serves = operator in kernel.operators and (kernel.devices is None or kind in kernel.devices)
        if name not in besides and serves and _reason(name, operator) is None:
            return name
    for name in PREFERENCE.get((operator, kind), ()):
        if name not in besides and _reason(name, operator) is None:
            return name
    return "torch"


def use(*names: str) -> _Restore:
    """Force a kernel, or several of different operators (`use("cupy", "triton")`); `"auto"` chooses by device again.

    Each serves its own operators on its own kinds of device, the first named first; everything else stays as `auto`
    has it. Takes effect at once; as a context manager (`with use("torch"): ...`) the former choice returns at the end.

    Raises:
        UnknownNameError: there is no kernel of that name.
        InputError: it cannot run here; the message says why.

    """
    global _forced
    if not names:
        raise InputError(f"use() got no name; expected 'auto' or one of {sorted(KERNELS)}")
    former, _forced = _forced, _check_names(names)
    return _Restore(former)


class _Restore:
    """Puts the former choice of kernel back when its `with` block ends."""

    def __init__(self, former: tuple[str, ...] | None) -> None:
        self._former = former

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None:
        global _forced
        _forced = self._former


def _check_names(names: list[str] | tuple[str, ...], where: str = "") -> tuple[str, ...]:
    for name in names:
        if name != "auto":
            _check_name(name, where)
    return tuple(name for name in names if name != "auto")


def _check_name(name: str, where: str) -> None:
    if not isinstance(name, str) or name not in KERNELS:
        raise UnknownNameError(
            f"{where}there is no kernel {name!r}; expected 'auto' or one of {sorted(KERNELS)}."
            + suggest(str(name), KERNELS)
        )
    if reason := _reason(name):
        raise InputError(f"{where}kernel {name!r} cannot run here: {reason}")
