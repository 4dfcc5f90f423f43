"""What the loop measures of a model while it trains, and the warnings that follow from it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from rsnn.nn import LIF, SRM

SILENT = 1e-4
SATURATED = 0.95
STILL_EPOCHS = 5
STILL_SHARE = 0.01
WAITING_SHARE = 0.3
WAITING_SECONDS = 2.0


class Firing:
    """How often a layer's neurons fired, of the steps at which they could."""

    def __init__(self) -> None:
        self.calls: list[tuple[torch.Tensor, int]] = []

    @property
    def chances(self) -> int:
        """Number of neurons times steps, over all samples."""
        return sum(number for _, number in self.calls)

    @property
    def fired(self) -> float:
        """Number of spikes, over all samples."""
        return sum(share.item() * number for share, number in self.calls)

    def record(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        """Take note of a call, as a forward hook; on a GPU nothing waits for it."""
        spikes = output[0] if isinstance(output, tuple) else output
        self.calls.append((spikes.detach().float().mean(), spikes.numel()))


@contextlib.contextmanager
def firing(model: nn.Module) -> Iterator[dict[str, Firing]]:
    """Watch every layer of spiking neurons; a sample counts the same in whatever batch it comes."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LIF | SRM)}
    found = {name: Firing() for name in layers}
    handles = [layers[name].register_forward_hook(each.record) for name, each in found.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def rate_warnings(rates: dict[str, float]) -> list[str]:
    """Return a warning for each layer that never fires, or always."""
    silent = [
        f"layer {name} is silent (it fires at {rate:.2%} of its chances), so nothing behind it can learn: raise its "
        "input (a larger learning rate, BatchNorm) or lower its threshold"
        for name, rate in rates.items()
        if rate < SILENT
    ]
    saturated = [
        f"layer {name} is saturated (it fires at {rate:.1%} of its chances), so it tells nothing apart: lower the "
        "learning rate or raise its threshold"
        for name, rate in rates.items()
        if rate > SATURATED
    ]
    return silent + saturated


def history_warnings(history: list[dict[str, Any]], guess: float | None = None) -> list[str]:
    """Return what the course of a phase so far gives reason to say, after its last epoch.

    Args:
        history: of the phase.
        guess: the loss of a model that finds all classes equally probable, where that is known.

    """
    said = []
    if len(history) == STILL_EPOCHS:
        first, last = history[0]["loss"], history[-1]["loss"]
        if last > first * (1 - STILL_SHARE):
            guessing = "" if guess is None else f"; guessing gives {guess:.3f}"
            said.append(
                f"the loss has not moved in {STILL_EPOCHS} epochs ({first:.3f} to {last:.3f}{guessing}): check that "
                "labels belong to their recordings, and try a larger optimizer.lr or data.normalize = 'log1p'"
            )
    waited, seconds = history[-1]["waited"], history[-1]["seconds"]
    if waited > max(WAITING_SHARE * seconds, WAITING_SECONDS) and not any(h.get("slow_loader") for h in history[:-1]):
        history[-1]["slow_loader"] = True
        said.append(
            f"the model waited {waited / seconds:.0%} of the epoch for recordings: prepare them in other processes "
            "(--set loop.workers=4), or change them less (augment.*)"
        )
    return said
