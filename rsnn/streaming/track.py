"""One stream's bookkeeping: which windows run, what each has seen, and which prediction is due.

Letters: K classes, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rsnn.errors import InputError
from rsnn.streaming import trees
from rsnn.streaming.slicer import Slice, Slicer
from rsnn.streaming.snapshots import to_array
from rsnn.streaming.timing import Timing


@dataclass
class Window:
    """A window that runs: its first step, the model's state in it, and how many events it has seen."""

    start: int
    state: Any = None
    events: int = 0
    logits: Tensor | None = None

    def snapshot(self) -> dict[str, Any]:
        """Return the window as plain data."""
        return {
            "start": self.start,
            "events": self.events,
            "logits": to_array(self.logits),
            "state": [to_array(leaf) for leaf in trees.leaves(self.state)],
        }

    @classmethod
    def restored(cls, snapshot: dict[str, Any], like: Tensor, template: Any) -> Window:
        """Return the window of a snapshot.

        Args:
            snapshot: what `snapshot` returned, of a model whose states are made as the template is.
            like: any logits of the model, which may be of another type than its weights.
            template: any state of the model.

        """
        state = logits = None
        if snapshot["logits"] is not None:
            state = _restored(template, snapshot["state"])
            logits = torch.from_numpy(snapshot["logits"]).to(like)
        return cls(snapshot["start"], state, snapshot["events"], logits)


class Track:
    """One stream's bookkeeping, between its slicer and the model that it shares with others.

    Args:
        slicer: what cuts the stream.
        timing: how it is cut.
        decay: weight that earlier predictions keep in the running logits, per hop.

    """

    def __init__(self, slicer: Slicer, timing: Timing, decay: float) -> None:
        self.slicer = slicer
        self.timing = timing
        self.decay = decay
        self.reset()

    def reset(self) -> None:
        """Begin anew, as if no event had come."""
        self.slicer.reset()
        self.windows: list[Window] = []  # oldest first
        self.step = 0  # the next to run
        self.silent = 0  # steps without events before it
        # Logits of the predictions so far, each weighted with decay ** (hops since), and the sum of these weights.
        self.evidence: Tensor | None = None
        self.weight = 0.0

    def has_begun(self) -> bool:
        """Tell whether something is kept of the steps before the next one."""
        return self.evidence is not None or any(window.start < self.step for window in self.windows)

    def frames(self, slices: Iterable[Slice]) -> Iterator[npt.NDArray[np.float32] | None]:
        """Yield the frame of every step up to the last slice, None where it is silent; windows begin on the way."""
        for done in slices:
            if done.lost:
                self._skip(done.step)
            silent_until = done.step if done.frame is not None else done.step + 1
            while self.step < silent_until:
                yield from self._silence(silent_until)
            if done.frame is not None:
                self.silent = 0
                self._begin(done.events)
                yield done.frame

    def _silence(self, end: int) -> Iterator[None]:
        """Yield one silent step before `end`, after those that need not be run."""
        if self.silent >= self.timing.num_frames:
            # Every running window began in silence, so `stride_steps` more of it change no state, only the numbers.
            skipped = (end - self.step) // self.timing.stride_steps * self.timing.stride_steps
            for window in self.windows:
                window.start += skipped
            self._pass(skipped)
        if self.step < end:
            self.silent += 1
            self._begin(0)
            yield None

    def _skip(self, step: int) -> None:
        """Go on to `step` without running those before it."""
        T = self.timing.num_frames
        self._pass(max(0, step - T - self.step))
        self.windows = [window for window in self.windows if self.step < window.start + T]
        while self.step < step:
            self._begin(0)
            self._pass(1)
            self.windows = [window for window in self.windows if self.step < window.start + T]
        self.silent = 0

    def _begin(self, events: int) -> None:
        if self.step % self.timing.stride_steps == 0:
            self.windows.append(Window(self.step))
        for window in self.windows:
            window.events += events

    def _pass(self, steps: int) -> None:
        hop = self.timing.hop_steps
        hops = (self.step + steps) // hop - self.step // hop
        self.step += steps
        self._fade(hops)

    def end_step(self) -> Tensor | None:
        """Go on to the next step; return the running logits (1, K) where a prediction is due."""
        self._pass(1)
        oldest = self.windows[0]
        due = self.step % self.timing.hop_steps == 0
        logits = self._weighed(oldest) if due else None
        if self.step == oldest.start + self.timing.num_frames:
            del self.windows[0]
        return logits

    def due_early(self) -> Tensor | None:
        """Return the running logits (1, K) between two hops, without any effect on those at the next one."""
        if self.step % self.timing.hop_steps == 0 or not self.windows:
            return None
        evidence, weight = self.evidence, self.weight
        self._fade(1)
        logits = self._weighed(self.windows[0])
        self.evidence, self.weight = evidence, weight
        return logits

    def _fade(self, hops: int) -> None:
        if hops and self.evidence is not None:
            factor = self.decay**hops
            self.evidence, self.weight = (self.evidence * factor, self.weight * factor) if factor else (None, 0.0)

    def _weighed(self, window: Window) -> Tensor | None:
        if window.events == 0 or window.logits is None:  # silence says nothing
            return None
        if self.evidence is not None and self.evidence.shape != window.logits.shape:
            raise InputError(f"logits of {window.logits.shape[1]} classes, and of {self.evidence.shape[1]} before")
        self.evidence = window.logits if self.evidence is None else self.evidence + window.logits
        self.weight += 1.0
        return self.evidence / self.weight

    def snapshot(self) -> dict[str, Any]:
        """Return everything of the stream as plain data."""
        return {
            "slicer": self.slicer.snapshot(),
            "step": self.step,
            "silent": self.silent,
            "evidence": to_array(self.evidence),
            "weight": self.weight,
            "windows": [window.snapshot() for window in self.windows],
        }

    def restore(self, snapshot: dict[str, Any], windows: list[Window], like: Tensor) -> None:
        """Go back to a snapshot, whose windows are restored already."""
        self.slicer.restore(snapshot["slicer"])
        self.step, self.silent, self.weight = snapshot["step"], snapshot["silent"], snapshot["weight"]
        self.evidence = None if snapshot["evidence"] is None else torch.from_numpy(snapshot["evidence"]).to(like)
        self.windows = windows


def _restored(template: Any, values: list[Any]) -> Any:
    """Return a state made as `template` is, with other leaves."""
    rest = iter(values)

    def leaf(like: Any) -> Any:
        value = next(rest)
        return torch.from_numpy(np.array(value)).to(like) if isinstance(like, Tensor) else value

    return trees.mapped(template, leaf)
