"""What deciding early costs: accuracy against the time a decision takes.

Letters: T steps, N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rsnn.data import Events
from rsnn.data.frames import check_polarities
from rsnn.data.grouping import of_equal_shape
from rsnn.errors import InputError
from rsnn.nn.modes import evaluating

if TYPE_CHECKING:
    from rsnn.models import EventClassifier

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Decision:
    """How a model does when it decides by one rule.

    Steps are counted as `num_frames` of a recording: where `max_step_ms` cuts one into m times as many, each of its own
    is 1 / m.

    Attributes:
        until: the probability at which it decides; None for deciding after `steps` steps whatever it is.
        accuracy: share of recordings decided right.
        steps: mean number of steps that a decision took.
        milliseconds: mean time from a recording's first event to the end of the last step that was needed.
        undecided: share of recordings that ended before the model was sure.
        decided_accuracy: share of the others that were decided right; None where it was sure of none.

    """

    until: float | None
    accuracy: float
    steps: float
    milliseconds: float
    undecided: float
    decided_accuracy: float | None


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
        model: any model of the library with a preprocessing; it runs in eval mode, and is left in the mode it had.
        samples: pairs of a recording and its class index.
        thresholds: probabilities at which to decide.
        batch_size: recordings that run through the network together.

    Returns:
        a decision for each threshold, then one for each number of steps from 1 to `num_frames` whatever the
        probability.

    Raises:
        InputError: the model has no preprocessing or takes frames of other than two channels, or there are no samples.

    """
    preprocessing = model.preprocessing
    if preprocessing is None:
        raise InputError(
            f"this {type(model).__name__} has no preprocessing; expected one, to cut recordings into steps"
        )
    check_polarities(model)
    weight = next(model.parameters(), torch.empty(0))
    labels: list[int] = []
    durations_ms: list[float] = []

    def frames_of_each() -> Iterator[Tensor]:
        for events, label in samples:
            labels.append(label)
            durations_ms.append(events.duration_us / 1e3)
            yield preprocessing.frames(events)

    untils, numbers = list(thresholds), range(1, preprocessing.num_frames + 1)
    rows: list[list[Tensor]] = [[] for _ in (*untils, *numbers)]
    for batch in of_equal_shape(frames_of_each(), batch_size):
        frames = torch.stack([sample for _, sample in batch], dim=1).to(weight)
        duration_ms = torch.tensor([durations_ms[place] for place, _ in batch])
        with evaluating(model):
            confidence, hit = _course(model, frames, torch.tensor([labels[place] for place, _ in batch]))
        T, N = hit.shape
        finer = T // preprocessing.num_frames
        sure = [confidence >= until for until in untils]
        steps = [torch.where(row.any(0), row.float().argmax(0), T - 1) for row in sure]
        steps += [torch.full((N,), number * finer - 1) for number in numbers]
        decided = [row.any(0) for row in sure] + [torch.ones(N, dtype=torch.bool) for _ in numbers]
        for row, step, one in zip(rows, steps, decided, strict=True):
            share = (step + 1) / T
            right = hit[step, torch.arange(N)]
            row.append(torch.stack((right.float(), (step + 1) / finer, share * duration_ms, ~one, right & one)))
    if not labels:
        raise InputError("there are no recordings; expected at least one")
    curve = []
    for until, row in zip([*untils, *(None for _ in numbers)], rows, strict=True):
        accuracy, taken, milliseconds, undecided, right = torch.cat(row, 1).double().mean(1).tolist()
        among = right / (1 - undecided) if undecided < 1 else None
        curve.append(Decision(until, accuracy, taken, milliseconds, undecided, among))
    return curve


def _course(model: EventClassifier, frames: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return after every step the highest probability (T, N), and whether its class is the label (T, N)."""
    state, confidence, hit = None, [], []
    for step in range(len(frames)):
        logits, state = model.advance(frames[step : step + 1], state)
        best = logits.float().softmax(1).cpu().max(1)
        confidence.append(best.values)
        hit.append(best.indices == labels)
    return torch.stack(confidence), torch.stack(hit)
