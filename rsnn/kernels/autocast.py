"""Autocast, which not every kind of device has: meta tensors, for one, have none."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def autocasts(kind: str) -> bool:
    """Tell whether autocast is on for this kind of device."""
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def without_autocast(kind: str) -> AbstractContextManager[object]:
    """Turn autocast off for a while."""
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
