"""A start for one encoder's classifiers from those of another encoder (hint training).

The encoder learns what the other one says of the same frames, up to a 1 x 1 convolution that is learned as well (Romero
et al., FitNets: Hints for Thin Deep Nets, ICLR 2015). The classifiers take over the other's weights, that convolution
within their first one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rsnn.models.base import EventClassifier


def learn_features(
    student: EventClassifier, teacher: EventClassifier, draw: Callable[[], Tensor], batches: int, lr: float = 1e-2
) -> Tensor:
    """Train the student's encoder on so many batches of frames that `draw` returns.

    Returns:
        (c, d): what makes the teacher's c features of the student's d.

    """
    readout = nn.Conv2d(student.encoder.out_channels, teacher.encoder.out_channels, 1, bias=False)
    readout.to(next(student.parameters()).device)
    parameters = [*student.encoder.parameters(), *readout.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    scale, told = None, time.monotonic()
    for batch in range(batches):
        rate = lr * min(1, (batch + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * batch / batches))
        for group in optimizer.param_groups:
            group["lr"] = rate
        frames = draw()
        with torch.no_grad():
            wanted = teacher.forward_features(frames)
        if scale is None:
            scale = wanted.var((0, 1, 3, 4), keepdim=True)
        features = student.forward_features(frames)
        said = readout(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        unexplained = ((said - wanted).square() / scale).mean()
        optimizer.zero_grad()
        unexplained.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if time.monotonic() - told > 20:
            told = time.monotonic()
            share = float(unexplained.detach())
            print(f"hints: {batch} of {batches} batches, {share:.2f} of the variance unexplained", flush=True)
    return readout.weight.detach()[:, :, 0, 0]


@torch.no_grad()
def take_over(student: EventClassifier, teacher: EventClassifier, readout: Tensor, gain: float = 1.0) -> None:
    """Give the student's classifier the teacher's weights, the first convolution's by `readout` (c, d) and `gain`."""
    weights = {name: value for name, value in teacher.state_dict().items() if name.startswith("classifier.")}
    first = next(name for name, value in weights.items() if value.ndim == 4)
    weights[first] = gain * torch.einsum("ochw,cd->odhw", weights[first], readout)
    student.load_state_dict(weights, strict=False)
