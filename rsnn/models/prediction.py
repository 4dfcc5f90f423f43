"""From recordings to what a model says of them.

Shapes: T steps, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rsnn.data import Events, read_events
from rsnn.errors import InputError

if TYPE_CHECKING:
    from rsnn.models.base import EventClassifier

Recording = Events | np.ndarray[Any, Any] | Tensor | str | os.PathLike[str]


@dataclass(frozen=True)
class Prediction:
    """What a model says of one recording.

    Attributes:
        label: name of the most probable class (its index as text, where the model has no names).
        index: index of that class.
        probabilities: of every class (K,), float32 on the CPU; they sum to 1.
        steps: time steps that an early decision took; None where the whole recording was asked for.

    """

    label: str
    index: int
    probabilities: Float[Tensor, " K"]
    steps: int | None = None


def frames_of(recording: Recording, model: EventClassifier) -> Float[Tensor, "T C H W"]:
    """Return a recording, whatever it is given as, as the counts that the model takes.

    Raises:
        RSNNError: a file cannot be read, or the recording does not fit the model.

    """
    if isinstance(recording, str | os.PathLike):
        recording = read_events(recording)
    if isinstance(recording, Events):
        if model.preprocessing is None:
            raise InputError(
                f"this {type(model).__name__} has no preprocessing, so it cannot cut a recording into frames; build "
                "it with preprocessing=rsnn.Preprocessing(...) or pass frames"
            )
        return model.preprocessing.frames(recording)
    if not isinstance(recording, np.ndarray | Tensor):
        raise InputError(
            f"predict got a {type(recording).__name__}; expected Events, a path, frames (T, C, H, W), or a list"
        )
    if recording.ndim != 4:
        raise InputError(
            f"predict got frames of shape {tuple(recording.shape)}; expected (T, C, H, W) for one recording, or a "
            "list of such"
        )
    return torch.as_tensor(recording).to(torch.float32)


def decide_early(model: EventClassifier, frames: Float[Tensor, "T C H W"], until: float) -> Prediction:
    """Go through the steps until a class is probable enough; at least one step, as `advance` asks for."""
    state = None
    for step in range(max(len(frames), 1)):
        logits, state = model.advance(frames[step : step + 1, None], state)
        prediction = replace(model.predictions(logits)[0], steps=step + 1)
        if prediction.probabilities[prediction.index] >= until:
            break
    return prediction


def of_equal_shape(frames: Iterator[Tensor], batch_size: int) -> Iterator[list[Tensor]]:
    """Cut a stream of samples into lists of at most `batch_size` neighbours that have one shape."""
    batch: list[Tensor] = []
    for sample in frames:
        if batch and (sample.shape != batch[0].shape or len(batch) == batch_size):
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch
