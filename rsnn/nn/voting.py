"""Voting: every class has several outputs, and their mean is its score."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rsnn.errors import InputError
from rsnn.nn.checks import check_positive


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


def resized_output(old: nn.Linear, num_classes: int, votes: int) -> nn.Linear:
    """Return a fresh last layer like `old` (inputs, bias, device, type) for `num_classes` x `votes` outputs."""
    check_positive(num_classes=num_classes)
    return nn.Linear(
        old.in_features,
        num_classes * votes,
        bias=old.bias is not None,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
