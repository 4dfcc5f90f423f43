"""What training makes small. Shapes: T steps, N batch, K classes; targets are (N, K) shares of the classes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def targets(labels: Int[Tensor, " N"], num_classes: int, smoothing: float = 0.0) -> Float[Tensor, "N K"]:
    """Return one-hot targets with a share `smoothing` spread evenly over all classes."""
    hot = F.one_hot(labels, num_classes).to(torch.float32)
    return hot * (1 - smoothing) + smoothing / num_classes


def mixed(
    frames: Float[Tensor, "T N C H W"], wanted: Float[Tensor, "N K"], alpha: float
) -> tuple[Float[Tensor, "T N C H W"], Float[Tensor, "N K"]]:
    """Mix each recording, and its target, with another of the batch (mixup, Zhang et al. 2018).

    The share is drawn once a batch from Beta(alpha, alpha), the partners by torch's generator.
    """
    order = torch.randperm(frames.shape[1])
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    order = order.to(frames.device)
    return frames.lerp(frames[:, order], 1 - share), wanted.lerp(wanted[order], 1 - share)


def cross_entropy(logits: Float[Tensor, "N K"], wanted: Float[Tensor, "N K"]) -> Float[Tensor, ""]:
    """Return the mean over the batch of - sum_k wanted_k log softmax(logits)_k."""
    return F.cross_entropy(logits.float(), wanted)


def rate_mse(votes: Float[Tensor, "T N K"], wanted: Float[Tensor, "N K"]) -> Float[Tensor, ""]:
    """Return the mean squared error of the rates over all steps (Fang et al. 2021)."""
    return F.mse_loss(votes.float().mean(0), wanted)


def tet(
    votes: Float[Tensor, "T N K"],
    wanted: Float[Tensor, "N K"],
    *,
    scale: float = 1.0,
    weight: float = 0.05,
    level: float = 1.0,
) -> Float[Tensor, ""]:
    """Return the temporally efficient loss (Deng et al. 2022), the mean over the steps of their cross-entropies.

    (1 - weight) / T sum_t CE(scale votes_t, wanted) + weight / T sum_t MSE(votes_t, level)
    """
    steps = votes.float()
    entropy = F.cross_entropy(scale * steps.flatten(0, 1), wanted.repeat(len(steps), 1))
    if not weight:
        return entropy
    return (1 - weight) * entropy + weight * (steps - level).square().mean()
