"""How good a model is on labelled recordings: accuracy with its uncertainty, per class, and what is taken for what."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from rsnn.errors import InputError
from rsnn.models import EventClassifier
from rsnn.models.base import Recording

# Two-sided 95 % of the normal distribution.
_Z_95 = 1.959964


@dataclass(frozen=True)
class Evaluation:
    """What came of classifying a labelled set.

    Attributes:
        confusion: counts (K, K): row the true class, column the predicted one.
        class_names: of the K classes.

    """

    confusion: npt.NDArray[np.int64]
    class_names: tuple[str, ...]

    @property
    def samples(self) -> int:
        """Number of recordings."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of recordings classified right."""
        return float(np.trace(self.confusion)) / self.samples

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the accuracy (Wilson's, which holds near 1 and for few samples)."""
        return wilson_interval(int(np.trace(self.confusion)), self.samples)

    @property
    def per_class(self) -> dict[str, float]:
        """Share classified right of each class that occurs."""
        totals = self.confusion.sum(1)
        return {name: float(self.confusion[i, i] / totals[i]) for i, name in enumerate(self.class_names) if totals[i]}

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "samples": self.samples,
            "accuracy": self.accuracy,
            "interval_95": list(self.interval),
            "per_class": self.per_class,
            "confusion": self.confusion.tolist(),
            "class_names": list(self.class_names),
        }


def wilson_interval(right: int, samples: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval for a share of `right` in `samples` (Wilson 1927)."""
    share, z2 = right / samples, _Z_95**2
    centre = (share + z2 / (2 * samples)) / (1 + z2 / samples)
    half = _Z_95 * math.sqrt(share * (1 - share) / samples + z2 / (4 * samples**2)) / (1 + z2 / samples)
    return max(0.0, centre - half), min(1.0, centre + half)


def evaluate(
    model: EventClassifier,
    samples: Iterable[tuple[Recording, int]],
    *,
    batch_size: int = 16,
    on_progress: Callable[[int], object] = lambda _done: None,
) -> Evaluation:
    """Classify labelled recordings and count.

    Args:
        model: any model of the library.
        samples: pairs of a recording (as `model.predict` takes it) and its class index.
        batch_size: recordings that run through the network together.
        on_progress: called with the number of recordings done after each batch.

    Raises:
        InputError: there are no samples, or a label is none of the model's classes.

    """
    num_classes = model.num_classes
    if num_classes is None:
        raise InputError(f"the classifier {type(model.classifier).__name__} does not tell its num_classes")
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    for batch in _batches(samples, batch_size):
        predictions = model.predict([recording for recording, _ in batch], batch_size=batch_size)
        for prediction, (_, label) in zip(predictions, batch, strict=True):
            if not 0 <= label < num_classes:
                raise InputError(f"label {label}: expected a class index from 0 to {num_classes - 1}")
            confusion[label, prediction.index] += 1
        on_progress(int(confusion.sum()))
    if not confusion.any():
        raise InputError("there are no recordings to evaluate; expected at least one")
    return Evaluation(confusion, model.class_names or tuple(map(str, range(num_classes))))


def _batches(samples: Iterable[tuple[Recording, int]], batch_size: int) -> Iterator[list[tuple[Recording, int]]]:
    iterator = iter(samples)
    while batch := list(islice(iterator, batch_size)):
        yield batch
