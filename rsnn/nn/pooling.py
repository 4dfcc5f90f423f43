"""Pooling of feature maps.

Shapes: T steps, N batch, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rsnn.kernels.watched import is_transformed


def average_pool(features: Float[Tensor, "T N C H W"], side: int) -> Float[Tensor, "T N C h w"]:
    """Return the means of windows of `side` x `side`; a rest that fills no window is left out."""
    return features if side == 1 else F.avg_pool2d(features.flatten(0, 1), side).unflatten(0, features.shape[:2])


def max_pool(features: Float[Tensor, "T N C H W"], side: int) -> Float[Tensor, "T N C h w"]:
    """Return the maxima of windows of `side` x `side`; a rest that fills no window is left out."""
    if side == 1:
        return features
    if (torch.is_grad_enabled() and features.requires_grad) or is_transformed():
        return F.max_pool2d(features.flatten(0, 1), side).unflatten(0, features.shape[:2])
    # Without gradients, whose ties max_pool2d knows how to break, the maxima of strips take a fraction of its time.
    height, width = features.shape[-2] // side, features.shape[-1] // side
    features = features[..., : height * side, : width * side]
    rows = features[..., ::side, :]
    for k in range(1, side):
        rows = torch.maximum(rows, features[..., k::side, :])
    out = rows[..., ::side]
    for k in range(1, side):
        out = torch.maximum(out, rows[..., k::side])
    return out
