"""A model on a live source: one thread reads and cuts, the caller's runs the model, and neither waits for ever.

What the model cannot take in time is dropped in whole steps and counted, so memory and delay stay bounded whatever
comes in.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import numpy.typing as npt
import torch

from rsnn.errors import InputError
from rsnn.streaming.lag import Lag
from rsnn.streaming.slicer import Slice
from rsnn.streaming.sources import EventSource, open_source
from rsnn.streaming.stream import Stream

if TYPE_CHECKING:
    from rsnn.models import EventClassifier, Prediction

# Steps that may wait for the model. More would only make the predictions older.
WAITING_STEPS = 4
# The events' clock was set back if all that came for so long was late by more than a window: in a silence time goes on
# for one window at most, so whatever else is late is less so.
LATE_S = 0.25
LAST_READ_S = 0.5  # that a stopped reader is waited for: torn down inside native code it would abort the process


class _Mark(Enum):
    """What the reader says besides steps."""

    END = 0
    RESTART = 1


@dataclass(frozen=True)
class Seen:
    """One prediction on a live source.

    Attributes:
        t_us: time at which its last step ended, on the events' clock.
        prediction: what the model says.
        latency_ms: from the arrival of the chunk that completed the step to the prediction.
        events: how many have come so far.
        events_per_second: over the last half second or more.
        dropped: steps that were dropped so far, because the model was busy.
        late: events that were left out so far, because their step was complete.
        frame: counts (2, H, W) of the last step that had events.
        bad_packets: packets that were left out so far, because they hold no events of the sensor.
        restarts: how often the stream began anew so far, because the events' clock had been set back.

    """

    t_us: int
    prediction: Prediction
    latency_ms: float
    events: int
    events_per_second: float
    dropped: int
    late: int
    frame: npt.NDArray[np.float32]
    bad_packets: int = 0
    restarts: int = 0


@dataclass
class _Rate:
    """Events a second: over stretches of half a second or more, so that it does not flicker."""

    total: int = 0
    _since: float = field(default_factory=time.perf_counter)
    _before: int = 0
    _last: float | None = None

    def per_second(self) -> float:
        """Return the rate over the last whole stretch, or over the first one so far."""
        passed = time.perf_counter() - self._since
        rate = (self.total - self._before) / max(passed, 1e-6)
        if passed >= 0.5:
            self._since, self._before, self._last = self._since + passed, self.total, rate
        return rate if self._last is None else self._last


class Watch:
    """Iterates over the predictions of a stream that is fed from a source; stop it with `close` or `with`.

    Args:
        stream: fresh from `model.stream(...)`, and left to this object.
        source: where its events come from.

    Attributes:
        dropped: steps that were dropped so far, because the model was busy.
        restarts: how often the stream began anew so far, because the events' clock had been set back.

    """

    def __init__(self, stream: Stream, source: EventSource) -> None:
        self.stream = stream
        self.source = source
        self.dropped = 0
        self.restarts = 0
        self._late = 0  # events, before the last restart
        self._rate = _Rate()
        self._steps: queue.Queue[tuple[Slice | Exception | _Mark, float]] = queue.Queue(WAITING_STEPS)
        self._stopping = threading.Event()
        self._restarted = threading.Event()
        self._reader = threading.Thread(target=self._read, name="rsnn-watch", daemon=True)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading, and wait for the reader; a read that blocks is left to end with the process."""
        self._stopping.set()
        patience = time.perf_counter() + LAST_READ_S
        while self._reader.is_alive() and time.perf_counter() < patience:
            with suppress(queue.Empty):  # room for what it still wants to hand over
                self._steps.get_nowait()
            self._reader.join(0.005)

    def __iter__(self) -> Iterator[Seen]:
        """Start reading, and yield predictions until the source ends.

        Raises:
            RSNNError: what the source sends cannot be read.

        """
        self._reader.start()
        frame = None
        while not self._stopping.is_set():
            done, arrived = self._steps.get()
            if isinstance(done, Exception):
                raise done
            if done is _Mark.RESTART:
                self._late += self.stream.late
                self.restarts += 1
                self.stream.reset()
                self._restarted.set()
                continue
            timed = self.stream.run([done]) if isinstance(done, Slice) else self.stream.flush()
            if isinstance(done, Slice) and done.frame is not None:
                frame = done.frame
            for t_us, prediction in timed:
                latency = time.perf_counter() - arrived
                yield self._seen(t_us, prediction, latency, frame)
            if done is _Mark.END:
                return

    def _seen(self, t_us: int, prediction: Prediction, latency: float, frame: Any) -> Seen:
        height, width = self.stream.slicer.frame_size
        return Seen(
            t_us=t_us,
            prediction=prediction,
            latency_ms=1e3 * latency,
            events=self._rate.total,
            events_per_second=self._rate.per_second(),
            dropped=self.dropped,
            late=self._late + self.stream.late,
            frame=np.zeros((2, height, width), dtype=np.float32) if frame is None else frame,
            bad_packets=self.source.packets.bad if self.source.packets else 0,
            restarts=self.restarts,
        )

    def _read(self) -> None:
        """Cut what comes into steps (the reader's thread)."""
        try:
            slicer, window_us, lost = self.stream.slicer, self.stream.timing.window_us, 0
            lag, late_since = Lag(window_us), None
            for chunk in self.source.chunks:
                if self._stopping.is_set():
                    return
                now = time.perf_counter()
                now_us = round(1e6 * now)
                if chunk is None or not len(chunk):
                    lost = self._offer(slicer.close_until(lag.time_us(now_us)), now, lost)
                    continue
                self._rate.total += len(chunk)
                lost = self._offer(slicer.add(slicer.checked(chunk)), now, lost)
                assert slicer.span_us is not None
                lag.add(now_us, *slicer.span_us)
                if self.source.waits or slicer.span_us[1] >= slicer.end_us(slicer.step - 1) - window_us:
                    late_since = None
                elif late_since is None:
                    late_since = now
                elif now - late_since >= LATE_S:
                    self._restart()
                    lag, late_since, lost = Lag(window_us), None, 0
            if slicer.events:  # the open step ends with the source
                for done in slicer.close(slicer.step + 1):
                    self._steps.put((done._replace(lost=lost), time.perf_counter()))
            self._steps.put((_Mark.END, time.perf_counter()))
        except Exception as error:  # whatever it is, the caller's thread has to know
            self._steps.put((error, 0.0))

    def _restart(self) -> None:
        """Have the stream begin anew, and wait until it has."""
        self._steps.put((_Mark.RESTART, 0.0))
        while not self._restarted.wait(0.05):
            if self._stopping.is_set():
                return
        self._restarted.clear()

    def _offer(self, completed: Iterable[Slice], arrived: float, lost: int) -> int:
        """Hand steps to the model, unless that is busy; return how many were dropped since the last one handed."""
        for done in completed:
            item = (done._replace(lost=lost), arrived)
            try:
                self._steps.put(item, block=self.source.waits)
            except queue.Full:
                if done.frame is not None:
                    self.dropped += 1
                    lost += 1
            else:
                lost = 0
        return lost


def watch(
    model: EventClassifier,
    source: str,
    *,
    as_json: bool = False,
    window: float | None = None,
    hop: float | None = None,
    overlap: int = 1,
    decay: float = 0.0,
    sensor_size: tuple[int, int] | None = None,
    speed: float = 1.0,
    threads: int = 1,
    out: TextIO | None = None,
) -> None:
    """Run a model on a live source until that ends or the user interrupts, and show what it says.

    Args:
        model: any model of the library with a preprocessing.
        source, sensor_size, speed: as in [`open_source`][rsnn.streaming.sources.open_source].
        as_json: write a line of JSON for each prediction, instead of a live view or, where `out` is no terminal, plain
            lines.
        threads: that share the model's work. One step of a small model is too little for two, and a thread that waits
            for another waits for whatever else the machine does.
        window, hop: in seconds; they, `overlap` and `decay` as in `model.stream`.
        out: where to write; standard output by default.

    Raises:
        RSNNError: the source cannot be opened or read, standard output is closed, or an option is out of its range.
        OSError: the output cannot be written.

    """
    written = out or sys.stdout
    if written is None:
        raise InputError("standard output is closed; expected a terminal, a file or another program to write to")
    # A bad option shows before a port is taken.
    frame_size = model.stream(window=window, hop=hop, overlap=overlap, decay=decay).slicer.frame_size
    opened = open_source(source, sensor_size=sensor_size, frame_size=frame_size, speed=speed)
    stream = model.stream(window=window, hop=hop, overlap=overlap, decay=decay, sensor_size=opened.sensor_size)
    names = model.class_names or tuple(map(str, range(model.num_classes or 0)))
    try:
        with _undisturbed(threads), _terminated_as_interrupted(), Watch(stream, opened) as seen:
            stream.warm_up()
            if as_json:
                write_json(seen, names, written)
            else:
                from rsnn.streaming.view import show

                show(seen, names, source, written)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # who read our lines has seen enough, as `head` has
        if out is None:  # or Python would complain once more when it closes it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end the process as Ctrl-C does, for a while: with its cursor shown and its port given back."""
    alone = threading.current_thread() is threading.main_thread()
    if not alone or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # somebody else's
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _undisturbed(threads: int) -> Iterator[None]:
    """Set the process up for answers in time, for a while.

    A full garbage collection looks at everything that was ever imported, which takes time: what is there already is
    left out. The reader gives the interpreter back to the model after half a millisecond, not five.
    """
    former, interval = torch.get_num_threads(), sys.getswitchinterval()
    gc.collect()
    gc.freeze()
    torch.set_num_threads(threads)
    sys.setswitchinterval(0.0005)
    try:
        yield
    finally:
        gc.unfreeze()
        torch.set_num_threads(former)
        sys.setswitchinterval(interval)


def write_json(watched: Watch, names: tuple[str, ...], out: TextIO) -> None:
    """Write each prediction as one line of JSON, at once."""
    plain = not can_write(out, "".join(names))
    for seen in watched:
        shares = seen.prediction.probabilities.tolist()
        line = {
            "t_us": seen.t_us,
            "label": seen.prediction.label,
            "index": seen.prediction.index,
            "probabilities": dict(zip(names or map(str, range(len(shares))), shares, strict=True)),
            "latency_ms": round(seen.latency_ms, 3),
            "events": seen.events,
            "events_per_second": round(seen.events_per_second),
            "dropped": seen.dropped,
            "late": seen.late,
            "bad_packets": seen.bad_packets,
            "restarts": seen.restarts,
        }
        out.write(json.dumps(line, ensure_ascii=plain) + "\n")
        out.flush()


def can_write(out: TextIO, text: str) -> bool:
    """Tell whether a file's encoding has all the characters of a text."""
    try:
        text.encode(out.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
