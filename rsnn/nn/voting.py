"""Voting: every class has several outputs, whose mean, over time too, is its score.

Shapes: T steps, N batch, C channels, H height, W width, K classes, V = K votes outputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rsnn.errors import InputError
from rsnn.nn.checks import check_features, check_kind, check_positive, full_name
from rsnn.nn.steps import add_up


class Voting(nn.Module):
    """Average pooling over groups of neighbouring outputs (the paper's AP10): (..., K votes) to (..., K).

    Args:
        votes: outputs of each class.

    """

    def __init__(self, votes: int = 10) -> None:
        super().__init__()
        check_positive(votes=votes)
        self.votes = votes

    def forward(self, outputs: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch K"]:
        """Return the mean of each class's `votes` outputs, in float32 at least: half the precision cannot hold tenths.

        Raises:
            InputError: the outputs cannot be shared out among classes of `votes`.

        """
        if not isinstance(outputs, Tensor) or outputs.ndim == 0 or outputs.shape[-1] % self.votes:
            came = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
            raise InputError(f"Voting got {came}; expected a tensor (..., K * {self.votes})")
        half = outputs.dtype in (torch.float16, torch.bfloat16)
        return outputs.unflatten(-1, (-1, self.votes)).mean(-1, dtype=torch.float32 if half else None)

    def extra_repr(self) -> str:
        """Return what `repr` shows of the layer."""
        return str(self.votes)


class RateState(NamedTuple):
    """What a spiking classifier carries on: the state of every layer of neurons, and the votes of the steps so far."""

    layers: tuple[Any, ...]
    votes: Float[Tensor, "N K"]
    steps: int


class RateClassifier(nn.Module):
    """Base of the spiking classifiers: layers that vote at every step, and the mean of the votes over time.

    A subclass has the attributes `in_channels` and `in_size`, and says in `step_votes` how a step becomes votes.
    """

    in_channels: int
    in_size: tuple[int, ...]

    def forward(
        self, features: Float[Tensor, "T N C H W"], state: RateState | None = None
    ) -> tuple[Float[Tensor, "N K"], RateState]:
        """Classify the feature maps.

        Args:
            features: (T, N, in_channels, *in_size).
            state: what an earlier call returned, to go on from there; None starts afresh.

        Returns:
            rates (N, K): the share of steps, of all since the fresh state, at which a class's outputs fired; and the
            state after the last step. So the last of several calls on chunks returns what one call on all returns.

        Raises:
            InputError: `features` or `state` has another shape, type or device.

        """
        check_kind(state, RateState, type(self).__name__)
        votes, layers = self.step_votes(features, None if state is None else state.layers)
        total = add_up(votes, None if state is None else state.votes)
        steps = features.shape[0] + (0 if state is None else state.steps)
        return total / steps, RateState(layers, total, steps)

    def step_votes(
        self, features: Float[Tensor, "T N C H W"], layers: tuple[Any, ...] | None = None
    ) -> tuple[Float[Tensor, "T N K"], tuple[Any, ...]]:
        """Return each step's share of firing outputs per class (T, N, K), and every layer's state after the last.

        For losses on every step (TET); `forward` averages them over time.
        """
        raise NotImplementedError

    def _check(self, features: Tensor, like: Tensor | None, layers: tuple[Any, ...] | None, number: int) -> None:
        """Refuse features that do not fit the network, and states of another number of layers than its own."""
        name = type(self).__name__
        check_features(features, self.in_channels, name, like)
        if tuple(features.shape[3:]) != self.in_size:
            raise InputError(f"{name} got feature maps of {tuple(features.shape[3:])} pixels; expected {self.in_size}")
        if layers is not None and len(layers) != number:
            raise InputError(f"{name} got states of {len(layers)} layers; it has {number}")


def resized_output(old: nn.Module, num_classes: int, votes: int) -> nn.Linear:
    """Return a fresh last layer like `old` (inputs, bias, device, type) for `num_classes` x `votes` outputs.

    Raises:
        InputError: `num_classes` is no number of classes, or `old` is none of torch's fully connected layers.

    """
    check_positive(num_classes=num_classes)
    if not isinstance(old, nn.Linear):
        raise InputError(
            f"the last layer is a {full_name(old)}; expected a torch.nn.Linear to make another like it: take "
            "wrappers off first, change classes before quantizing, or put a new module in its place yourself"
        )
    return nn.Linear(
        old.in_features,
        num_classes * votes,
        bias=old.bias is not None,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
