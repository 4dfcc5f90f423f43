"""From recordings to what a model says of them.

Shapes: T steps, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rsnn.data import Events, read_events
from rsnn.data.events import check_events
from rsnn.data.frames import check_polarities
from rsnn.data.grouping import of_equal_shape
from rsnn.errors import InputError
from rsnn.nn.checks import as_tensor
from rsnn.nn.modes import evaluating

if TYPE_CHECKING:
    from rsnn.models.base import EventClassifier

Recording = Events | np.ndarray[Any, Any] | Tensor | str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of one recording.

    Attributes:
        label: name of the most probable class (its index as text, where the model has no names).
        index: index of that class.
        probabilities: of every class (K,), float32 on the CPU; they sum to 1.
        steps: time steps that an early decision took, of all that the recording was cut into
            (`preprocessing.num_steps(events)`); None where the whole recording was asked for.

    """

    label: str
    index: int
    probabilities: Float[Tensor, " K"]
    steps: int | None = None


def frames_of(recording: Recording, model: EventClassifier) -> Float[Tensor, "T C H W"]:
    """Return a recording, whatever it is given as, as the counts that the model takes, of its weights' type.

    Raises:
        RSNNError: a file cannot be read, or the recording does not fit the model.

    """
    dtype = next(model.parameters(), torch.empty(0)).dtype
    if isinstance(recording, str | os.PathLike):
        recording = read_events(recording)
    if isinstance(recording, Events):
        if model.preprocessing is None:
            raise InputError(
                f"this {type(model).__name__} has no preprocessing, so it cannot cut a recording into frames; build "
                "it with preprocessing=rsnn.Preprocessing(...) or pass frames"
            )
        check_polarities(model)
        if not len(recording):
            raise InputError("the recording has no events, of which nothing can be said; expected at least one")
        return model.preprocessing.frames(recording).to(dtype)
    if not isinstance(recording, np.ndarray | Tensor):
        raise InputError(
            f"predict got a {type(recording).__name__}; expected Events, a path, frames (T, C, H, W), or a list"
        )
    if getattr(recording.dtype, "names", None):
        check_events(recording, "predict")  # which has an error for it
    if recording.ndim != 4:
        raise InputError(
            f"predict got frames of shape {tuple(recording.shape)}; expected (T, C, H, W) for one recording, or a "
            "list of such"
        )
    frames = as_tensor(recording).to(dtype)
    if not frames.isfinite().all():
        raise InputError("predict got frames with NaN or infinite numbers; expected counts of events")
    if model.preprocessing is not None and (frames < 0).any():
        raise InputError(f"predict got frames with numbers as low as {frames.min():g}; expected counts of events")
    return frames


def decide_early(model: EventClassifier, frames: Float[Tensor, "T C H W"], until: float) -> Prediction:
    """Go through the steps until a class is probable enough; at least one step, as `advance` asks for."""
    state = None
    for step in range(max(len(frames), 1)):
        logits, state = model.advance(frames[step : step + 1, None], state)
        prediction = replace(model.predictions(logits)[0], steps=step + 1)
        if prediction.probabilities[prediction.index] >= until:
            break
    return prediction


def classify(
    model: EventClassifier, samples: Iterable[Float[Tensor, "T C H W"]], batch_size: int
) -> Iterator[list[tuple[int, Prediction]]]:
    """Classify frames as they come, those of one shape together, in eval mode and without gradients.

    Yields:
        for each batch, pairs of a sample's place among `samples` and its prediction. Every place comes once, but not
        in order: one of a rare shape waits for others (see [`of_equal_shape`][rsnn.data.grouping.of_equal_shape]).

    """
    weight = next(model.parameters(), torch.empty(0))
    for batch in of_equal_shape(samples, batch_size):
        frames = torch.stack([sample for _, sample in batch], dim=1)
        with evaluating(model):
            predictions = model.predictions(model(frames.to(weight.device)))
        yield [(place, prediction) for (place, _), prediction in zip(batch, predictions, strict=True)]
