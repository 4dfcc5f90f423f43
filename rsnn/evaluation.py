"""How good a model is on labelled recordings: accuracy with its uncertainty, per class, and what is taken for what."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rsnn.checks import is_whole
from rsnn.data import Events, read_events
from rsnn.data.frames import POLARITIES
from rsnn.data.grouping import of_equal_shape
from rsnn.errors import InputError, RSNNError, shortened, shown
from rsnn.models import EventClassifier, Preprocessing
from rsnn.models.prediction import Recording, classify, frames_of
from rsnn.nn.checks import check_positive
from rsnn.nn.modes import evaluating

# Two-sided 95 % of the normal distribution.
_Z_95 = 1.959964


@dataclass(frozen=True, eq=False)
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
    return (0.0 if right == 0 else centre - half), (1.0 if right == samples else centre + half)


def evaluate(
    model: EventClassifier,
    samples: Iterable[tuple[Recording, int]],
    *,
    batch_size: int = 16,
    windows: int = 1,
    window_ms: int | None = None,
    ids: Sequence[str] | None = None,
    accelerator: Any = None,
    on_progress: Callable[[int], object] = lambda _done: None,
) -> Evaluation:
    """Classify labelled recordings and count.

    Args:
        model: any model of the library.
        samples: pairs of a recording (as `model.predict` takes it) and its class index, or a data set of the model's
            classes. Of several processes each takes its own: `[rank::processes]` of all.
        batch_size: recordings that run through the network together, where they have equally many steps.
        windows: windows of each recording, evenly spaced, whose probabilities are averaged; 1 takes recordings whole.
        window_ms: duration of a window, of two or more; by default that of the recordings the model was trained on. A
            recording that is no longer than that is one window.
        ids: names of the recordings, for errors.
        accelerator: an `accelerate.Accelerator`, to add up the counts of all its processes.
        on_progress: called with the number of recordings done after each batch.

    Raises:
        InputError: there are no samples, or no such pairs, a label is none of the model's classes, a data set names
            other classes, an argument is no positive number, or `window_ms` is given for recordings that are taken
            whole.

    """
    check_positive(batch_size=batch_size, windows=windows)
    if window_ms is not None:
        check_positive(window_ms=window_ms)
        if windows == 1:
            raise InputError(
                f"window_ms={window_ms} with windows=1, which takes recordings whole; expected windows of 2 or more, "
                "or no window_ms"
            )
    confusion = _nothing(model)
    pairs = _pairs(samples, model)
    if windows > 1:
        for batch in _batches(pairs, batch_size):
            for recording, label in batch:
                with _naming(ids, int(confusion.sum())):
                    answer = _voted(model, recording, windows, window_ms, batch_size)
                _count(confusion, label, answer)
            on_progress(int(confusion.sum()))
        return _evaluation(model, confusion, accelerator)
    labels: list[int] = []
    for answers in classify(model, _frames(model, pairs, labels, ids), batch_size):
        for place, prediction in answers:
            _count(confusion, labels[place], prediction.index)
        on_progress(int(confusion.sum()))
    return _evaluation(model, confusion, accelerator)


def windows_of(events: Events, number: int, duration_us: int) -> list[Events]:
    """Return `number` pieces of `duration_us`, evenly spaced over the recording; those without events are left out.

    A recording that is no longer than a piece is returned whole.
    """
    if events.duration_us <= duration_us or number < 2:
        return [events]
    first, spare = int(events.t[0]), events.duration_us - duration_us
    starts = [first + spare * k // (number - 1) for k in range(number)]
    return [piece for start in starts if len(piece := events.between(start, start + duration_us + 1))]


def evaluate_steps(
    model: EventClassifier,
    samples: Iterable[tuple[Recording, int]],
    steps: Sequence[int],
    *,
    batch_size: int = 16,
    ids: Sequence[str] | None = None,
    accelerator: Any = None,
) -> dict[int, Evaluation]:
    """Return the evaluation after only the first k time steps of each recording, for each k of `steps`, in one pass.

    A time step is here one of the `num_frames` shares of a recording, however many steps it was cut into: of a
    recording that `max_step_ms` cuts into m times `num_frames`, the first k are m k of its own.

    Raises:
        InputError: as `evaluate`, or a k is not among the steps.

    """
    check_positive(batch_size=batch_size)
    given = list(steps)
    most = None if model.preprocessing is None else model.preprocessing.num_frames
    if not given or not all(is_whole(k) and 1 <= k <= (most or k) for k in given):
        limits = "of at least 1" if most is None else f"from 1 to {most}"
        raise InputError(f"steps {shown(given)}: expected whole numbers of time steps {limits}")
    wanted = sorted(set(given))
    confusions = {k: _nothing(model) for k in wanted}
    device = next(model.parameters(), torch.empty(0)).device
    labels: list[int] = []
    for batch in of_equal_shape(_frames(model, _pairs(samples, model), labels, ids), batch_size):
        frames = torch.stack([sample for _, sample in batch], dim=1)
        finer = _multiple(model, len(frames))
        if len(frames) < finer * wanted[-1]:
            raise InputError(
                f"a recording has {len(frames)} time steps; expected at least the {wanted[-1]} after which the model "
                "is to be evaluated"
            )
        state, done = None, 0
        for k in wanted:
            with evaluating(model):
                logits, state = model.advance(frames[done : finer * k].to(device), state)
            done = finer * k
            for answer, (place, _) in zip(logits.argmax(1).tolist(), batch, strict=True):
                _count(confusions[k], labels[place], answer)
    return {k: _evaluation(model, confusion, accelerator) for k, confusion in confusions.items()}


@dataclass(frozen=True)
class Disturbance:
    """A way in which recordings get worse, with the levels at which it is tried.

    Attributes:
        text: what a level means.
        levels: from mild to harsh.
        apply: returns the events as a level disturbs them.

    """

    text: str
    levels: tuple[float, ...]
    apply: Callable[[Events, float, np.random.Generator], Events]


def dropped(events: Events, share: float, rng: np.random.Generator) -> Events:
    """Leave each event out with probability `share`, but not all of them."""
    kept = rng.random(len(events)) >= share
    return _chosen(events, kept) if kept.any() else events[:1]


def with_noise(events: Events, share: float, rng: np.random.Generator) -> Events:
    """Add `share` as many events again, anywhere, at any time between the first and the last, of either polarity."""
    number = round(share * len(events))
    width, height = events.sensor_size
    t = np.concatenate((events.t, rng.integers(events.t[0], events.t[-1] + 1, number)))
    columns: dict[str, Any] = {
        "x": np.concatenate((events.x, rng.integers(width, size=number))),
        "y": np.concatenate((events.y, rng.integers(height, size=number))),
        "p": np.concatenate((events.p, rng.integers(2, size=number))),
    }
    order = np.argsort(t, kind="stable")
    return Events(t=t[order], **{name: c[order] for name, c in columns.items()}, sensor_size=events.sensor_size)


def hurried(events: Events, factor: float, _rng: np.random.Generator) -> Events:
    """Let the first half of the time pass `factor` times as fast; the second half stays."""
    first, half = int(events.t[0]), events.duration_us // 2
    since = events.t - first
    t = np.where(since <= half, (since / factor).astype(np.int64), since - half + int(half / factor))
    return Events(t=first + t, x=events.x, y=events.y, p=events.p, sensor_size=events.sensor_size)


DISTURBANCES = {
    "drop": Disturbance("share of the events lost", (0.1, 0.25, 0.5, 0.75, 0.9), dropped),
    "noise": Disturbance("noise events for each event", (0.1, 0.25, 0.5, 1.0), with_noise),
    "tempo": Disturbance("speed of the first half", (0.5, 0.75, 1.5, 2.0), hurried),
}


def robustness(
    model: EventClassifier,
    samples: Callable[[], Iterable[tuple[Events, int]]],
    *,
    batch_size: int = 16,
    windows: int = 1,
    window_ms: int | None = None,
    seed: int = 0,
    ids: Sequence[str] | None = None,
    accelerator: Any = None,
    on_progress: Callable[[int], object] = lambda _done: None,
) -> dict[str, dict[float, Evaluation]]:
    """Evaluate a model on disturbed recordings: events lost, noise added, tempo changed, clips cut short.

    Args:
        model: any model of the library.
        samples: returns the labelled recordings afresh; it is called once for each level. Of several processes each
            takes its own: `[rank::processes]` of all.
        batch_size: recordings that run through the network together.
        windows, window_ms: as in `evaluate`.
        seed: of what is random. What becomes of a recording depends on it, the level and the recording's place among
            all alone: it is the same for every model, on however many processes.
        ids: names of the recordings, for errors.
        accelerator: an `accelerate.Accelerator`, to add up the counts of all its processes.
        on_progress: called with the number of evaluations done.

    Returns:
        for each kind of disturbance, and for `"steps"` (the first k time steps alone), the evaluation at each level. A
        model with `normalize="per-sample"`, or a classifier without a state, needs all steps at once, and several
        windows are of whole ones: they have no `"steps"`.

    Raises:
        InputError: there are no samples, or a label is none of the model's classes.

    """
    results: dict[str, dict[float, Evaluation]] = {}
    done = 0
    shared = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
    for kind, (name, disturbance) in enumerate(DISTURBANCES.items()):
        for level in disturbance.levels:
            disturbed = _disturbed(samples(), disturbance, level, (seed, kind, round(1000 * level)), *shared)
            results.setdefault(name, {})[level] = evaluate(
                model,
                disturbed,
                batch_size=batch_size,
                windows=windows,
                window_ms=window_ms,
                ids=ids,
                accelerator=accelerator,
            )
            done += 1
            on_progress(done)
    if windows > 1:
        return results
    preprocessing = model.preprocessing
    if preprocessing is not None and preprocessing.normalize != "per-sample" and _goes_on(model, preprocessing):
        steps = range(1, preprocessing.num_frames + 1)
        by_steps = evaluate_steps(model, samples(), steps, batch_size=batch_size, ids=ids, accelerator=accelerator)
        results["steps"] = {float(k): result for k, result in by_steps.items()}
    on_progress(done + 1)
    return results


def _disturbed(
    samples: Iterable[tuple[Events, int]],
    disturbance: Disturbance,
    level: float,
    seed: tuple[int, ...],
    rank: int,
    processes: int,
) -> Iterator[tuple[Events, int]]:
    """Yield one process's recordings disturbed, each by a generator of its own, which its place among all decides."""
    for place, (events, label) in enumerate(samples):
        rng = np.random.default_rng((*seed, rank + place * processes))
        yield (disturbance.apply(events, level, rng) if len(events) else events), label


def _voted(model: EventClassifier, recording: Recording, number: int, window_ms: int | None, batch_size: int) -> int:
    """Return the class with the highest mean probability over the windows of a recording."""
    events = read_events(recording) if isinstance(recording, str | os.PathLike) else recording
    if not isinstance(events, Events):
        raise InputError(
            f"windows={number} cuts events in time and got a {type(events).__name__}; expected Events or a path"
        )
    known = None if model.preprocessing is None else model.preprocessing.window_ms
    duration_ms = window_ms or known
    if duration_ms is None:
        raise InputError("this model does not say how long its recordings were; expected window_ms=, in milliseconds")
    pieces: list[Recording] = list(windows_of(events, number, 1000 * duration_ms))
    predictions = model.predict(pieces, batch_size=batch_size)
    return int(torch.stack([prediction.probabilities for prediction in predictions]).mean(0).argmax())


def _pairs(samples: Iterable[tuple[Recording, int]], model: EventClassifier) -> Iterator[tuple[Recording, int]]:
    """Yield pairs of a recording and a label, if that is what came, of the model's classes."""
    names = getattr(samples, "class_names", None)
    if names is not None and model.class_names is not None and tuple(names) != model.class_names:
        raise InputError(
            f"the data set has the classes {shortened(str(tuple(names)))}, and the model "
            f"{shortened(str(model.class_names))}; expected labels of the model: pairs of a recording and "
            "model.class_names.index(name), or `rsnn evaluate`, which goes by the names"
        )
    pairs = "expected pairs (recording, class index), as in zip(archive, archive.labels)"
    try:
        each = iter(samples)
    except TypeError:
        raise InputError(f"samples is {shown(samples)}; {pairs}") from None
    for place, pair in enumerate(each):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(f"sample {place} is {shown(pair)}; {pairs}")
        recording, label = pair
        yield recording, label


def _frames(
    model: EventClassifier, samples: Iterable[tuple[Recording, int]], labels: list[int], ids: Sequence[str] | None
) -> Iterator[torch.Tensor]:
    """Yield the frames (T, C, H, W) of each recording, and put its label into `labels`."""
    for place, (recording, label) in enumerate(samples):
        labels.append(label)
        with _naming(ids, place):
            frames = frames_of(recording, model)
        yield frames


@contextmanager
def _naming(ids: Sequence[str] | None, place: int) -> Iterator[None]:
    """Let an error say which recording it is about."""
    try:
        yield
    except RSNNError as error:
        if ids is None:
            raise
        raise type(error)(f"recording {ids[place]}: {error}") from error


def _multiple(model: EventClassifier, steps: int) -> int:
    """Return m of a recording that was cut into m times `num_frames` steps."""
    preprocessing = model.preprocessing
    if preprocessing is None or preprocessing.max_step_ms is None:
        return 1
    return max(steps // preprocessing.num_frames, 1)


def _goes_on(model: EventClassifier, preprocessing: Preprocessing) -> bool:
    """Tell whether the classifier keeps a state, so that the model can be asked after some steps and go on."""
    like = next(model.parameters(), torch.empty(0))
    channels = getattr(model.encoder, "in_channels", POLARITIES)
    frame = torch.zeros(1, 1, channels, *preprocessing.frame_size, device=like.device, dtype=like.dtype)
    with evaluating(model):
        return model.advance(frame)[1].classifier is not None


def _chosen(events: Events, kept: npt.NDArray[np.bool_]) -> Events:
    return Events(
        t=events.t[kept], x=events.x[kept], y=events.y[kept], p=events.p[kept], sensor_size=events.sensor_size
    )


def _nothing(model: EventClassifier) -> npt.NDArray[np.int64]:
    """Return the empty confusion matrix of a model."""
    if model.num_classes is None:
        raise InputError(f"the classifier {type(model.classifier).__name__} does not tell its num_classes")
    return np.zeros((model.num_classes, model.num_classes), dtype=np.int64)


def _count(confusion: npt.NDArray[np.int64], label: Any, answer: int) -> None:
    try:
        place = operator.index(bool(label) if isinstance(label, np.bool_) else label)
    except TypeError:
        place = -1
    if not 0 <= place < len(confusion):
        raise InputError(f"label {shown(label)}: expected a class index from 0 to {len(confusion) - 1}")
    confusion[place, answer] += 1


def _evaluation(model: EventClassifier, confusion: npt.NDArray[np.int64], accelerator: Any) -> Evaluation:
    """Return the evaluation that a confusion matrix, added up over all processes, gives."""
    if accelerator is not None and accelerator.num_processes > 1:
        counts = torch.from_numpy(confusion).to(accelerator.device)
        confusion = accelerator.reduce(counts, "sum").cpu().numpy()
    if not confusion.any():
        raise InputError("there are no recordings to evaluate; expected at least one")
    return Evaluation(confusion, model.class_names or tuple(map(str, range(len(confusion)))))


def _batches(samples: Iterable[tuple[Recording, int]], batch_size: int) -> Iterator[list[tuple[Recording, int]]]:
    iterator = iter(samples)
    while batch := list(islice(iterator, batch_size)):
        yield batch
