"""Models on several streams: events in as they come, predictions out when their time has come.

Letters: T steps of a window, K classes, N samples, C channels, H height, W width.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rsnn.checks import check_whole, is_number, is_whole
from rsnn.data import Events
from rsnn.data.frames import POLARITIES
from rsnn.errors import InputError
from rsnn.nn.modes import evaluating
from rsnn.streaming import snapshots, trees
from rsnn.streaming.slicer import Chunk, Slice, Slicer
from rsnn.streaming.step import Step
from rsnn.streaming.timing import DEFAULT_WINDOW_US, Timing
from rsnn.streaming.track import Track, Window

if TYPE_CHECKING:
    from rsnn.models import EventClassifier, Prediction

Timed = tuple[int, "Prediction"]

_END: Any = object()


class StreamBatch:
    """Several independent streams through one model, their steps side by side where that is possible.

    Every stream has its own sensor, clock and windows, and its predictions are those it would have alone. Where a step
    is one native call (see `step.py`) windows take it one after the other, with weights that are in the caches. Else
    they run through the network together when they have gone the same number of steps, so streams that begin together
    and are fed together gain most.

    Args:
        model: any model of the library with a preprocessing of `split_by="time"`; it is used as it is, on its device.
        streams: how many.
        window_us: duration of a window, in which the model gathers evidence before it starts afresh; by default that
            of the recordings it was trained on, if its checkpoint says so, else one second. It has as many steps
            as a recording of its duration: `num_frames`, or with `max_step_ms` and a long window 2, 3, ... times that.
        hop_us: time between predictions: whole steps that divide the window; one step by default.
        overlap: windows that run at once, each `window_us / overlap` after the one before; the oldest one predicts. So
            a prediction has at least `1 - 1 / overlap` of a window behind it (after the first window), at `overlap`
            times the work.
        decay: weight that the logits of a prediction keep in the next one, from 0 (none) to below 1: the running
            probabilities are the softmax of the weighted mean of all logits so far, those of n hops ago with the
            weight decay^n.
        sensor_size: (width, height); see [`Slicer`][rsnn.streaming.slicer.Slicer].

    Raises:
        InputError: an argument is out of its range, or the model cannot cut a stream.

    """

    def __init__(
        self,
        model: EventClassifier,
        streams: int,
        *,
        window_us: int | None = None,
        hop_us: int | None = None,
        overlap: int = 1,
        decay: float = 0.0,
        sensor_size: tuple[int, int] | None = None,
    ) -> None:
        preprocessing = model.preprocessing
        if preprocessing is None:
            raise InputError(
                f"this {type(model).__name__} has no preprocessing, so it cannot cut a stream into frames; build it "
                "with preprocessing=rsnn.Preprocessing(...)"
            )
        if preprocessing.split_by != "time":
            raise InputError(
                f"the model was trained on frames of equal numbers of events (split_by={preprocessing.split_by!r}), "
                "and a stream is cut by time; expected a model with split_by='time'"
            )
        if preprocessing.normalize == "per-sample":
            raise InputError(
                "the model was trained on frames that are normalised by the counts of the whole recording "
                "(normalize='per-sample'), which a stream has not; expected another normalize"
            )
        channels = getattr(model.encoder, "in_channels", None)
        if channels not in (None, POLARITIES):
            raise InputError(
                f"the model takes frames of {channels} channels, and a stream is cut into frames of {POLARITIES} "
                f"(darker, brighter); expected a model with in_channels={POLARITIES}"
            )
        if not is_whole(streams) or streams < 1:
            raise InputError(f"streams={streams!r}: expected a whole number of at least 1")
        if not is_number(decay) or not 0 <= decay < 1:
            raise InputError(f"decay={decay!r}: expected a weight from 0 to below 1")
        if window_us is None:
            known = preprocessing.window_ms
            window_us = DEFAULT_WINDOW_US if known is None else 1000 * known
        self.model = model
        steps = preprocessing.steps_in(check_whole("window_us", window_us, preprocessing.num_frames))
        self.timing = Timing.of(steps, window_us, hop_us, overlap)
        self._decay = float(decay)
        self._tracks = [
            Track(Slicer(preprocessing, self.timing, sensor_size), self.timing, self._decay) for _ in range(streams)
        ]
        self._batch_axes: list[int | None] | None = None
        self._step = Step(model, self._state_of)

    def __getstate__(self) -> dict[str, Any]:
        # The native step holds addresses; a copy takes its own at its first step.
        return {name: value for name, value in vars(self).items() if name != "_step"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._step = Step(self.model, self._state_of)

    def __len__(self) -> int:
        return len(self._tracks)

    @property
    def slicers(self) -> list[Slicer]:
        """What cuts each stream."""
        return [track.slicer for track in self._tracks]

    @property
    def late(self) -> list[int]:
        """Events of each stream that were left out because they came after their step was complete."""
        return [track.slicer.late for track in self._tracks]

    def push(self, chunks: Iterable[Chunk | None]) -> list[list[Timed]]:
        """Add a chunk of events to each stream (None for none), and return what became due.

        Args:
            chunks: for each stream `Events`, or a structured array with the fields t, x, y and p in any order of time.

        Returns:
            for each stream the predictions, each with the time at which its last step ended.

        Raises:
            InputError: there are not as many chunks as streams, or one is no events or of another sensor; or the model
                was changed since, so that it cannot go on.
            RecordingError: an event of an array lies outside the sensor.

        """
        if isinstance(chunks, Events | np.ndarray):
            raise InputError(
                f"push got a {type(chunks).__name__}; expected a list of them, one for each of the {len(self)} streams "
                "and None for none"
            )
        listed = list(chunks)
        self._check_number(listed, "chunks")
        # All are checked before any is added: after an error no stream has moved.
        checked = [
            None if chunk is None else slicer.checked(chunk) for slicer, chunk in zip(self.slicers, listed, strict=True)
        ]
        return self.run(
            () if chunk is None else slicer.add(chunk) for slicer, chunk in zip(self.slicers, checked, strict=True)
        )

    def advance_to(self, t_us: int | Iterable[int | None]) -> list[list[Timed]]:
        """Let time pass without events, up to `t_us` (one for all, or one for each stream): a sensor may be silent.

        Raises:
            InputError: a time is no whole number of microseconds, or there are not as many as streams.

        """
        # Arrays and tensors of a single number call themselves iterable, too.
        if isinstance(t_us, Iterable) and getattr(t_us, "ndim", 1) > 0:
            given: list[Any] = list(t_us)
        else:
            given = [t_us] * len(self)
        self._check_number(given, "times")
        times = [None if t is None else _microseconds(t) for t in given]
        return self.run(
            () if t is None else slicer.close_until(t) for slicer, t in zip(self.slicers, times, strict=True)
        )

    def flush(self) -> list[list[Timed]]:
        """End the open step now, and predict from what there is, between two hops too: for the end of a recording."""
        outputs = self.run(slicer.close(slicer.step + 1) if slicer.events else () for slicer in self.slicers)
        for i, (output, track) in enumerate(zip(outputs, self._tracks, strict=True)):
            with self._naming([i]):
                logits = track.due_early()
            if logits is not None:
                output.append(self._timed(track, logits))
        return outputs

    def run(self, slices: Iterable[Iterable[Slice]]) -> list[list[Timed]]:
        """Run the steps that each stream's slicer completed, for callers who slice and run in two threads.

        The first steps of all streams come first, then the second ones, and so on.

        Raises:
            InputError: there are not as many as streams, or the model was changed since a window began, so that it does
                not take the window's state.

        """
        listed = list(slices)
        self._check_number(listed, "rows of slices")
        outputs: list[list[Timed]] = [[] for _ in self._tracks]
        walks = {i: track.frames(done) for i, (track, done) in enumerate(zip(self._tracks, listed, strict=True))}
        frames = _next_of_each(walks)
        if not frames:  # the usual case where chunks are shorter than steps
            return outputs
        with evaluating(self.model):
            while frames:
                with self._naming(frames):
                    self._advance(
                        [(window, frame) for i, frame in frames.items() for window in self._tracks[i].windows]
                    )
                for i in frames:
                    track = self._tracks[i]
                    oldest = track.windows[0]
                    with self._naming([i]):
                        logits = track.end_step()
                    if all(window is not oldest for window in track.windows):
                        self._step.give_back(oldest.state)
                    if logits is not None:
                        outputs[i].append(self._timed(track, logits))
                frames = _next_of_each(walks)
        return outputs

    def warm_up(self) -> None:
        """Run one empty step that leaves no trace: kernels are loaded, or compiled, before events come."""
        with evaluating(self.model):
            self._advance([(Window(0), None)])

    def reset(self, stream: int | None = None) -> None:
        """Begin anew: one stream, or all of them where None.

        Raises:
            InputError: there is no such stream.

        """
        if stream is not None and (not is_whole(stream) or not -len(self) <= stream < len(self)):
            raise InputError(
                f"stream={stream!r}: expected the place of one of the {len(self)} streams, from 0 on, or None"
            )
        for track in self._tracks if stream is None else [self._tracks[stream]]:
            track.reset()

    def snapshot(self) -> dict[str, Any]:
        """Return the state of all streams as plain data: dicts, lists, numbers and NumPy arrays.

        The model's weights are not in it.
        """
        return {
            "format": snapshots.FORMAT,
            "settings": self._settings(),
            "streams": [track.snapshot() for track in self._tracks],
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to a snapshot, of this object or of one with the same model and settings.

        Raises:
            InputError: the snapshot is damaged, of other settings, or of another model; no stream has changed then.

        """
        snapshots.check_snapshot(snapshot, self._settings())
        first, second = (self._after(steps) for steps in (1, min(2, self.timing.num_frames)))
        snapshots.check_states(snapshot, first, second)
        for track, kept in zip(self._tracks, snapshot["streams"], strict=True):
            track.restore(kept, [Window.restored(window, *first) for window in kept["windows"]], first[0])

    def _settings(self) -> dict[str, Any]:
        preprocessing = self.model.preprocessing
        assert preprocessing is not None
        return {
            "streams": len(self),
            "window_us": self.timing.window_us,
            "num_frames": self.timing.num_frames,
            "hop_steps": self.timing.hop_steps,
            "stride_steps": self.timing.stride_steps,
            "decay": self._decay,
            "frame_size": list(preprocessing.frame_size),
            "num_classes": self.model.num_classes,
        }

    @contextmanager
    def _naming(self, streams: Iterable[int]) -> Iterator[None]:
        """Let an error at a step say which of these streams a change of the model stopped, and what to do."""
        try:
            yield
        except InputError as error:
            begun = [str(i) for i in streams if self._tracks[i].has_begun()]
            if not begun:
                raise
            which = "the stream" if len(self) == 1 else f"stream {' and '.join(begun)}"
            raise InputError(
                f"the model was changed while {which} ran, and cannot go on from the state after the steps before "
                f"({error}); expected the model as it was, or reset(), which begins anew"
            ) from error

    def _check_number(self, given: list[Any], what: str) -> None:
        if len(given) != len(self):
            raise InputError(f"got {len(given)} {what} for {len(self)} streams; expected one for each, None for none")

    def _advance(self, jobs: list[tuple[Window, Any]]) -> None:
        """Run one step of each window, in one call each or else those whose states allow it together."""
        known = self._step.look() if jobs else None
        if known == "all" or (known == "half" and len(jobs) == 1):
            for window, frame in jobs:
                window.logits, window.state = self._step.run(frame, window.state)
            return
        axes = self._axes() if len(jobs) > 1 else []
        groups: dict[Any, list[tuple[Window, Any]]] = {}
        for window, frame in jobs:
            key = None if window.state is None or not axes else trees.signature(window.state, axes)
            groups.setdefault(key, []).append((window, frame))
        for key, members in groups.items():
            frames = self._batch([frame for _, frame in members])
            if len(members) == 1:
                window = members[0][0]
                window.logits, window.state = self.model.advance(frames, window.state)
                continue
            before = None if key is None else trees.joined([window.state for window, _ in members], axes)
            logits, after = self.model.advance(frames, before)
            for index, (window, _) in enumerate(members):
                window.logits = logits[index : index + 1].clone()
                window.state = trees.sample(after, axes, index)

    def _batch(self, frames: list[Any]) -> Tensor:
        """Return the frames of a step side by side (1, N, 2, H, W), zeros for None."""
        assert self.model.preprocessing is not None
        weight = next(self.model.parameters(), torch.empty(0))
        batch = np.zeros((1, len(frames), 2, *self.model.preprocessing.frame_size), dtype=np.float32)
        for n, frame in enumerate(frames):
            if frame is not None:
                batch[0, n] = frame
        return torch.from_numpy(batch).to(weight)

    def _axes(self) -> list[int | None]:
        if self._batch_axes is None:
            self._batch_axes = trees.batch_axes(self._state_of(1), self._state_of(2))
        return self._batch_axes

    def _state_of(self, samples: int = 1) -> Any:
        """Return a state of the model for so many samples, to learn how it is made."""
        return self._after(1, samples)[1]

    def _after(self, steps: int, samples: int = 1) -> tuple[Tensor, Any]:
        """Return the logits (samples, K) and the state of the model after so many silent steps."""
        logits, state = torch.empty(0), None
        with evaluating(self.model):
            for _ in range(steps):
                logits, state = self.model.advance(self._batch([None] * samples), state)
        return logits, state

    def _timed(self, track: Track, logits: Tensor) -> Timed:
        return track.slicer.end_us(track.step - 1), self.model.predictions(logits)[0]


def _microseconds(t_us: object) -> int:
    try:
        return operator.index(t_us)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(f"t_us={t_us!r}: expected a whole number of microseconds") from None


def _next_of_each(walks: dict[int, Iterator[Any]]) -> dict[int, Any]:
    """Return the next item of every iterator by its key, and drop those that are at their end."""
    items = {}
    for key in list(walks):
        item = next(walks[key], _END)
        if item is _END:
            del walks[key]
        else:
            items[key] = item
    return items
