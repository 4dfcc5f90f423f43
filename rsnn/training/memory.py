"""Less memory for long recordings: activations are computed again in backward instead of kept.

The encoder is cut in time: its state carries on from chunk to chunk, so chunks give what the whole sequence gives. A
spiking classifier cannot be cut in time while it trains, for its BatchNorm takes statistics over all steps; it is cut
between its layers instead. Gradients are those of the plain run, up to the order of summation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from rsnn.models import EventClassifier
from rsnn.nn.spiking_network import SpikingLayer
from rsnn.nn.stages import SpikingConv, SpikingLinear

LAYERS = (SpikingConv, SpikingLinear, SpikingLayer)


def encoded(model: EventClassifier, frames: Tensor, steps: int) -> Tensor:
    """Return the encoder's features (T, N, D, h, w) of normalised frames, keeping the activations of `steps` steps."""
    features, state = [], None
    for chunk in frames.split(steps):
        chunk_features, state = checkpoint(_encode, model.encoder, chunk, state, use_reentrant=False)
        features.append(chunk_features)
    return torch.cat(features)


def _encode(encoder: nn.Module, frames: Tensor, state: Any) -> tuple[Tensor, Any]:
    features, state = encoder(frames, state)
    return features, state


@contextlib.contextmanager
def layers_recomputed(module: nn.Module) -> Iterator[None]:
    """Let every spiking layer of `module` that runs in the block keep its input alone."""
    layers: list[Any] = [layer for layer in module.modules() if isinstance(layer, LAYERS)]
    for layer in layers:
        layer.forward = _Recomputed(layer, layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


class _Recomputed:
    """A layer's forward that drops its activations and runs again in backward."""

    def __init__(self, layer: nn.Module, forward: Any) -> None:
        self.layer = layer
        self.forward = forward

    def __call__(self, *inputs: Any) -> Any:
        return checkpoint(
            self.forward,
            *inputs,
            use_reentrant=False,
            context_fn=lambda: (contextlib.nullcontext(), _statistics_left_alone(self.layer)),
        )


@contextlib.contextmanager
def _statistics_left_alone(module: nn.Module) -> Iterator[None]:
    """Keep BatchNorm from counting a batch twice when its layer runs again."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
    before = [count.clone() for count in counts]
    for norm in norms:
        norm.momentum = 0.0  # the statistics move by nothing
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for count, former in zip(counts, before, strict=True):
            count.copy_(former)
