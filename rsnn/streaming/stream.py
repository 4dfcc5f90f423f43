"""A model on one stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from rsnn.data import Events
from rsnn.streaming.batch import StreamBatch, Timed
from rsnn.streaming.slicer import Slice, Slicer
from rsnn.streaming.timing import Timing

if TYPE_CHECKING:
    from rsnn.models import EventClassifier


class Stream:
    """One stream through a model; what `model.stream()` returns.

    ```python
    stream = model.stream()
    for chunk in camera:
        for t_us, prediction in stream.push(chunk):
            print(t_us, prediction.label)
    ```

    Args:
        model: see [`StreamBatch`][rsnn.streaming.StreamBatch].
        options: `window_us`, `hop_us`, `overlap`, `decay` and `sensor_size` of it.

    Raises:
        InputError: an argument is out of its range, or the model cannot cut a stream.

    """

    def __init__(self, model: EventClassifier, **options: Any) -> None:
        self._batch = StreamBatch(model, 1, **options)

    @property
    def timing(self) -> Timing:
        """How the stream is cut."""
        return self._batch.timing

    @property
    def slicer(self) -> Slicer:
        """What cuts the stream."""
        return self._batch.slicers[0]

    @property
    def late(self) -> int:
        """Events that were left out because they came after their step was complete."""
        return self._batch.late[0]

    def push(self, events: Events | npt.NDArray[Any]) -> list[Timed]:
        """Add a chunk of events, none or one or many, and return the predictions that became due.

        Args:
            events: `Events`, or a structured array with the fields t, x, y and p in any order of time.

        Returns:
            pairs of the time at which a prediction's last step ended, in microseconds of the events' clock, and the
            prediction.

        Raises:
            InputError: it is no events, or of another sensor than the ones before; or the model was changed since, so
                that it cannot go on.
            RecordingError: an event of an array lies outside the sensor.

        """
        return self._batch.push([events])[0]

    def run(self, slices: Iterable[Slice]) -> list[Timed]:
        """Run steps that `slicer` completed, for callers who slice and run in two threads."""
        return self._batch.run([slices])[0]

    def advance_to(self, t_us: int) -> list[Timed]:
        """Let time pass without events, up to `t_us`: a sensor may be silent.

        Raises:
            InputError: it is no whole number of microseconds.

        """
        return self._batch.advance_to(t_us)[0]

    def flush(self) -> list[Timed]:
        """End the open step now, and predict from what there is, between two hops too: for the end of a recording."""
        return self._batch.flush()[0]

    def warm_up(self) -> None:
        """Run one empty step that leaves no trace: kernels are loaded, or compiled, before events come."""
        self._batch.warm_up()

    def reset(self) -> None:
        """Begin anew, as if no event had come."""
        self._batch.reset()

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain data: dicts, lists, numbers and NumPy arrays."""
        return self._batch.snapshot()

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to a snapshot, of this stream or of one with the same model and settings.

        Raises:
            InputError: the snapshot is damaged, of other settings, or of another model; the stream is as it was then.

        """
        self._batch.restore(snapshot)
