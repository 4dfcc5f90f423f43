"""Autocast, which not every kind of device has: meta tensors, for one, have none."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

_KINDS = ("cpu", "cuda", "xpu", "mps", "meta")
# Asked here, for PyTorch 2.10 and 2.11 cannot compile the question.
_WITH_AUTOCAST = frozenset(filter(torch.amp.is_autocast_available, _KINDS))


def autocasts(kind: str) -> bool:
    """Tell whether autocast is on for this kind of device."""
    return _has_autocast(kind) and torch.is_autocast_enabled(kind)


def rounds_to_bfloat16(weight: torch.Tensor) -> bool:
    """Tell whether autocast on the CPU computes with such a weight in bfloat16; float64 it leaves alone."""
    wanted = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return wanted and weight.dtype != torch.float64


def without_autocast(kind: str) -> AbstractContextManager[object]:
    """Turn autocast off for a while."""
    return torch.autocast(kind, enabled=False) if _has_autocast(kind) else nullcontext()


def _has_autocast(kind: str) -> bool:
    return kind in _WITH_AUTOCAST or (kind not in _KINDS and torch.amp.is_autocast_available(kind))
