"""Fresh weights for units of a decision head that never fire.

A ReLU whose sum is below zero for every input has no gradient and never fires again. Its unit gets random weights, as
large as those of its neighbours, and the bias with which it fires for some inputs; the layer above does not hear it
yet, so that at first the logits stay what they were.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsnn.nn.heads import ConvClassifier

SILENT = 1e-3  # share of the inputs or pixels that a unit fires for, below which it counts as silent
FIRING = 0.15  # that share of a revived unit


@torch.no_grad()
def revive(head: ConvClassifier, maps: Tensor) -> int:
    """Revive the units that are silent for all of the head's inputs `maps` (N, C, H, W), and return their number."""
    layers = [layer for layer in (*head.convs, head.hidden, head.output) if isinstance(layer, nn.Conv2d | nn.Linear)]
    revived, x = 0, maps
    for layer in (*head.convs, head.hidden):
        if layer is head.hidden:
            x = x.flatten(1)
        if layer in layers:
            revived += _revive(layer, layers[layers.index(layer) + 1], x)
        x = layer(x)
    return revived


def _revive(layer: nn.Module, above: nn.Module, x: Tensor) -> int:
    def sums() -> Tensor:
        return layer(x).transpose(0, 1).flatten(1)

    silent = (sums() > 0).float().mean(1) < SILENT
    if not silent.any() or silent.all():  # of a layer that is silent as a whole no unit says how large weights are
        return 0
    usual = layer.weight[~silent].flatten(1).norm(dim=1).median()
    fresh = torch.randn_like(layer.weight[silent])
    layer.weight[silent] = nn.functional.normalize(fresh.flatten(1)).mul(usual).reshape(fresh.shape)
    layer.bias[silent] = 0
    found = sums()[silent]
    layer.bias[silent] = -found.kthvalue(max(round((1 - FIRING) * found.shape[1]), 1), dim=1).values
    above.weight.view(len(above.weight), len(silent), -1)[:, silent] = 0
    return int(silent.sum())
