"""What deciding early costs: accuracy against the time a decision takes.

Letters: T steps, N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch

from rsnn.data import Events
from rsnn.errors import InputError

if TYPE_CHECKING:
    from rsnn.models import EventClassifier

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Decision:
    """How a model does when it decides by one rule.

    Attributes:
        until: the probability at which it decides; None for deciding after `steps` steps whatever it is.
        accuracy: share of recordings decided right.
        steps: mean number of steps that a decision took.
        milliseconds: mean time from a recording's first event to the end of the last step that was needed.
        undecided: share of recordings that ended before the model was sure.

    """

    until: float | None
    accuracy: float
    steps: float
    milliseconds: float
    undecided: float


@torch.no_grad()
def decision_curve(
    model: EventClassifier,
    samples: Iterable[tuple[Events, int]],
    *,
    thresholds: Iterable[float] = THRESHOLDS,
    batch_size: int = 16,
) -> list[Decision]:
    """Measure early decisions: what `model.predict(recording, until=threshold)` would say of labelled recordings.

    Every recording runs through all its steps once, however many thresholds there are.

    Args:
        model: any model of the library with a preprocessing; it is put into eval mode.
        samples: pairs of a recording and its class index.
        thresholds: probabilities at which to decide.
        batch_size: recordings that run through the network together.

    Returns:
        a decision for each threshold, then one for each number of steps from 1 to T whatever the probability.

    Raises:
        InputError: the model has no preprocessing, or there are no samples.

    """
    preprocessing = model.preprocessing
    if preprocessing is None:
        raise InputError(
            f"this {type(model).__name__} has no preprocessing; expected one, to cut recordings into steps"
        )
    model.eval()
    weight = next(model.parameters(), torch.empty(0))
    confidences, hits, durations = [], [], []
    for batch in _batches(samples, batch_size):
        frames = torch.stack([preprocessing.frames(events) for events, _ in batch], dim=1).to(weight.device)
        labels = torch.tensor([label for _, label in batch])
        state, confidence, hit = None, [], []
        for step in range(len(frames)):
            logits, state = model.advance(frames[step : step + 1], state)
            best = logits.float().softmax(1).cpu().max(1)
            confidence.append(best.values)
            hit.append(best.indices == labels)
        confidences.append(torch.stack(confidence))
        hits.append(torch.stack(hit))
        durations += [events.duration_us / 1e3 for events, _ in batch]
    if not hits:
        raise InputError("there are no recordings; expected at least one")
    confidence_, hit_, duration = torch.cat(confidences, 1), torch.cat(hits, 1), torch.tensor(durations)
    T, N = hit_.shape

    def decide(until: float | None, step: torch.Tensor, undecided: float) -> Decision:
        """`step` (N,): the index of the step at which each recording is decided."""
        return Decision(
            until=until,
            accuracy=hit_[step, torch.arange(N)].float().mean().item(),
            steps=(step + 1).float().mean().item(),
            milliseconds=((step + 1) / T * duration).mean().item(),
            undecided=undecided,
        )

    curve = []
    for until in thresholds:
        sure = confidence_ >= until
        first = torch.where(sure.any(0), sure.float().argmax(0), T - 1)
        curve.append(decide(until, first, 1 - sure.any(0).float().mean().item()))
    return curve + [decide(None, torch.full((N,), step), 0.0) for step in range(T)]


def _batches(samples: Iterable[tuple[Events, int]], batch_size: int) -> Iterator[list[tuple[Events, int]]]:
    iterator = iter(samples)
    while batch := list(islice(iterator, batch_size)):
        yield batch
