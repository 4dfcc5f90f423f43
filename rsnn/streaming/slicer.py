"""Events into the frames of a stream's steps, with memory for the one step that is still open.

Letters: n events, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rsnn.data import EVENT_DTYPE, Events
from rsnn.data.events import as_integers, check_sensor_size, find_fault
from rsnn.data.frames import pixel_index
from rsnn.errors import InputError, RecordingError
from rsnn.streaming.clock import Clock
from rsnn.streaming.timing import Timing

if TYPE_CHECKING:
    from rsnn.models import Preprocessing

Chunk = Events | npt.NDArray[Any]


class Slice(NamedTuple):
    """A complete step; steps between it and the one before it are silent.

    Attributes:
        step: its number.
        frame: its counts (2, H, W) float32, None if it is silent.
        events: how many.
        lost: how many steps before it were dropped, with their events; then those between it and the one before it
            are not run at all, silent or not.

    """

    step: int
    frame: npt.NDArray[np.float32] | None
    events: int
    lost: int = 0


class Slicer:
    """Adds events into the open step; a later event (or `close`) completes it.

    The rules for timestamps, of which there is exactly one for every event:

    - The first event begins the stream: step 0 starts at its time.
    - Events of one chunk may come in any order: they are sorted by time first.
    - An event of the open step counts, wherever its time lies between those of the others, so two chunks may overlap
      within it.
    - An event of a step that is complete is late: it is left out and counted in `late`.
    - Equal times, and events equal in everything, are as many events: a pixel may fire twice in a microsecond.
    - 32-bit timestamps run over as [`Clock`][rsnn.streaming.clock.Clock] says.
    - An event later than the open step completes it, however much later; steps between the two are silent.

    Args:
        preprocessing: the model's: size of the frames, and how larger sensors are cropped and scaled to it.
        timing: how the stream is cut.
        sensor_size: (width, height); by default that of the first events, and the frames' for structured arrays.

    Attributes:
        origin_us: time of the first event, None before it.
        step: number of the open step; all before it are complete.
        events: how many the open step has.
        late: events left out because their step was complete.
        span_us: times of the first and the last event of the chunk that was added last, None before one was.

    """

    def __init__(
        self, preprocessing: Preprocessing, timing: Timing, sensor_size: tuple[int, int] | None = None
    ) -> None:
        self._preprocessing = preprocessing
        self._timing = timing
        self._given_sensor_size = None if sensor_size is None else check_sensor_size(sensor_size)
        if self._given_sensor_size is not None:
            preprocessing.cropped(Events.empty(self._given_sensor_size))  # that it is no smaller than the frames
        self._fitting_size: tuple[int, int] | None = None  # of a sensor that is known to be no smaller than the frames
        self.reset()

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of the frames."""
        return self._preprocessing.frame_size

    def reset(self) -> None:
        """Begin anew, as if no event had come."""
        height, width = self._preprocessing.frame_size
        self._clock = Clock()
        self._sensor_size = self._given_sensor_size
        self._counts = np.zeros((2, height, width), dtype=np.float32)
        self.events = 0
        self.origin_us: int | None = None
        self.step = 0
        self.late = 0
        self.span_us: tuple[int, int] | None = None
        self._given = 0  # events that were added, late ones too

    def end_us(self, step: int) -> int:
        """Return the time at which a step ends, on the time line that does not run over."""
        return (self.origin_us or 0) + self._timing.start_us(step + 1)

    def checked(self, chunk: Chunk) -> Events | npt.NDArray[Any]:
        """Return the chunk, if it is one.

        Raises:
            InputError: it is neither Events nor a structured array of integers with fields t, x, y and p, or of another
                sensor, or one smaller than the frames.
            RecordingError: an event lies outside the sensor; the message says which of the stream it is.

        """
        if isinstance(chunk, Events):
            if self._sensor_size not in (None, chunk.sensor_size):
                raise InputError(
                    f"the stream's events come from a sensor of {self._sensor_size}, and these from one of "
                    f"{chunk.sensor_size}; expected one sensor a stream: reset() it first"
                )
            if chunk.sensor_size != self._fitting_size:
                self._preprocessing.cropped(chunk[:0])
                self._fitting_size = chunk.sensor_size
            return chunk
        fields = getattr(getattr(chunk, "dtype", None), "names", None) or ()
        if not set("txyp") <= set(fields) or getattr(chunk, "ndim", 0) != 1:
            of = f" with the fields {', '.join(fields)}" if fields else ""
            raise InputError(
                f"a stream got a {type(chunk).__name__}{of}; expected rsnn.Events, or a structured array (n,) with the "
                "fields t, x, y and p"
            )
        height, width = self._preprocessing.frame_size
        size = self._sensor_size or (width, height)
        # The times are checked for their type and size alone: their order does not matter.
        still = {"t": np.zeros_like(as_integers("t", chunk["t"])), **{name: chunk[name] for name in "xyp"}}
        try:
            events = Events(**still, sensor_size=size)
        except RecordingError:
            fault = find_fault(**still, sensor_size=size)
            assert fault is not None
            named = "sensor_size=(width, height)"
            remedy = fault.remedy.replace(named, f"{named}, or --sensor-size WIDTHxHEIGHT to the command,")
            raise RecordingError(
                f"event {self._given + fault.event} of the stream (the first is event 0): {fault.found}; {remedy}"
            ) from None
        self._preprocessing.cropped(events)
        return chunk

    def add(self, chunk: Events | npt.NDArray[Any]) -> Iterator[Slice]:
        """Add a chunk that `checked` returned, and yield the steps that it completes; the last of a silence for all."""
        if not len(chunk):
            return
        self._given += len(chunk)
        t, events = self._in_order(chunk)
        self.span_us = int(t[0]), int(t[-1])
        if self.origin_us is None:
            self.origin_us = int(t[0])
        open_since = self.origin_us + self._timing.start_us(self.step)
        late = 0 if t[0] >= open_since else int(np.searchsorted(t, open_since))
        self.late += late
        if late == len(t):
            return
        edges = [late]
        if t[-1] >= self.end_us(self.step):
            steps = (t[late:] - self.origin_us) * self._timing.num_frames // self._timing.window_us
            edges += (late + 1 + np.flatnonzero(np.diff(steps))).tolist()
        for first, end in zip(edges, [*edges[1:], len(t)], strict=True):
            yield from self.close(self._timing.step_at(int(t[first]) - self.origin_us))
            self._count(events[first:end])

    def close(self, step: int) -> Iterator[Slice]:
        """Make `step` the open one, unless a later one is, and yield what that completes."""
        if step <= self.step:
            return
        done, events = self.step, self.events
        self.step = step
        if events:
            frame, self._counts, self.events = self._counts, np.zeros_like(self._counts), 0
            yield Slice(done, frame, events)
        if step - 1 > done or not events:
            yield Slice(step - 1, None, 0)

    def close_until(self, t_us: int) -> Iterator[Slice]:
        """Complete the steps that end by the time `t_us`; before the first event there are none."""
        if self.origin_us is not None and t_us >= self.origin_us:
            yield from self.close(self._timing.step_at(t_us - self.origin_us))

    def _in_order(self, chunk: Events | npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], Events]:
        """Return times that do not run over, non-decreasing, and the events they belong to."""
        if isinstance(chunk, Events):
            self._sensor_size = chunk.sensor_size
        elif self._sensor_size is None:
            height, width = self._preprocessing.frame_size
            self._sensor_size = (width, height)
        given = np.asarray(chunk.t if isinstance(chunk, Events) else chunk["t"], dtype=np.int64)
        t = self._clock.times(given)
        if isinstance(chunk, Events) and t is given:  # sorted as they came
            return t, chunk
        order = None if bool((t[1:] >= t[:-1]).all()) else np.argsort(t, kind="stable")
        if order is not None:
            t = t[order]
        elif isinstance(chunk, Events):
            return t, chunk
        columns = {name: getattr(chunk, name) if isinstance(chunk, Events) else chunk[name] for name in "xyp"}
        if order is not None:
            columns = {name: column[order] for name, column in columns.items()}
        return t, Events(t=t, **columns, sensor_size=self._sensor_size)

    def _count(self, events: Events) -> None:
        inside = self._preprocessing.cropped(events)
        if len(inside):
            np.add.at(self._counts.reshape(-1), pixel_index(inside, *self._preprocessing.frame_size), np.float32(1))
            self.events += len(inside)

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain data: numbers, tuples and one array."""
        return {
            "clock": self._clock.snapshot(),
            "sensor_size": self._sensor_size,
            "counts": self._counts.copy(),
            "events": self.events,
            "origin_us": self.origin_us,
            "step": self.step,
            "late": self.late,
            "given": self._given,
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to a snapshot."""
        self._clock.restore(snapshot["clock"])
        self._sensor_size = None if snapshot["sensor_size"] is None else tuple(snapshot["sensor_size"])
        self._counts = np.array(snapshot["counts"], dtype=np.float32)
        self.events = snapshot["events"]
        self.origin_us, self.step, self.late = snapshot["origin_us"], snapshot["step"], snapshot["late"]
        self.span_us = None
        self._given = snapshot["given"]


def as_array(t: npt.ArrayLike, x: npt.ArrayLike, y: npt.ArrayLike, p: npt.ArrayLike) -> npt.NDArray[np.void]:
    """Return columns in any order of time as a structured array that `add` takes."""
    times = np.asarray(t)
    array = np.empty(times.size, dtype=EVENT_DTYPE)
    for name, column in zip("txyp", (times, x, y, p), strict=True):
        array[name] = column
    return array
